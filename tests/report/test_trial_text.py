"""What a study says of one trial, from a study and outcomes on disk."""

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import planned
from studies import add_ends, add_trial, new_study

from autoreap.cli import main
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.report.trial_text import spans
from autoreap.scores import Counts, Difference
from autoreap.search.records import HeldOutScores, HeldOutTrial, record_held_out
from autoreap.search.storage import default_storage

NUM_UTTERANCES = 10
# Wrong words of each utterance: of the unpruned model, and of trials 0 (on the front) and 1 (behind it).
WRONG = {"baseline": [0] * NUM_UTTERANCES, "0": [3, 2, 1, *[1] * 6, 0], "1": [3] * NUM_UTTERANCES}
SIZES = {"baseline": 70 * 10**9, "0": 30 * 10**9, "1": 31 * 10**9}
PRUNED, INFEASIBLE, FAILED, INTERRUPTED, RUNNING = 2, 3, 4, 5, 6
Capture = pytest.CaptureFixture[str]


def evaluation(wrong: list[int]) -> Evaluation:
    outcomes = tuple(
        Outcome(f"u{number}", " ".join(["x"] * errors + ["b"] * (4 - errors)), "b b b b", Counts(errors, 4), False)
        for number, errors in enumerate(wrong)
    )
    return Evaluation({"wer": outcomes}, seconds=1.0)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    """A study `night` in mlruns/ of the current folder, as a search leaves one."""
    monkeypatch.chdir(tmp_path)
    Path("mlruns").mkdir()
    baseline = evaluation(WRONG["baseline"])
    study = new_study(storage=default_storage(), baseline=baseline.metrics())
    for name, wrong in WRONG.items():
        scored = evaluation(wrong)
        scored.save_outcomes(Path("mlruns/trials/night") / name / "outcomes.jsonl")
        if name != "baseline":
            plan = planned(retention=0.5, layers_cut=1, saliency="random", seed=int(name))
            wer = scored.metrics()["wer"]
            add_trial(study, (SIZES[name] / 1e9, wer.value), plan=plan, metrics={"wer": wer})
    add_ends(study)
    study.ask()
    return study


def json_of(arguments: list[str], capsys: Capture) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.usefixtures("study")
def test_a_scored_trial_has_its_scores_what_it_kept_a_verdict_and_the_way_to_write_it(capsys: Capture) -> None:
    assert main(["show", "night", "--trial", "0"]) == 0
    text = capsys.readouterr().out
    assert "trial 0 of night: scored; on the front" in text
    assert "30.00 GB, 42.9% of 70.00 GB" in text
    assert "wer      30.00% [" in text
    assert "thinker: 7 of 8 layers, without" in text
    assert text.count("  layer ") == 7
    assert "worse" in text
    assert [line.split(":")[0].strip() for line in text.splitlines() if " of 4" in line] == ["u0", "u1", "u2"]
    assert text.endswith("to write it: autoreap materialise night --trial 0 -o night-trial-0\n")
    document = json_of(["show", "night", "--trial", "0"], capsys)
    assert document["against_baseline"]["metrics"]["wer"]["difference"]["verdict"] == "worse"
    assert len(document["against_baseline"]["worst"]) == 3
    assert len(document["plan"]["thinker"]["layers"]) == 7


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("number", "state", "reason"),
    [
        (1, "scored", "dominated by trial 0"),
        (FAILED, "failed", "ScoringError: <b>nothing</b> was scored"),
        (INFEASIBLE, "infeasible", "violates size <= 20 GB (it is 30.00 GB)"),
        (PRUNED, "pruned", "dominated by trial 0"),
        (INTERRUPTED, "interrupted", "interrupted (duration unknown)"),
        (RUNNING, "running", "not finished, or interrupted"),
    ],
)
@pytest.mark.slow
def test_every_trial_says_its_state_and_why(number: int, state: str, reason: str, capsys: Capture) -> None:
    document = json_of(["show", "night", "--trial", str(number)], capsys)
    assert (document["state"], document["reason"]) == (state, reason)
    assert main(["show", "night", "--trial", str(number)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"trial {number} of night: {state}; {reason}\n")
    assert ("materialise" in text) == (state == "scored")


def test_what_the_report_split_says_stands_beside_the_scores(study: optuna.Study, capsys: Capture) -> None:
    metrics = evaluation([1] * NUM_UTTERANCES).metrics()
    known = HeldOutTrial(metrics, {"wer": Difference(0.25, 0.2, 0.3, "worse")}, [])
    record_held_out(study, HeldOutScores("digest", metrics, {0: known}))
    assert main(["show", "night", "--trial", "0"]) == 0
    assert "on the report split, +25.00 points [+20.00, +30.00] against" in capsys.readouterr().out
    assert json_of(["show", "night", "--trial", "0"], capsys)["held_out"] == known.as_dict()
    assert "held_out" not in json_of(["show", "night", "--trial", "1"], capsys)


@pytest.mark.usefixtures("study")
def test_answers_that_are_gone_are_named(capsys: Capture) -> None:
    Path("mlruns/trials/night/0/outcomes.jsonl").unlink()
    assert main(["show", "night", "--trial", "0"]) == 0
    assert "can't be compared: mlruns/trials/night/0/outcomes.jsonl is missing" in capsys.readouterr().out


@pytest.mark.usefixtures("study")
def test_the_list_has_a_line_for_each_trial(capsys: Capture) -> None:
    assert main(["show", "night"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == ["0", "1", "2", "3", "4", "5", "6"]
    assert "failed: ScoringError: <b>nothing</b> was scored" in lines[FAILED]
    assert lines[RUNNING] == "trial 6 running"
    listed = json_of(["show", "night"], capsys)["trials"]
    assert [entry["trial"] for entry in listed] == list(range(7))
    assert [entry.get("size_bytes") for entry in listed] == [SIZES["0"], SIZES["1"], *[None] * 5]


@pytest.mark.usefixtures("study")
def test_a_trial_that_is_not_there_is_refused(capsys: Capture) -> None:
    assert main(["show", "night", "--trial", "9"]) == 2
    assert "autoreap: study night: has no trial 9 (" in capsys.readouterr().err


@pytest.mark.usefixtures("study")
def test_the_front_is_written_for_a_spreadsheet() -> None:
    assert main(["pareto", "night", "--csv", "new/front.csv"]) == 0
    with Path("new/front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "baseline"]
    assert float(rows[0]["wer.low"]) < float(rows[0]["wer"]) == 0.3 < float(rows[0]["wer.high"])
    assert rows[1]["retention"] == ""


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8")])
def test_numbers_are_said_compactly(numbers: list[int], text: str) -> None:
    assert spans(numbers) == text
