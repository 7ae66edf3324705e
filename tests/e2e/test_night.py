"""What a search outlives: kills at any moment, signals, a locked database, a full disk."""

import os
import random
import re
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from nights import start_search

from autoreap import __version__
from autoreap.search.records import TrialRecord, TrialStatus, read_study
from autoreap.search.storage import open_study

pytestmark = pytest.mark.slow

EVALS = "search:\n  - {task: asr, dataset_path: asr_search.jsonl, doc_to_text: transcribe, limit: 8}\n"
NUM_NIGHTS, NUM_KILLS, NUM_EARLY_KILLS = 1, 50, 15  # the kills of each night; the early ones before its first end


@pytest.fixture
def small(project: Path) -> Path:
    """The project with eight utterances: a trial is scored in a fraction of a second."""
    (project / "evals.yaml").write_text(EVALS)
    return project


@pytest.mark.parametrize("seed", range(NUM_NIGHTS))  # more nights, other moments
def test_kills_from_the_first_moment_on_lose_repeat_and_leave_nothing(small: Path, seed: int) -> None:
    random.seed(seed)
    shutil.rmtree(small / "mlruns")  # MLflow makes its tables under the kills, too
    killed = kill_first_starts(small, NUM_EARLY_KILLS)
    started = time.monotonic()
    start_search(small, "--trials", "3").join()
    before, life = finished(small), time.monotonic() - started
    while killed < NUM_KILLS:
        process = start_search(small, "--trials", str(num_spent(small) + 3))
        process.join(random.uniform(0, life))
        killed += process.is_alive()
        life *= 1.03 if process.is_alive() else 0.9  # so that moments are spread over all of it on any machine
        process.kill()
        process.join()
        after = finished(small)
        assert before.items() <= after.items()  # nothing that was finished is lost or changed
        before = after
    last = start_search(small, "--trials", str(num_spent(small) + 1))
    last.join()
    assert last.exitcode == 0, (small / "night.log").read_text()[-2000:]
    assert_whole(small)
    digests = [trial.plan_digest for trial in trials(small) if trial.status is TrialStatus.SCORED]
    assert len(digests) == len(set(digests)) > 10  # no plan was scored again
    assert {path.name for path in (small / "mlruns").iterdir()} >= {"mlflow.db", "studies.db"}
    assert list((small / "mlruns").glob("*damaged*")) == []
    assert "MLflow is not available" not in (small / "night.log").read_text()


def num_spent(project: Path) -> int:
    """How much of the budget is used up; duplicates are free."""
    return sum(trial.is_spent for trial in trials(project))


def kill_first_starts(project: Path, number: int) -> int:
    """Kill searches that begin in an empty folder, at moments spread over all of the start; how many were killed."""
    killed, life = 0, 3.0
    while True:
        process = start_search(project, "--trials", "2")
        process.join(random.uniform(0, life) if killed < number else None)
        if not process.is_alive():
            assert process.exitcode == 0, (project / "night.log").read_text()[-2000:]
            if killed == number:
                assert_whole(project)
                return killed
            shutil.rmtree(project / "mlruns")  # nobody here has it open: MLflow would go on with the removed database
            life *= 0.9
            continue
        killed += 1
        life *= 1.03
        process.kill()
        process.join()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_search_tidily_with_its_front_drawn(small: Path, number: int, code: int) -> None:
    process = start_search(small, "--trials", "9999")
    wait_for(small, r"trial 3 \(.*")
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    text = (small / "night.log").read_text()
    assert "stopping after this utterance" in text
    assert text.endswith("autoreap: interrupted\n")
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)  # no control characters but line ends
    assert (small / "mlruns/trials/night/report.html").stat().st_size > 10_000
    assert_whole(small)
    assert parent(small).info.status == "KILLED"
    resumed = start_search(small, "--trials", str(len(finished(small)) + 1))
    resumed.join()
    assert resumed.exitcode == 0
    assert parent(small).info.status == "FINISHED"


def test_a_second_signal_ends_it_at_once(small: Path) -> None:
    process = start_search(small, "--trials", "9999")
    wait_for(small, r"trial 1 \(.*")
    for _ in range(2):
        process.terminate()
    process.join(10)
    assert process.exitcode in (-signal.SIGTERM, 143)


def test_one_seed_gives_one_result_in_any_folder(small: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(small, tmp_path / "twin")
    processes = [start_search(folder, "--trials", "12", "--seed", "7") for folder in (small, twin)]
    for process in processes:
        process.join()
    first, second = ([(trial.params, trial.values) for trial in trials(folder)] for folder in (small, twin))
    assert len(first) == 12
    assert first == second
    (session,) = open_study("night", f"sqlite:///{small}/mlruns/studies.db").user_attrs["sessions"]
    code = session.pop("code")
    assert code.startswith(__version__)
    assert session == {"first_trial": 2, "seed": 7, "sampler": "TPESampler"}  # two presets were waiting


def test_a_database_that_another_process_locks_for_a_while_is_waited_for(small: Path) -> None:
    process = start_search(small, "--trials", "12")
    wait_for(small, r"trial 2 \(.*")
    with sqlite3.connect(small / "mlruns/studies.db", timeout=30, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        before = (small / "night.log").read_text()
        time.sleep(8)  # SQLite itself gives up after five seconds
        assert (small / "night.log").read_text().count("done,") <= before.count("done,") + 1
        other.execute("COMMIT")
    process.join()
    assert process.exitcode == 0
    assert len(finished(small)) == 12
    assert {trial.status for trial in trials(small)} <= FINISHED
    assert_whole(small)


def test_a_full_disk_stops_it_with_one_clear_line_and_nothing_is_lost(small: Path) -> None:
    start_search(small, "--trials", "2").join()
    size = (small / "mlruns/studies.db").stat().st_size
    full = start_search(small, "--trials", "9999", largest_file=size + 8192)
    full.join()
    assert full.exitcode == 1
    text = (small / "night.log").read_text()
    assert "Traceback" not in text
    assert re.search(r"autoreap: the study can't be read or written: .*run the same command again\n$", text)
    before = finished(small)
    assert len(before) >= 2
    resumed = start_search(small, "--trials", str(len(before) + 1))
    resumed.join()
    assert resumed.exitcode == 0
    assert before.items() <= finished(small).items()
    assert_whole(small)


def test_a_disk_that_fills_at_shipping_shows_the_front_and_says_what_is_missing(project: Path) -> None:
    log = project / "night.log"
    full = start_search(
        project, "--trials", "6", largest_file=2_500_000
    )  # less than the checkpoint, more than all else
    full.join()
    text = log.read_text()
    assert full.exitcode == 1, text
    assert "Traceback" not in text
    assert re.search(r"^report +mlruns/trials/night/report.html$", text, re.MULTILINE)
    assert re.search(r"\nmissing  the checkpoint of trial \d+: .*File too large", text)
    assert re.search(r"\nautoreap: missing: the checkpoint of trial .*\(the same command makes it.*\)\n$", text)
    assert list((project / "mlruns/checkpoints").iterdir()) == []
    before = finished(project)
    again = start_search(project, "--trials", "6")
    again.join()
    assert again.exitcode == 0
    assert finished(project) == before
    assert re.search(r"shipped  mlruns/checkpoints/night-trial-\d+\n", log.read_text()[len(text) :])


FINISHED = {TrialStatus.SCORED, TrialStatus.DUPLICATE, TrialStatus.PRUNED}


def trials(project: Path) -> list[TrialRecord]:
    """Those that are over or under way; what waits is not."""
    study = read_study(open_study("night", f"sqlite:///{project}/mlruns/studies.db"))
    return [trial for trial in study.trials if trial.status is not TrialStatus.WAITING]


def finished(project: Path) -> dict[int, tuple[Any, ...]]:
    """Number -> what came of every trial that was scored, or pruned before it was."""
    ends = {}
    for trial in trials(project):
        if trial.status in FINISHED:
            ends[trial.number] = (trial.status, trial.plan_digest, trial.metrics, trial.reason, trial.duplicate_of)
    return ends


def runs(project: Path, query: str) -> list[Run]:
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("autoreap")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], query, max_results=10_000))


def parent(project: Path) -> Run:
    (run,) = runs(project, "tags.`autoreap.study` = 'night'")
    return run


def assert_whole(project: Path) -> None:
    """Every trial that is over is in both stores once, and none is left running in either."""
    over = trials(project)
    assert TrialStatus.RUNNING not in {trial.status for trial in over}
    children = runs(project, "tags.`autoreap.trial` LIKE 'night/%'")
    logged = sorted((run.data.tags["autoreap.trial"], run.data.tags["autoreap.state"]) for run in children)
    assert logged == sorted((f"night/{trial.number}", str(trial.status)) for trial in over)
    assert all(run.info.status in ("FINISHED", "FAILED", "KILLED") for run in children)


def wait_for(project: Path, pattern: str, seconds: float = 120) -> None:
    """Until the log holds it."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, (project / "night.log").read_text() if (project / "night.log").exists() else ""):
        assert time.monotonic() < deadline, (project / "night.log").read_text()
        time.sleep(0.05)
