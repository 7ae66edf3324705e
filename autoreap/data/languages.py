"""Codes of languages: ISO 639, as `iso639.txt` lists them, a language a line: `zho zh chi`.

How a text is compared follows from its language, so a code that is none would silently give another error rate.
"""

import re
from functools import cache
from pathlib import Path

_LIST = Path(__file__).with_name("iso639.txt")
_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")
# Withdrawn codes, and members of a macrolanguage that are compared as it is.
_ALIASES = {
    **{"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro"},
    **{"cmn": "zh", "pes": "fa", "prs": "fa", "azj": "az", "azb": "az", "arb": "ar", "ekk": "et", "lvs": "lv"},
}
# Codes of countries that are taken for those of their language. `kr` is Kanuri's, but who writes it means Korean.
_COUNTRIES = {
    **{"cn": "zh", "jp": "ja", "kr": "ko", "tw": "zh", "hk": "yue", "vn": "vi", "ir": "fa", "us": "en", "gb": "en"},
    **{"ua": "uk", "cz": "cs", "gr": "el", "dk": "da"},
}
_AMBIGUOUS = {"kr": "kau for Kanuri", "tw": "twi for Twi"}


def language_mistake(tag: object) -> str | None:
    """What is wrong with `tag` as a language's code, such as `en`, `zh-CN` or `cmn_hans_cn`; None if nothing is."""
    if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
        return "must be the code of a language, such as en or zh-CN"
    code = re.split("[-_]", tag.lower())[0]
    if code in _COUNTRIES:
        meant = f"write {_COUNTRIES[code]}"
        if code in _AMBIGUOUS:
            meant += f", or {_AMBIGUOUS[code]}"
        return f"must be the code of a language, not of a country: {meant}"
    if code not in _ALIASES and code not in _short_codes():
        return "must be the code of a language, such as en or zh-CN, which ISO 639 knows"
    return None


def primary_language(tag: str | None) -> str:
    """The shortest code of a language that `tag` names: `zh` of `cmn_hans_cn`. No tag is English."""
    code = re.split("[-_]", (tag or "en").lower())[0]
    code = _short_codes().get(code, code)
    return _ALIASES.get(code, code)


@cache
def _short_codes() -> dict[str, str]:
    """Every code of ISO 639 -> that of two letters, where there is one."""
    found: dict[str, str] = {}
    for line in _LIST.read_text(encoding="ascii").splitlines():
        codes = line.split()
        short = min(codes, key=len)
        found |= dict.fromkeys(codes, short)
    return found
