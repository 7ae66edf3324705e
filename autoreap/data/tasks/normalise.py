"""Text as it is compared: case, punctuation and spelling variants must not count as errors.

After the normalisers of the Open ASR leaderboard (github.com/huggingface/open_asr_leaderboard, `normalizer/`):

- English: Whisper's (Radford et al., 2022, appendix C) with its spelling map, and dotted initials joined (U.S.A., USA).
  The leaderboard also expands some more contractions.
- Chinese, Japanese and Thai: NFKC (full-width forms become ordinary ones), lower case, no `[...]` and `<...>`, no
  punctuation, 〇 as 零. The leaderboard also makes traditional characters simplified and spells numbers out, each by a
  library of its own; here they are compared as written. It counts the letters of Latin words, `units` the words.
- Every other language: the same, and no `(...)` either. Accents and combining marks stay, which carry the vowels of
  Hindi; the leaderboard drops accents by default, spells numbers out and joins compounds.

Before that, what looks or sounds the same is made the same (`plain`): invisible characters, apostrophes, full-width
forms. Letters of scripts that are written without spaces are counted one by one, whatever the language.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

from autoreap.data.languages import primary_language

_SPOKEN_PARENTHESES = frozenset(["zh", "yue", "wuu", "nan", "hak", "gan", "hsn", "cdo", "lzh", "ja", "th"])
_INITIALS = re.compile(r"\b([a-z])\.(?=[a-z]\b)", re.IGNORECASE)
_ASIDES = re.compile(r"[<\[][^>\]]*[>\]]")
_PARENTHESES = re.compile(r"\([^)]+?\)")

# Scripts that are written without spaces between words.
_WITHOUT_SPACES = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U00020000-\U0003ffff\u3041-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"  # Han, Kana
    "\u3100-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan; Burmese; Khmer
    "\u1950-\u1a1f\u1a20-\u1aaf\u1b00-\u1b7f"  # Tai Le, New Tai Lue, Buginese; Tai Tham; Balinese
    "\ua980-\ua9ff\uaa60-\uaadf"  # Javanese, more Burmese, Tai Viet
)
_UNIT = re.compile(f"[{_WITHOUT_SPACES}]|[^{_WITHOUT_SPACES}]+")

# Neither seen nor heard: controls that are no white space, format characters, selectors of a glyph, fillers of Hangul
# and Khmer. Numbers and signs of Arabic that enclose others are of the same category, but are seen.
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_JOINERS = re.compile("[\u200c\u200d]+")
_NON_JOINER = "\u200c"
_ENCLOSING = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2]")
_ARABIC = re.compile("[\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f\u08a0-\u08c7]")
# Arabic letters that join to no letter after them: a non-joiner there is not seen.
_JOIN_NOT_ONWARDS = "اأإآٱدذرزژوؤةڈڑړۆۇۈۋےۀ"
_VIRAMA = 9  # its combining class

_FULL_WIDTH = {0xFF01 + number: 0x21 + number for number in range(94)}
_APOSTROPHES = re.compile("[’ʼʻ‛՚ꞌ]|(?<=[^\\W\\d_])[‘`´′ʹ](?=[^\\W\\d_])")
# Two ways to write a letter: finals of Malayalam and Bengali as one character or with a joiner, Arabic drawn long, the
# last sigma of a word, and what is left of a dotted capital in lower case.
_LETTERS = {
    **{"ണ്\u200d": "ൺ", "ന്\u200d": "ൻ", "ര്\u200d": "ർ", "ല്\u200d": "ൽ", "ള്\u200d": "ൾ", "ക്\u200d": "ൿ"},
    **{"ত্\u200d": "ৎ", "ـ": "", "ς": "σ", "i\u0307": "i"},
}
# Where a language's case differs from Unicode's, and the letters that its writers put for one another.
_DOTTED = {"I": "ı", "İ": "i"}
_PERSIAN = {"ي": "ی", "ى": "ی", "ك": "ک"}
_OF_LANGUAGE = {
    **dict.fromkeys(("tr", "az", "crh", "gag"), _DOTTED),
    "ro": {"ş": "ș", "Ş": "ș", "ţ": "ț", "Ţ": "ț"},
    **dict.fromkeys(("fa", "ur", "ckb"), _PERSIAN),
}


def units(text: str, language: str | None) -> list[str]:
    """The words of `text`, normalised; of scripts without spaces the characters. No `language` is English.

    Example:
        >>> units("Dr. Brown won't change colours!", "en")
        ['doctor', 'brown', 'will', 'not', 'change', 'colors']
        >>> units("现在几点？", "zh")
        ['现', '在', '几', '点']
    """
    return list(_units(text, primary_language(language)))


def characters(text: str, language: str | None) -> list[str]:
    """The characters of `text`, normalised; spaces do not count."""
    return list("".join(_units(text, primary_language(language))))


def plain(text: str) -> str:
    """`text` without what is not seen, with one kind of apostrophe, and ordinary letters for full-width ones.

    Joiners stay where they are seen: between letters of Arabic that would join, and behind a virama.
    """
    if text.isascii() and not _INVISIBLE.search(text):
        return text
    text = _ENCLOSING.sub(" ", _INVISIBLE.sub("", text))
    text = unicodedata.normalize("NFC", text.translate(_FULL_WIDTH))
    text = _replaced(text, _LETTERS)
    text = _JOINERS.sub(_seen_joiner, text)
    return _APOSTROPHES.sub("'", text).replace("…", "...")


def _seen_joiner(joiners: re.Match[str]) -> str:
    before = joiners.string[: joiners.start()][-1:]
    after = joiners.string[joiners.end() :][:1]
    joiner = joiners[0][0]
    if not before or not after.isalpha():
        return ""
    if unicodedata.combining(before) == _VIRAMA:
        return joiner
    would_join = _ARABIC.match(before) and before not in _JOIN_NOT_ONWARDS and _ARABIC.match(after)
    if joiner == _NON_JOINER and would_join:
        return joiner
    return ""


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


# The same references are compared for every candidate, and most of the answers.
@lru_cache(maxsize=1 << 16)
def _units(text: str, language: str) -> tuple[str, ...]:
    text = plain(text)
    if language == "en":
        text = unicodedata.normalize("NFC", str(_english()(_INITIALS.sub(r"\1", text))))
    else:
        text = _ASIDES.sub("", text)
        if language not in _SPOKEN_PARENTHESES:
            text = _PARENTHESES.sub("", text)
        text = _bare(text, language)
        if language in _SPOKEN_PARENTHESES:
            text = text.replace("〇", "零")
    found: list[str] = []
    for word in text.split():
        if word.strip("."):  # Whisper's leaves the second of two full stops
            found += _UNIT.findall(word)
    return tuple(found)


def _bare(text: str, language: str) -> str:
    """Lower case, the digits of every script as 0 to 9, every symbol and mark of punctuation a space."""
    text = unicodedata.normalize("NFKC", text)
    text = _replaced(text, _OF_LANGUAGE.get(language, {})).lower()
    text = _replaced(unicodedata.normalize("NFKC", text), _LETTERS)
    found = ""
    for character in text:
        # Unicode's categories: Nd digits, S symbols, P punctuation, M marks on the letter before them.
        kind = unicodedata.category(character)
        if kind == "Nd":
            found += str(unicodedata.decimal(character))
        elif kind[0] in "SP" or (kind[0] == "M" and found[-1:] in ("", " ")):
            found += " "
        else:
            found += character
    return found


@cache
def _english() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
