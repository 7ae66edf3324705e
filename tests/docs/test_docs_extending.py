"""docs/extending.md, carried out to the letter in a copy of the repository."""

import json
from pathlib import Path

import pytest
from builders import write_few_rows
from extended import additions, extend, run, touched
from pages import ROOT, block

PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with all that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    extend(PAGE, root)
    return root


@pytest.mark.slow
def test_what_the_page_adds_keeps_its_contracts_and_breaks_no_other(extended: Path) -> None:
    added = [each.kind for each in additions(PAGE) if each.kind.startswith("tests/")]
    assert len(added) == 2
    others = ["tests/contract/test_tasks.py", "tests/test_candidate.py", "tests/test_plan.py", "tests/test_imports.py"]
    said = run(extended, "-m", "pytest", "-p", "no:cacheprovider", *added, *others)
    assert " passed" in said
    assert " skipped" not in said


def test_what_the_page_adds_is_well_formed(extended: Path) -> None:
    run(extended, "-m", "ruff", "check", "--no-cache", *touched(PAGE))
    run(extended, "-m", "ruff", "format", "--check", "--no-cache", *touched(PAGE))


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
    space = (
        (extended / "search_spaces/tiny.yaml")
        .read_text()
        .replace("parameters:", "parameters:\n  talker_active: [0.5, 1]")
    )
    (extended / "search_spaces/active.yaml").write_text(space.replace("evals/tiny.yaml", "evals/few.yaml"))
    write_few_rows(extended / "evals/few.yaml", 16)
    arguments = ("search", "search_spaces/active.yaml", "--trials", "5", "--no-confirm", "--json")
    document = json.loads(run(extended, "-m", "autoreap.cli", *arguments))
    assert document["study"] == "active-tiny"
    shown = run(extended, "-m", "autoreap.cli", "show", "active-tiny", "--trial", "3", "--json")
    assert json.loads(shown)["params"]["talker_active"] in (0.5, 1)
