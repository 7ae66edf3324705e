"""What is said before a night is spent on it: a model that hears nothing, and rows that measure and judge."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

from autoreap.data.eval_set import EvalSet, EvalTask, open_evals
from autoreap.data.samples import Sample
from autoreap.evaluation.outcomes import Outcome, score_of
from autoreap.models.loading import open_model
from autoreap.scores import Counts
from autoreap.search import sanity
from autoreap.search.parameters import Range
from autoreap.search.sanity import (
    chance_of,
    warn_if_hopeless,
    warn_if_weights_have_no_room,
    warn_of_shared_rows,
)
from autoreap.search.space import load_space

EVALS = open_evals(ROOT / "evals" / "tiny.yaml").search


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "autoreap")


def answers(num_right: int, num: int = 100) -> tuple[Outcome, ...]:
    listed = []
    for number in range(num):
        is_right = number < num_right
        listed.append(Outcome(f"u{number}", f"said {number}", "the reference", Counts(int(is_right), 1), failed=False))
    return tuple(listed)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_baseline_that_hears_nothing_is_warned_of_with_three_of_its_answers(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = {"wer": answers(51), "accuracy": answers(90)}
    metrics = {name: score_of(listed) for name, listed in outcomes.items()}
    warn_if_hopeless(outcomes, metrics, EVALS)
    first, *shown = said(caplog)
    assert first.startswith("the unpruned model has wer 51.00% [")
    assert f"more than 50%: is the prompt right (doc_to_text in {EVALS.path})?" in first
    assert shown == [f"  u{number}: 'said {number}', reference 'the reference'" for number in range(3)]


def test_a_baseline_that_only_guesses_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (questions,) = (task for task in EVALS.tasks if task.metric == "accuracy")
    chance = chance_of(questions)
    assert 0 < chance < 1
    outcomes = {"wer": answers(10), "accuracy": answers(int(100 * chance))}
    metrics = {name: score_of(listed) for name, listed in outcomes.items()}
    warn_if_hopeless(outcomes, metrics, EVALS)
    assert f"no better than chance, {chance:.0%}" in said(caplog)[0]


def test_a_baseline_that_hears_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = {"wer": answers(50), "accuracy": answers(80)}
    warn_if_hopeless(outcomes, {name: score_of(listed) for name, listed in outcomes.items()}, EVALS)
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("changes", "chance"),
    [
        ({"choices": ("a", "b", "c", "d"), "answer": "a"}, 0.25),
        ({"choices": (), "answer": "yes"}, 0.5),
        ({"choices": (), "answer": "a dog"}, 0.0),
    ],
)
def test_what_guessing_gets_depends_on_the_question(changes: dict[str, object], chance: float) -> None:
    (questions,) = (task for task in EVALS.tasks if task.metric == "accuracy")
    sample = replace(questions.samples[0], **changes)  # type: ignore[arg-type]
    assert chance_of(EvalTask(questions.config, (sample,))) == chance


def test_calibration_rows_that_are_in_the_report_split_are_warned_of(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    task = EVALS.tasks[0]
    report = EvalSet(EVALS.path, "report", (EvalTask(task.config, task.samples[:5]),))
    own = Sample(id="own", where="calibration.jsonl:1", text="something else")
    rows = [own, replace(task.samples[2], where="a.jsonl:2")]
    warn_of_shared_rows({"audio": rows[:1]}, report)
    assert said(caplog) == []
    warn_of_shared_rows({"audio": rows}, report)
    (warning,) = said(caplog)
    assert warning.startswith("1 calibration rows are in the report split too, such as a.jsonl:2 at ")


# 8 layers of 16 experts of three matrices of 64 x 64, in bfloat16, are 3.15 MB.
@pytest.mark.parametrize(
    ("parameters", "needed"),
    [
        ({"bits": (16, 8)}, "3.15 MB"),
        ({"bits": 4, "experts": Range(4, 8, 4)}, "1.57 MB"),
        ({"bits": (8, 4), "retention": (0.5, 0.25)}, "1.57 MB"),
        ({"retention": 0.5}, None),
    ],
)
def test_a_host_whose_memory_is_too_small_for_candidates_of_few_bits_is_warned_of(
    parameters: dict[str, Any], needed: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = replace(load_space(ROOT / "search_spaces" / "tiny.yaml"), parameters=parameters)
    monkeypatch.setattr(sanity, "free_memory", lambda: 10**6)
    warn_if_weights_have_no_room(space, open_model("tiny"))
    beginning = f"scoring a quantised candidate keeps up to {needed}"
    assert [line.partition(" of original weights")[0] for line in said(caplog)] == ([beginning] if needed else [])
    caplog.clear()
    monkeypatch.setattr(sanity, "free_memory", lambda: 10**9)
    warn_if_weights_have_no_room(space, open_model("tiny"))
    assert said(caplog) == []
