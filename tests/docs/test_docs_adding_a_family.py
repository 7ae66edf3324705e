"""docs/adding-a-family.md, carried out to the letter in a copy of the repository."""

import shutil
from pathlib import Path

import pytest
from extended import additions, extend, run, touched
from pages import ROOT

PAGE = ROOT / "docs" / "adding-a-family.md"


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the family that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    extend(PAGE, root)
    return root


@pytest.mark.slow
def test_the_added_family_keeps_the_contract(extended: Path) -> None:
    (test,) = [each.kind for each in additions(PAGE) if each.kind.startswith("tests/")]
    said = run(extended, "-m", "pytest", "-p", "no:cacheprovider", test, "tests/test_imports.py")
    assert " passed" in said
    assert " skipped" not in said


@pytest.mark.slow
def test_the_added_family_is_well_formed(extended: Path) -> None:
    run(extended, "-m", "ruff", "check", "--no-cache", *touched(PAGE))
    run(extended, "-m", "ruff", "format", "--check", "--no-cache", *touched(PAGE))
    if (ROOT / ".mypy_cache").is_dir():  # of `make lint`: what it knows of the libraries takes a minute to find out
        shutil.copytree(ROOT / ".mypy_cache", extended / ".mypy_cache")
    run(extended, "-m", "mypy", *touched(PAGE))
