"""What a study says of one trial, from a study and outcomes on disk."""

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import planned
from optuna.trial import TrialState

from autoreap.cli import main
from autoreap.outcomes import Evaluation, Outcome
from autoreap.report.trial_details import spans
from autoreap.scores import Counts
from autoreap.study.confirmed import CONFIRMED
from autoreap.study.trials import ERROR, INFEASIBLE, PLAN, RACED, RESULT, default_storage

NUM_UTTERANCES = 10
# Wrong words of each utterance: of the unpruned model, and of trials 0 (on the front) and 1 (behind it).
WRONG = {"baseline": [0] * NUM_UTTERANCES, "0": [3, 2, 1, *[1] * 6, 0], "1": [3] * NUM_UTTERANCES}
SIZES = {"baseline": 70 * 10**9, "0": 30 * 10**9, "1": 31 * 10**9}
FAILED, INFEASIBLE_TRIAL, BEATEN, RUNNING = 2, 3, 4, 5
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
    study = optuna.create_study(storage=default_storage(), study_name="night", directions=["minimize", "minimize"])
    study.set_user_attr("objectives", {"size_bytes": "minimize", "wer": "minimize"})
    for name, wrong in WRONG.items():
        scored, size_bytes = evaluation(wrong), SIZES[name]
        scored.save_outcomes(Path("mlruns/trials/night") / name / "outcomes.jsonl")
        if name == "baseline":
            study.set_user_attr("baseline", {"metrics": scored.metrics(), "size_bytes": size_bytes})
            continue
        trial = study.ask()
        trial.suggest_float("retention", 0, 1)
        plan = planned(retention=0.5, layers_cut=1, saliency="random", seed=int(name))
        trial.set_user_attr(PLAN, plan.as_dict())
        result = {"metrics": scored.metrics(), "size_bytes": size_bytes, "plan_digest": plan.digest(), "seconds": 200.0}
        trial.set_user_attr(RESULT, result)
        study.tell(trial, (size_bytes, scored.metrics()["wer"]["value"]))
    raced = {"reason": "trial 0 beats it", "num_scored": 5, "num_utterances": 10, "seconds": 1.0}
    for name, text, state in (
        (ERROR, "ScoringError: none", TrialState.FAIL),
        (INFEASIBLE, "size <= 9 GB", TrialState.PRUNED),
        (RACED, raced, TrialState.PRUNED),
    ):
        trial = study.ask()
        trial.set_user_attr(name, text)
        study.tell(trial, state=state)
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
        (1, "scored", "behind trial 0, which is at least as good in size_bytes and wer"),
        (FAILED, "failed", "ScoringError: none"),
        (INFEASIBLE_TRIAL, "stopped", "it breaks size <= 9 GB"),
        (BEATEN, "stopped", "trial 0 beats it"),
        (RUNNING, "running", "nothing is known of it yet; it runs, or was cut off"),
    ],
)
def test_every_trial_says_its_state_and_why(number: int, state: str, reason: str, capsys: Capture) -> None:
    document = json_of(["show", "night", "--trial", str(number)], capsys)
    assert (document["state"], document["reason"]) == (state, reason)
    assert main(["show", "night", "--trial", str(number)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"trial {number} of night: {state}; {reason}\n")
    assert ("materialise" in text) == (state == "scored")


def test_what_the_report_split_says_stands_beside_the_scores(study: optuna.Study, capsys: Capture) -> None:
    metrics = evaluation([1] * NUM_UTTERANCES).metrics()
    known = {
        "metrics": metrics,
        "against_baseline": {"wer": {"value": 0.25, "low": 0.2, "high": 0.3, "verdict": "worse"}},
    }
    study.set_user_attr(CONFIRMED, {"trials": {"0": known}, "baseline": {"metrics": metrics}})
    assert main(["show", "night", "--trial", "0"]) == 0
    assert "on the report split, +25.00 points [+20.00, +30.00] against" in capsys.readouterr().out
    assert json_of(["show", "night", "--trial", "0"], capsys)["confirmed"] == known
    assert "confirmed" not in json_of(["show", "night", "--trial", "1"], capsys)


@pytest.mark.usefixtures("study")
def test_answers_that_are_gone_are_named(capsys: Capture) -> None:
    Path("mlruns/trials/night/0/outcomes.jsonl").unlink()
    assert main(["show", "night", "--trial", "0"]) == 0
    assert "can't be compared: mlruns/trials/night/0/outcomes.jsonl is not there" in capsys.readouterr().out


@pytest.mark.usefixtures("study")
def test_the_list_has_a_line_for_each_trial(capsys: Capture) -> None:
    assert main(["show", "night"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == ["0", "1", "2", "3", "4", "5"]
    assert "failed: ScoringError: none" in lines[FAILED]
    assert lines[RUNNING] == "trial 5: running"
    listed = json_of(["show", "night"], capsys)["trials"]
    assert [entry["trial"] for entry in listed] == [0, 1, 2, 3, 4, 5]
    assert [entry.get("size_bytes") for entry in listed] == [SIZES["0"], SIZES["1"], None, None, None, None]


@pytest.mark.usefixtures("study")
def test_a_trial_that_is_not_there_is_refused(capsys: Capture) -> None:
    assert main(["show", "night", "--trial", "9"]) == 2
    assert "autoreap: study night: has no trial 9 (" in capsys.readouterr().err


@pytest.mark.usefixtures("study")
def test_the_front_is_drawn_as_wide_as_the_terminal_and_written_for_a_spreadsheet(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["pareto", "night", "--csv", "new/front.csv"]) == 0
    picture = capsys.readouterr().out.partition("unpruned\n")[2].splitlines()
    assert max(map(len, picture)) == 60
    assert any("O0" in line for line in picture)
    with Path("new/front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "baseline"]
    assert float(rows[0]["wer.low"]) < float(rows[0]["wer"]) == 0.3 < float(rows[0]["wer.high"])
    assert rows[1]["retention"] == ""


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8")])
def test_numbers_are_said_compactly(numbers: list[int], text: str) -> None:
    assert spans(numbers) == text
