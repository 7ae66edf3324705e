"""Text as it is compared: case, punctuation and spelling variants must not count as errors."""

import re
from functools import cache
from typing import Any

_WITHOUT_SPACES = ("zh", "cmn", "yue", "ja", "th")


def units(text: str, language: str | None) -> list[str]:
    """The words of `text`, normalised; its characters in Chinese, Japanese and Thai.

    English goes through Whisper's normaliser (Radford et al., 2022, appendix C) with its spelling map, every other
    language through its basic one.
    """
    language = re.split("[-_]", (language or "en").lower())[0]
    normalised = str(_normaliser(language)(text))
    if language in _WITHOUT_SPACES:
        return [character for character in normalised if not character.isspace()]
    return normalised.split()


@cache
def _normaliser(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
