"""Questions about what is heard (or seen), by short answer or multiple choice, scored by accuracy."""

import re
import string

from autoreap.samples import Sample
from autoreap.scores import Counts
from autoreap.tasks.normalise import units

NAME = "audio_qa"
METRIC = "accuracy"
DIRECTION = "maximize"
REQUIRED: tuple[str, ...] = ("question", "answer")
QUESTION = "{question}\n{lettered}"

# More words may follow on the same line only after a mark: "B. dog" names B, "A dog barks" names nothing.
_LETTER = re.compile(r"\(?([A-Za-z])(?:[.:)]+(?:\s.*)?|\s*\n.*)?", re.DOTALL)


def reference(sample: Sample) -> str:
    """The answer."""
    return sample.answer or ""


def question(sample: Sample, template: str) -> str:
    """The row's question in `template`: `{choices}` lists the choices in a line, `{lettered}` as A., B., ... below.

    The template is for rows with choices; an open question is asked as it stands.
    """
    if not sample.choices:
        return sample.question or ""
    lettered = "\n".join(
        f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, sample.choices, strict=False)
    )
    return template.format(question=sample.question, choices=", ".join(sample.choices), lettered=lettered)


def judge(sample: Sample, output: str) -> tuple[Counts, bool]:
    """(1 if right, 1). A choice may be named by its text or its letter; what names none is wrong, and has failed."""
    if not sample.choices:
        return Counts(int(_same(output, reference(sample), sample.language)), 1), not output.strip()
    chosen = _choice(sample, output)
    if chosen is None:
        return Counts(0, 1), True
    return Counts(int(_same(chosen, _spelt_out(sample), sample.language)), 1), False


def _choice(sample: Sample, output: str) -> str | None:
    for choice in sample.choices:
        if _same(choice, output, sample.language):
            return choice
    letter = _LETTER.fullmatch(output.strip())
    number = string.ascii_uppercase.index(letter[1].upper()) if letter else len(sample.choices)
    return sample.choices[number] if number < len(sample.choices) else None


def _spelt_out(sample: Sample) -> str:
    """The right choice's text, also where the row gives its letter."""
    return _choice(sample, reference(sample)) or reference(sample)


def _same(first: str, second: str, language: str | None) -> bool:
    # Fillers such as "um" normalise to nothing, which is not what an empty output means.
    compared = [units(text, language) or [text.strip().casefold()] for text in (first, second)]
    return compared[0] == compared[1]
