"""A front that is scored on the report split when the search ends: whole, interrupted, killed, resumed."""

import json
import os
import re
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from nights import start_search

from autoreap.cli import main
from autoreap.evaluation.outcomes import load_outcomes
from autoreap.search.records import read_held_out
from autoreap.search.storage import open_study

pytestmark = pytest.mark.slow

SEARCH = "search:\n  - {task: asr, dataset_path: asr_search.jsonl, doc_to_text: transcribe, limit: 8}\n"
REPORT = "report:\n  - {task: asr, dataset_path: asr_report.jsonl, doc_to_text: transcribe}\n"
FOLDER = Path("mlruns/trials/night")


@pytest.fixture
def small(project: Path) -> Path:
    """The project with three trials of eight utterances, and a report split of 64: copies, which take their time."""
    (project / "evals.yaml").write_text(SEARCH + REPORT)
    space = (project / "space.yaml").read_text().replace("trials: 6", "trials: 3").replace("materialise: knee\n", "")
    (project / "space.yaml").write_text(space.replace("batch_size: 16", "batch_size: 4\nracing: false"))
    rows = [json.loads(row) for row in (project / "asr_report.jsonl").read_text().splitlines()]
    copies = [json.dumps(row | {"id": f"{row['id']}-{copy}"}) for copy in range(16) for row in rows]
    (project / "asr_report.jsonl").write_text("\n".join(copies) + "\n")
    return project


def test_the_front_is_scored_on_the_report_split_once(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    confirmed = _confirmed()
    assert confirmed is not None
    front = [point["trial"] for point in document["points"]]
    assert [int(number) for number in confirmed["trials"]] == front
    for number, known in confirmed["trials"].items():
        outcomes = load_outcomes(FOLDER / number / "report.jsonl")["wer"]
        assert known["metrics"]["wer"]["numerator"] == sum(outcome.counts.numerator for outcome in outcomes)
        assert known["metrics"]["wer"]["num_samples"] == len(outcomes) == 64
        assert set(known["against_baseline"]["wer"]) == {"value", "low", "high", "verdict"}
        assert set(known["tied_with"]) <= set(front)
    runs = _runs(small)
    assert {run.data.tags["autoreap.trial"] for run in runs if "report.wer" in run.data.metrics} == {
        f"night/{number}" for number in front
    }

    assert main(["pareto", "night", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert {str(point["trial"]): point["held_out"] for point in points} == confirmed["trials"]
    assert main(["pareto", "night"]) == 0
    assert "wer (report split) [95%]" in capsys.readouterr().out

    times = _times()
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    assert "preparing report" not in capsys.readouterr().err
    assert (_times(), _confirmed()) == (times, confirmed)
    history = MlflowClient(f"sqlite:///{small}/mlruns/mlflow.db").get_metric_history(runs[0].info.run_id, "report.wer")
    assert len(history) <= 1

    rows = (small / "asr_report.jsonl").read_text().splitlines()
    (small / "asr_report.jsonl").write_text("\n".join(rows[:-4]) + "\n")  # another report split: all is scored again
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    again = _confirmed()
    assert again is not None
    assert {known["metrics"]["wer"]["num_samples"] for known in again["trials"].values()} == {60}
    assert not {path for path, written in _times().items() if times[path] == written}


def test_hours_for_it_bound_it_and_what_is_left_is_scored_by_the_same_command(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = (small / "space.yaml").read_text()
    (small / "space.yaml").write_text(space + "confirm_hours: 0.0000001\n")
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    told = capsys.readouterr()
    front = [point["trial"] for point in json.loads(told.out)["points"]]
    assert re.search(
        r"64 answers each, about \d+ s; --hours does not end this, confirm_hours ends it after 1e-07 h", told.err
    )
    for number in front:
        assert f"trial {number} is not scored on the report split: confirm_hours has run out" in told.err
    confirmed = _confirmed()
    assert confirmed is not None
    assert confirmed["trials"] == {}
    (small / "space.yaml").write_text(space)
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    confirmed = _confirmed()
    assert confirmed is not None
    assert [int(number) for number in confirmed["trials"]] == front


def test_a_kill_loses_no_member_that_was_scored(small: Path) -> None:
    process = start_search(small)
    _wait_for(FOLDER / "held_out.json", process)
    process.kill()
    process.join()
    assert _confirmed() is None
    before = _times()
    last = start_search(small)
    last.join()
    assert last.exitcode == 0
    after, confirmed = _times(), _confirmed()
    assert before.items() <= after.items()
    assert confirmed is not None
    assert len(after) == len(confirmed["trials"]) + 1
    assert not list(FOLDER.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_tidily_with_the_front_drawn(small: Path, number: signal.Signals) -> None:
    process = start_search(small)
    _wait_for(FOLDER / "held_out.json", process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert _confirmed() is None
    assert (FOLDER / "report.html").is_file()
    assert not list(FOLDER.rglob("*.partial"))


def test_it_is_left_out_where_asked_and_where_there_is_nothing_to_confirm_on(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "space.yaml", "--study", "night", "--no-confirm"]) == 0
    assert (_confirmed(), _times()) == (None, {})
    space = (small / "space.yaml").read_text()
    (small / "space.yaml").write_text(space + "confirm: false\n")
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    assert (_confirmed(), _times()) == (None, {})
    (small / "space.yaml").write_text(space)
    (small / "evals.yaml").write_text(SEARCH)
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    assert "the evals have no report split" in capsys.readouterr().err
    assert (_confirmed(), _times()) == (None, {})


def test_an_objective_that_the_report_split_lacks_is_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = "  - {task: audio_qa, dataset_path: qa_search.jsonl}\n"
    (small / "evals.yaml").write_text(SEARCH + task + REPORT)
    objectives = "objectives: {size_bytes: minimise, wer: minimise, accuracy: maximise}\n"
    (small / "space.yaml").write_text((small / "space.yaml").read_text() + objectives)
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    output = capsys.readouterr()
    assert "not in the report split: accuracy" in output.out
    assert re.search(r"not in the report split.*accuracy", output.err)
    confirmed = _confirmed()
    assert confirmed is not None
    assert confirmed["missing"] == ["accuracy"]


def test_a_report_split_that_fails_costs_nothing_of_the_search(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recording in {json.loads(row)["audio"] for row in (small / "asr_report.jsonl").read_text().splitlines()}:
        (small / recording).write_bytes(b"no sound")
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    assert "warning: the front is not scored on the report split" in capsys.readouterr().err
    assert _confirmed() is None
    assert (FOLDER / "report.html").is_file()


def _confirmed() -> dict[str, Any] | None:
    held_out = read_held_out(open_study("night"))
    return None if held_out is None else held_out.as_dict()


def _times() -> dict[Path, int]:
    """When each file of answers was written."""
    return {path: path.stat().st_mtime_ns for path in FOLDER.glob("*/report.jsonl")}


def _wait_for(path: Path, process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert path.exists()


def _runs(project: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("autoreap")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    return [run for run in runs if "autoreap.trial" in run.data.tags]
