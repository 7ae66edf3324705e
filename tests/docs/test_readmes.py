"""The README in two languages: neither may say a command, a figure or a link that the other does not."""

import re
from collections import Counter

import pytest
from pages import ROOT

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`]+`")


def blocks(text: str) -> list[list[str]]:
    """The lines of every block of code, without what is said about them."""
    return [[line.partition("  #")[0].rstrip() for line in found.splitlines()] for found in _FENCED.findall(text)]


def inline(text: str) -> Counter[str]:
    return Counter(_INLINE.findall(_FENCED.sub("", text)))


def numbers(text: str) -> Counter[str]:
    """Of prose, headings and tables; code is compared as it is."""
    return Counter(re.findall(r"\d(?:[\d.,]*\d)?", _INLINE.sub("", _FENCED.sub("", text))))


def links(text: str) -> Counter[str]:
    return Counter(set(re.findall(r"\]\(([^)]+)\)", text)) - {ENGLISH.name, CHINESE.name})


def headings(text: str) -> list[int]:
    """The level of each, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", _FENCED.sub("", text), re.MULTILINE)]


@pytest.mark.parametrize("part", [blocks, inline, numbers, links, headings])
def test_both_readmes_say_the_same(part: object) -> None:
    assert callable(part)
    assert part(ENGLISH.read_text()) == part(CHINESE.read_text())


def test_each_readme_leads_to_the_other() -> None:
    assert f"]({CHINESE.name})" in ENGLISH.read_text().split("##")[0]
    assert f"]({ENGLISH.name})" in CHINESE.read_text().split("##")[0]


def test_a_figure_that_is_changed_in_one_is_noticed() -> None:
    text = ENGLISH.read_text()
    assert numbers(text) != numbers(text.replace("30.4 GB", "30.5 GB"))
    assert inline(text) != inline(text.replace("`autoreap init my`", "`autoreap init mine`"))
    assert blocks(text) != blocks(text.replace("--trial 26", "--trial 14"))
