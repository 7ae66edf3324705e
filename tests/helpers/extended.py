"""Pages whose blocks are files and changes, carried out to the letter in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT, Block, blocks

_FILE = re.compile(r"^--- a/(?P<path>.+)\n\+\+\+ b/(?P=path)\n@@\n", re.MULTILINE)
_MADE_HERE = shutil.ignore_patterns("__pycache__", ".*_cache")


def additions(page: Path) -> list[Block]:
    """The blocks that are files."""
    return [each for each in blocks(page) if "/" in each.kind]


def changes(page: Path) -> Iterator[tuple[str, str, str]]:
    """File, the lines that a hunk finds in it, and the lines that take their place."""
    for each in blocks(page):
        if each.language == "diff":
            _, *parts = _FILE.split(each.text)
            for path, hunks in zip(parts[::2], parts[1::2], strict=True):
                for hunk in hunks.split("@@\n"):
                    lines = hunk.splitlines(keepends=True)
                    found = "".join(line[1:] for line in lines if line[0] in "- ")
                    yield path, found, "".join(line[1:] for line in lines if line[0] in "+ ")


def touched(page: Path) -> list[str]:
    """The Python files that it adds or changes."""
    added = [each.kind for each in additions(page) if each.kind.endswith(".py")]
    return [*added, *sorted({path for path, *_ in changes(page)})]


def extend(page: Path, root: Path) -> None:
    """Make `root` a copy of the repository with all that the page adds."""
    for folder in ("autoreap", "tests", "search_spaces"):
        shutil.copytree(ROOT / folder, root / folder, ignore=_MADE_HERE)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "evals").mkdir()
    (root / "evals/tiny").symlink_to(ROOT / "evals/tiny")
    (root / "evals/tiny.yaml").symlink_to(ROOT / "evals/tiny.yaml")
    (root / "calibration").symlink_to(ROOT / "calibration")
    for added in additions(page):
        assert not (root / added.kind).exists()
        (root / added.kind).write_text(added.text, encoding="utf-8")
    for path, found, placed in changes(page):
        text = (root / path).read_text(encoding="utf-8")
        assert text.count(found) == 1
        (root / path).write_text(text.replace(found, placed), encoding="utf-8")


def run(root: Path, *arguments: str) -> str:
    """What Python says to `arguments` in the copy; it must not fail."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout
