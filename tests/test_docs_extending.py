"""docs/extending.md, carried out to the letter in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, block, blocks

PAGE = ROOT / "docs" / "extending.md"
_FILE = re.compile(r"^--- a/(?P<path>.+)\n\+\+\+ b/(?P=path)\n@@\n", re.MULTILINE)
_MADE_HERE = shutil.ignore_patterns("__pycache__", ".*_cache")


def additions() -> list[Block]:
    return [each for each in blocks(PAGE) if "/" in each.kind]


def changes() -> Iterator[tuple[str, str, str]]:
    """File, the lines that a hunk finds in it, and the lines that take their place."""
    for each in blocks(PAGE):
        if each.language == "diff":
            _, *parts = _FILE.split(each.text)
            for path, hunks in zip(parts[::2], parts[1::2], strict=True):
                for hunk in hunks.split("@@\n"):
                    lines = hunk.splitlines(keepends=True)
                    found = "".join(line[1:] for line in lines if line[0] in "- ")
                    yield path, found, "".join(line[1:] for line in lines if line[0] in "+ ")


@pytest.mark.parametrize(("path", "found", "_placed"), list(changes()))
def test_every_change_is_of_lines_that_are_there_once(path: str, found: str, _placed: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8").count(found) == 1


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with all that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("autoreap", "tests", "search_spaces"):
        shutil.copytree(ROOT / folder, root / folder, ignore=_MADE_HERE)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "evals").mkdir()
    (root / "evals/tiny").symlink_to(ROOT / "evals/tiny")
    (root / "evals/tiny.yaml").symlink_to(ROOT / "evals/tiny.yaml")
    (root / "calibration").symlink_to(ROOT / "calibration")
    for added in additions():
        assert not (root / added.kind).exists()
        (root / added.kind).write_text(added.text, encoding="utf-8")
    for path, found, placed in changes():
        text = (root / path).read_text(encoding="utf-8")
        assert text.count(found) == 1
        (root / path).write_text(text.replace(found, placed), encoding="utf-8")
    return root


def run(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.slow
def test_what_the_page_adds_keeps_its_contracts_and_breaks_no_other(extended: Path) -> None:
    added = [each.kind for each in additions() if each.kind.startswith("tests/")]
    assert len(added) == 3
    others = ["tests/contract/test_tasks.py", "tests/test_candidate.py", "tests/test_plan.py", "tests/test_imports.py"]
    said = run(extended, "-m", "pytest", "-p", "no:cacheprovider", *added, *others)
    assert " passed" in said
    assert " skipped" not in said


@pytest.mark.slow
def test_what_the_page_adds_is_well_formed(extended: Path) -> None:
    touched = [*(each.kind for each in additions() if each.kind.endswith(".py")), *{path for path, *_ in changes()}]
    run(extended, "-m", "ruff", "check", "--no-cache", *touched)
    run(extended, "-m", "ruff", "format", "--check", "--no-cache", *touched)


@pytest.mark.slow
def test_the_added_task_scores_the_embedded_model(extended: Path) -> None:
    command = "autoreap evaluate tiny --evals evals/keywords.yaml"
    assert f"    {command}\n" in PAGE.read_text()
    assert "keywords" in block("docs/extending.md", "evals/keywords.yaml")
    said = run(extended, "-m", "autoreap.cli", *command.split()[1:], "--json")
    recall = json.loads(said)["metrics"]["keyword_recall"]
    assert recall["num_samples"] == 16
    assert 0.9 < recall["value"] <= 1


@pytest.mark.slow
def test_the_added_way_to_prune_is_a_parameter_of_a_space(extended: Path) -> None:
    space = (extended / "search_spaces/tiny.yaml").read_text().replace("parameters:", "parameters:\n  active: [0.5, 1]")
    (extended / "search_spaces/active.yaml").write_text(space)
    arguments = ("search", "search_spaces/active.yaml", "--trials", "5", "--no-confirm", "--json")
    document = json.loads(run(extended, "-m", "autoreap.cli", *arguments))
    assert document["study"] == "active-tiny"
    shown = run(extended, "-m", "autoreap.cli", "show", "active-tiny", "--trial", "3", "--json")
    assert json.loads(shown)["params"]["active"] in (0.5, 1)
