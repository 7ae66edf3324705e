"""The documentation as tests read it: its blocks of code, links and headings."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```\s*?$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the language after its fence, and the words after that, which say what it is."""

    page: str
    line: int
    language: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of the documentation, README first."""
    return [*sorted(ROOT.glob("*.md"), key=lambda path: path.name != "README.md"), *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        language, _, kind = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(name_of(page), line, language, kind, dedent(match["text"])))
    return found


def block(name: str, kind: str) -> str:
    """The text of the one block of a kind in the page `name`."""
    (found,) = (each for each in blocks(ROOT / name) if each.kind == kind)
    return found.text


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """What stands between single backticks."""
    return _SPAN.findall(prose(page))


def links(page: Path) -> list[str]:
    """The targets of its links."""
    return _LINK.findall(_SPAN.sub("`", prose(page)))


def anchors(page: Path) -> set[str]:
    """What GitHub calls its headings: lower case, no punctuation, hyphens for spaces, numbered where they repeat."""
    seen: Counter[str] = Counter()
    named = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        named.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return named
