"""Text as it is compared: case, punctuation and spelling variants must not count as errors.

After the normalisers of the Open ASR leaderboard (github.com/huggingface/open_asr_leaderboard, `normalizer/`):

- English: Whisper's (Radford et al., 2022, appendix C) with its spelling map, and dotted initials joined (U.S.A., USA).
  The leaderboard also expands some more contractions.
- Chinese, Japanese and Thai: NFKC (full-width forms become ordinary ones), lower case, no `[...]` and `<...>`, no
  punctuation, 〇 as 零. The leaderboard also makes traditional characters simplified and spells numbers out, each by a
  library of its own; here they are compared as written. It counts the letters of Latin words, `units` the words.
- Every other language: the same, and no `(...)` either. Accents and combining marks stay, which carry the vowels of
  Hindi; the leaderboard drops accents by default, spells numbers out and joins compounds.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

_WITHOUT_SPACES = ("zh", "yue", "ja", "th")
_ALIASES = {"eng": "en", "zho": "zh", "chi": "zh", "cmn": "zh", "jpn": "ja", "tha": "th"}
_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")
_INITIALS = re.compile(r"\b([a-z])\.(?=[a-z]\b)", re.IGNORECASE)
_ASIDES = re.compile(r"[<\[][^>\]]*[>\]]")
_PARENTHESES = re.compile(r"\([^)]+?\)")
_WORD_OR_CHARACTER = re.compile(r"[0-9a-zß-ɏ]+|\S")  # a run of Latin letters and digits is a word in any script


def is_language_tag(text: str) -> bool:
    """Whether `text` has the form of a language's code, such as `en`, `zh-CN` or `cmn_hans_cn`."""
    return _TAG.fullmatch(text) is not None


def units(text: str, language: str | None) -> list[str]:
    """The words of `text`, normalised; in Chinese, Japanese and Thai its characters, and words of Latin letters.

    No `language` is English.
    """
    return list(_units(text, _primary(language)))


def characters(text: str, language: str | None) -> list[str]:
    """The characters of `text`, normalised; spaces do not count."""
    return list("".join(_units(text, _primary(language))))


def _primary(language: str | None) -> str:
    code = re.split("[-_]", (language or "en").lower())[0]
    return _ALIASES.get(code, code)


@lru_cache(maxsize=1 << 16)  # the same references are compared for every candidate, and most of the answers
def _units(text: str, language: str) -> tuple[str, ...]:
    if language == "en":
        return tuple(str(_english()(_INITIALS.sub(r"\1", text))).split())
    if language in _WITHOUT_SPACES:
        return tuple(_WORD_OR_CHARACTER.findall(_plain(text).replace("〇", "零")))
    return tuple(_plain(_PARENTHESES.sub("", text)).split())


def _plain(text: str) -> str:
    """Lower case without asides, every symbol and mark of punctuation a space."""
    composed = unicodedata.normalize("NFKC", _ASIDES.sub("", text)).lower()
    return "".join(" " if unicodedata.category(character)[0] in "SP" else character for character in composed)


@cache
def _english() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
