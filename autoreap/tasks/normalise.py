"""Text as it is compared: case, punctuation and spelling variants must not count as errors."""

import re
from functools import cache, lru_cache
from typing import Any

_WITHOUT_SPACES = ("zh", "cmn", "yue", "ja", "th")


def units(text: str, language: str | None) -> list[str]:
    """The words of `text`, normalised; its characters in Chinese, Japanese and Thai.

    English goes through Whisper's normaliser (Radford et al., 2022, appendix C) with its spelling map, every other
    language through its basic one.
    """
    return list(_units(text, re.split("[-_]", (language or "en").lower())[0]))


@lru_cache(maxsize=1 << 16)  # the same references are compared for every candidate, and most of the answers
def _units(text: str, language: str) -> tuple[str, ...]:
    normalised = str(_normaliser(language)(text))
    if language in _WITHOUT_SPACES:
        return tuple(character for character in normalised if not character.isspace())
    return tuple(normalised.split())


@cache
def _normaliser(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
