"""What an answer names: one of the choices, or yes or no. What names nothing, or more than one, names None."""

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence

from autoreap.data.tasks.normalise import plain, units

# Two letters joined name none: "A. Cat or B. Dog".
_JOINED = r"(?:\band\b|\bor\b|和|或|与|,|、|/|&)\W*[A-Z](?![A-Za-z])"
# More words may follow on the same line only after a mark: "B. dog" names B, "A dog barks" names nothing.
_LETTER = re.compile(
    rf"(?!.*{_JOINED})\(?([A-Za-z])(?:[.:)、。]+(?:\s.*|[^\x00-\x7f].*)?|[.:)、。,!\s]+|\s*\n.*)?", re.DOTALL
)
# After words that announce an answer a capital will do, but for the article of "A dog".
_ANNOUNCED_LETTER = re.compile(rf"[\"'(\[]*([B-HJ-Z]|[AI](?!\s+[a-z]))(?![A-Za-z])(?!\W*{_JOINED})")
_ANNOUNCED = re.compile(
    r"\b(?:answer|option|choice)(?: is|:| would be)\s*:?\s*(?:(?:option|choice)\s+)?"
    r"|\b(?:option|choice)\s+(?=\(?[A-Z]\b)"
    r"|(?:答案|选项)(?:应该|应)?[是为:]?\s*:?\s*(?:选项|选)?|(?<!可)选择?[:\s]*(?!项)",
    re.IGNORECASE,
)
_WRAPPINGS = " \t\r\n\"'“”‘’„«»‹›「」『』《》`<>[]"

_YES = frozenset({"yes", "yeah", "yep", "是", "是的", "对", "对的"})
_NO = frozenset({"no", "nope", "否", "不", "不是", "不是的", "不对"})
_CLAUSE_ENDS = re.compile(r"[,.;:!?\n，。；！？、]+")
_JOINTS = frozenset({"and", "or", "but"})


def same(first: str, second: str, language: str | None) -> bool:
    """Whether two texts differ in nothing that counts."""
    # Fillers such as "um" normalise to nothing, which is not what an empty output means.
    ours = units(first, language) or [_as_it_stands(first)]
    theirs = units(second, language) or [_as_it_stands(second)]
    return ours == theirs


def _as_it_stands(text: str) -> str:
    return unicodedata.normalize("NFKC", plain(text)).strip().casefold()


def readings(output: str) -> Iterator[str]:
    """`output` as it stands, then what follows "the answer is" or "答案是" in it."""
    whole = unicodedata.normalize("NFKC", plain(output)).replace("*", "").strip(_WRAPPINGS)
    yield whole
    for announced in _ANNOUNCED.finditer(whole):
        yield whole[announced.end() :].strip()


def chosen(choices: Sequence[str], output: str, language: str | None) -> int | None:
    """The number of the choice that `output` names by its text or its letter."""
    # What the whole answer names counts before what a part of it announces.
    whole, *announced = readings(output)
    number = _by_text(choices, whole, language)
    if number is None:
        number = _by_letter(choices, _LETTER.fullmatch(whole))
    if number is not None:
        return number
    # "Yes, I do" names the choice "Yes".
    polarities = [yes_or_no(choice) for choice in choices]
    if None not in polarities and (said := yes_or_no(output)) in polarities:
        return polarities.index(said)
    numbers = set()
    for reading in announced:
        number = _by_text(choices, reading, language)
        if number is None:
            number = _by_letter(choices, _LETTER.fullmatch(reading) or _ANNOUNCED_LETTER.match(reading))
        if number is not None:
            numbers.add(number)
    if len(numbers) != 1:
        return None
    return numbers.pop()


def yes_or_no(output: str) -> bool | None:
    """Whether `output` begins by saying yes or no, and does not also say the other."""
    for reading in readings(output):
        polarity = _polarity(reading)
        if polarity is not None:
            return polarity
    return None


def _polarity(reading: str) -> bool | None:
    first, *others = [clause.casefold().split() for clause in _CLAUSE_ENDS.split(reading)]
    if not first or first[0] not in _YES | _NO:
        return None
    said = set(first)
    for clause in others:
        # A clause with other words in it answers nothing: "No, yes is what the other speaker says."
        if set(clause) <= _YES | _NO | _JOINTS:
            said.update(clause)
    if said & _YES and said & _NO:
        return None
    return bool(said & _YES)


def _by_text(choices: Sequence[str], text: str, language: str | None) -> int | None:
    # C and C++ differ in marks alone, which count only where they must.
    for number, choice in enumerate(choices):
        if _as_it_stands(choice) == _as_it_stands(text):
            return number
    found = [number for number, choice in enumerate(choices) if same(choice, text, language)]
    if len(found) != 1:
        return None
    return found[0]


def _by_letter(choices: Sequence[str], letter: re.Match[str] | None) -> int | None:
    if letter is None:
        return None
    number = string.ascii_uppercase.index(letter[1].upper())
    if number >= len(choices):
        return None
    return number
