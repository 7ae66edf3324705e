"""Against a real MLflow, in SQLite: what is logged, that it is logged once, and that a failure never ends a search."""

import contextlib
import itertools
import multiprocessing
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run, ViewType
from mlflow.entities import Metric as LoggedMetric
from mlflow.entities.model_registry import ModelVersion

from autoreap.errors import AutoreapError
from autoreap.scores import Counts, Metric, score
from autoreap.search.records import HeldOutScores, HeldOutTrial, TrialRecord, TrialStatus
from autoreap.search.tracking import FRONT_TAG, REASON_TAG, STUDY_TAG, TRIAL_TAG, DataSet, StudyFacts, Tracker, register
from autoreap.search.tracking_file import make_whole

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there
WER = score([Counts(1, 5), Counts(0, 5), Counts(2, 5)], num_failed=1)

_names = (f"study-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests, each with a study of its own: MLflow takes seconds to create one."""
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture
def study() -> str:
    return next(_names)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder of a trial's files."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("plan.json", "outcomes.jsonl"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def record() -> TrialRecord:
    return TrialRecord(
        number=3,
        status=TrialStatus.SCORED,
        preset="medium",
        params={"retention": 0.5, "layers_cut": 2, "saliency": "affinity"},
        values={"size_bytes": 1e6, "wer": WER.value},
        metrics={"wer": WER},
    )


class Logged:
    """What MLflow holds of one study."""

    def __init__(self, folder: Path, study: str) -> None:
        self._client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        self._study = study
        experiment = self._client.get_experiment_by_name("autoreap")
        assert experiment is not None
        self.experiment = experiment

    def _runs(self, query: str) -> list[Run]:
        return list(self._client.search_runs([self.experiment.experiment_id], query, ViewType.ACTIVE_ONLY))

    @property
    def parents(self) -> list[Run]:
        return self._runs(f"tags.`{STUDY_TAG}` = '{self._study}'")

    @property
    def children(self) -> list[Run]:
        return self._runs(f"tags.`{TRIAL_TAG}` LIKE '{self._study}/%'")

    def artifacts(self, run: Run) -> set[str]:
        return {entry.path for entry in self._client.list_artifacts(run.info.run_id)}

    def history(self, run: Run, metric: str) -> list[LoggedMetric]:
        return list(self._client.get_metric_history(run.info.run_id, metric))

    def data_sets(self, run: Run) -> list[DatasetInput]:
        assert run.inputs is not None
        return list(run.inputs.dataset_inputs)

    def versions(self, name: str) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{name}'"))

    def start_child(self, number: int) -> str:
        """A child as a kill leaves it between its creation and its end."""
        tags = {TRIAL_TAG: f"{self._study}/{number}", "mlflow.parentRunId": self.parents[0].info.run_id}
        return str(self._client.create_run(self.experiment.experiment_id, tags=tags).info.run_id)


def test_a_trial_is_a_child_run_of_its_study_with_values_intervals_parameters_tags_and_files(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    Tracker(folder, study).log_trial(record, files)
    logged = Logged(folder, study)
    (parent,), (child,) = logged.parents, logged.children
    assert child.data.tags[TRIAL_TAG] == f"{study}/3"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["preset"] == "medium"
    assert child.data.params == {"retention": "0.5", "layers_cut": "2", "saliency": "affinity"}
    parts = {"wer.low": WER.low, "wer.high": WER.high, "wer.num_failed": WER.num_failed}
    assert child.data.metrics == {"size_bytes": 1e6, "wer": WER.value, **parts}
    assert child.info.status == "FINISHED"
    assert logged.artifacts(child) == {"plan.json", "outcomes.jsonl"}
    assert (folder / "artifacts" / child.info.run_id).is_dir()


def test_what_is_counted_is_logged_alone_and_what_is_timed_with_its_interval(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    timed = Metric(0.8, 0.75, 0.85, num_samples=48, quartiles=[0.7, 0.9])
    costs = {"active_parameters": Metric.static(1000), "first_token_ratio": timed}
    Tracker(folder, study).log_trial(replace(record, values={}, metrics=costs), files)
    (child,) = Logged(folder, study).children
    expected = {"active_parameters": 1000.0, "first_token_ratio": 0.8}
    assert child.data.metrics == expected | {"first_token_ratio.low": 0.75, "first_token_ratio.high": 0.85}


def test_a_failed_trial_is_a_failed_run_with_its_reason(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    failed = replace(record, status=TrialStatus.FAILED, values={}, metrics={}, reason="no score" * 9999)
    Tracker(folder, study).log_trial(failed, files)
    (child,) = Logged(folder, study).children
    assert (child.info.status, child.data.metrics) == ("FAILED", {})
    assert child.data.tags[REASON_TAG].startswith("no score")


def test_a_pruned_trial_is_a_killed_run_without_values(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    pruned = replace(record, status=TrialStatus.PRUNED, values={}, metrics={}, reason="dominated by trial 2")
    Tracker(folder, study).log_trial(pruned, files)
    (child,) = Logged(folder, study).children
    assert (child.info.status, child.data.metrics) == ("KILLED", {})
    assert child.data.tags[REASON_TAG] == "dominated by trial 2"


def test_the_same_trial_is_logged_once(folder: Path, study: str, record: TrialRecord, files: Path) -> None:
    tracker = Tracker(folder, study)
    tracker.log_trial(record, files)
    (first,) = Logged(folder, study).children
    tracker.log_trial(record, files)
    assert [child.info.run_id for child in Logged(folder, study).children] == [first.info.run_id]


@pytest.mark.parametrize("status", [TrialStatus.SCORED, TrialStatus.FAILED, TrialStatus.PRUNED])
def test_a_resumed_study_goes_on_in_the_same_runs(
    folder: Path, study: str, record: TrialRecord, files: Path, status: TrialStatus
) -> None:
    record = replace(record, status=status)
    Tracker(folder, study).log_trial(record, files)
    before = Logged(folder, study)
    runs = [run.info.run_id for run in (*before.parents, *before.children)]
    resumed = Tracker(folder, study)
    resumed.log_trial(record, files)
    after = Logged(folder, study)
    assert [run.info.run_id for run in (*after.parents, *after.children)] == runs
    resumed.log_trial(replace(record, number=4), files)
    assert len(Logged(folder, study).children) == 2


def test_trials_of_another_study_are_not_taken_for_ones_own(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    Tracker(folder, study).log_trial(record, files)
    other = next(_names)
    Tracker(folder, other).log_trial(record, files)
    assert len(Logged(folder, study).children) == len(Logged(folder, other).children) == 1


def test_a_trial_that_was_half_logged_when_killed_is_logged_anew(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    Tracker(folder, study)
    half_logged = Logged(folder, study).start_child(3)
    Tracker(folder, study).log_trial(record, files)
    (child,) = Logged(folder, study).children
    assert child.info.run_id != half_logged
    assert child.info.status == "FINISHED"


def test_the_study_is_logged_with_its_model_data_baseline_front_and_pictures(
    folder: Path, study: str, record: TrialRecord, files: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "front.png"
    picture.write_bytes(b"png")
    data = [DataSet("wer", "asr.jsonl", "0123456789abcdef", "search")]
    tracker = Tracker(folder, study)
    tracker.log_study(StudyFacts({"model": "tiny", "seed": 0}, {"autoreap.model_fingerprint": "abc"}, data))
    tracker.log_baseline({"wer": WER})
    for number in (3, 4):
        tracker.log_trial(replace(record, number=number), files)
    tracker.close([3], [picture])
    logged = Logged(folder, study)
    (parent,) = logged.parents
    assert parent.data.params == {"model": "tiny", "seed": "0"}
    assert parent.data.tags["autoreap.model_fingerprint"] == "abc"
    assert parent.data.metrics["baseline.wer"] == WER.value
    assert {"baseline.wer.low", "baseline.wer.high"} <= set(parent.data.metrics)
    assert logged.artifacts(parent) == {"front.png"}
    assert parent.info.status == "FINISHED"
    (used,) = logged.data_sets(parent)
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == ("wer", "0123456789abcdef", "search")
    assert {run.data.tags[TRIAL_TAG]: run.data.tags.get(FRONT_TAG) for run in logged.children} == {
        f"{study}/3": "true",
        f"{study}/4": None,
    }


def test_a_search_that_resumes_adds_to_its_study_and_logs_nothing_of_it_twice(
    folder: Path, study: str, record: TrialRecord, files: Path, tmp_path: Path
) -> None:
    data = [DataSet("wer", "asr.jsonl", "0123456789abcdef", "search")]
    for number, front in ((0, [0]), (1, [1])):
        picture = tmp_path / f"{number}.png"
        picture.write_bytes(b"png")
        tracker = Tracker(folder, study)
        tracker.log_study(StudyFacts({"seed": number}, data=data))  # a setting has changed
        tracker.log_baseline({"wer": WER})
        tracker.log_trial(replace(record, number=number), files)
        assert Logged(folder, study).parents[0].info.status == "RUNNING"
        tracker.close(front, [picture], status="KILLED")
    logged = Logged(folder, study)
    (parent,) = logged.parents
    assert logged.artifacts(parent) == {"0.png", "1.png"}
    assert parent.info.status == "KILLED"
    assert len(logged.data_sets(parent)) == 1
    assert len(logged.history(parent, "baseline.wer")) == 1
    fronts = {run.data.tags[TRIAL_TAG]: run.data.tags[FRONT_TAG] for run in logged.children}
    assert fronts == {f"{study}/0": "false", f"{study}/1": "true"}


def use(tracker: Tracker, record: TrialRecord, files: Path) -> None:
    """All that a search does with its tracker."""
    tracker.log_study(StudyFacts({"model": "tiny"}))
    tracker.log_baseline({"wer": WER})
    for number in range(20):
        tracker.log_trial(replace(record, number=number), files)
    tracker.close([3], sorted(files.iterdir()))


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_report_split_is_logged_once_on_baseline_and_trials_and_anew_where_it_changed(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    tracker = Tracker(folder, study)
    tracker.log_trial(record, files)
    other = score([Counts(2, 5), Counts(1, 5)])
    for measured in (WER, WER, other):
        trials = {3: HeldOutTrial({"wer": measured}, {}, []), 9: HeldOutTrial({"wer": WER}, {}, [])}
        tracker.log_held_out(HeldOutScores("digest", {"wer": WER}, trials))  # 9 was never logged
    logged = Logged(folder, study)
    (child,), (parent,) = logged.children, logged.parents
    assert [entry.value for entry in logged.history(child, "report.wer")] == [WER.value, other.value]
    assert {"report.wer.low", "report.wer.high"} <= set(child.data.metrics)
    assert child.data.metrics["wer"] == WER.value
    assert [entry.value for entry in logged.history(parent, "baseline.report.wer")] == [WER.value]


@pytest.mark.parametrize("uri", [NOWHERE, "unheard-of://server", "mute"])
def test_a_server_that_is_not_there_costs_a_warning_and_not_every_trial_its_timeout(
    tmp_path: Path,
    record: TrialRecord,
    files: Path,
    uri: str,
    mute: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    started = time.monotonic()
    use(Tracker(tmp_path / "mlruns", "study", tracking_uri=mute if uri == "mute" else uri), record, files)
    assert time.monotonic() - started < 15
    warnings = capsys.readouterr().err
    assert warnings.count("warning: MLflow is not available, tried again in 30 s; the search goes on") == 1
    assert "MLflow lacks some runs; the same command logs them when it resumes the search" in warnings


@pytest.fixture
def broken(folder: Path) -> Iterator[Any]:
    """Breaks the database behind MLflow's back when called, mends it when called again, or at the end."""
    names = ["runs", "lost"]

    def rename() -> None:
        with sqlite3.connect(folder / "mlflow.db") as connection:
            connection.execute(f"ALTER TABLE {names[0]} RENAME TO {names[1]}")
        names.reverse()

    yield rename
    if names[0] == "lost":
        rename()


def test_what_a_database_did_not_take_is_logged_as_soon_as_it_is_back(
    folder: Path, study: str, record: TrialRecord, files: Path, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(folder, study, pause_seconds=0.2)
    broken()
    tracker.log_trial(replace(record, number=0), files)
    tracker.log_trial(replace(record, number=1), files)  # within the pause: no second warning
    assert capsys.readouterr().err.count("warning: trial 0 could not be logged to MLflow") == 1
    broken()
    time.sleep(0.2)
    tracker.log_trial(replace(record, number=2), files)
    assert "MLflow can be reached again; waiting entries are logged (3)" in capsys.readouterr().err
    numbers = sorted(child.data.tags[TRIAL_TAG] for child in Logged(folder, study).children)
    assert numbers == [f"{study}/{number}" for number in range(3)]


def test_a_trial_that_can_not_be_logged_does_not_keep_the_others_out(
    folder: Path, study: str, record: TrialRecord, files: Path
) -> None:
    unloggable = replace(record, number=0, params={"re*tention": 0.5})  # a name that MLflow refuses
    tracker = Tracker(folder, study, pause_seconds=0.0)
    tracker.log_trial(unloggable, files)
    for number in (1, 2):
        tracker.log_trial(replace(record, number=number), files)
    done = [child.data.tags[TRIAL_TAG] for child in Logged(folder, study).children if child.info.status == "FINISHED"]
    assert sorted(done) == [f"{study}/1", f"{study}/2"]
    Tracker(folder, study).log_trial(replace(record, number=0), files)
    assert [child.info.status for child in Logged(folder, study).children] == ["FINISHED"] * 3


def test_a_chosen_checkpoint_is_registered_once(
    folder: Path, study: str, record: TrialRecord, files: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(AutoreapError, match="no run of trial"):
        register(checkpoint, "small", f"{study}/3", folder=folder)
    Tracker(folder, study).log_trial(record, files)
    versions = [register(checkpoint, "small", f"{study}/3", folder=folder) for _ in range(2)]
    assert versions == ["1", "1"]
    (version,) = Logged(folder, study).versions("small")
    assert (version.source, version.tags) == (checkpoint.as_uri(), {TRIAL_TAG: f"{study}/3"})
    assert version.run_id == Logged(folder, study).children[0].info.run_id


@pytest.fixture
def whole(folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, with a database that holds one experiment, no run and no registered model."""
    Tracker(folder, next(_names))
    copy = tmp_path / "whole" / "mlruns"
    copy.mkdir(parents=True)
    shutil.copy(folder / "mlflow.db", copy / "mlflow.db")
    with sqlite3.connect(copy / "mlflow.db") as connection:
        for table in ("latest_metrics", "metrics", "params", "tags", "input_tags", "inputs", "runs"):
            connection.execute(f"DELETE FROM {table}")
        for table in ("model_version_tags", "model_versions", "registered_models"):
            connection.execute(f"DELETE FROM {table}")
    return copy


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_first_table(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER, name VARCHAR(256))")


def stop_at_a_step(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize("damage", [empty, make_first_table, stop_at_a_step, overwrite, cut])
def test_a_database_that_is_of_no_use_is_set_aside_with_a_warning_and_made_anew(
    damage: Callable[[Path], None],
    whole: Path,
    record: TrialRecord,
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(whole / "mlflow.db")
    Tracker(whole, "study").log_trial(record, files)
    assert [run.info.status for run in Logged(whole, "study").children] == ["FINISHED"]
    found = capsys.readouterr().err
    assert re.search(r"mlflow.db (is incomplete|is damaged .*); it is now mlflow.db.damaged, and a new", found)
    assert {path.name for path in whole.iterdir()} == {"mlflow.db", "mlflow.db.damaged", "artifacts"}


def test_a_database_of_an_older_mlflow_that_holds_runs_is_left_as_it_is(
    folder: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "mlflow.db", whole / "mlflow.db")
    stop_at_a_step(whole / "mlflow.db")
    Tracker(whole, "study")
    assert "out-of-date database schema" in capsys.readouterr().err
    assert [path.name for path in whole.iterdir()] == ["mlflow.db"]


def test_what_keeps_a_database_from_being_made_leaves_nothing_half_made(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        empty(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make_whole(tmp_path, "head", fail, "autoreap")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "ä&=;"])
def test_a_folder_of_any_name_takes_runs_and_files_and_no_other_folder_is_made(
    name: str, whole: Path, record: TrialRecord, files: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (whole.parent).rename(here / name)
    folder = here / name / "mlruns"
    for _ in range(2):
        Tracker(folder, "study").log_trial(record, files)
    (found,) = here.rglob("plan.json")
    assert found.is_relative_to(folder / "artifacts")
    assert [path.name for path in here.iterdir()] == [name]
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "artifacts"}
    with sqlite3.connect(f"{(folder / 'mlflow.db').as_uri()}?mode=ro", uri=True) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def test_a_new_folder_with_a_question_mark_in_its_name_holds_its_database(tmp_path: Path) -> None:
    Tracker(tmp_path / "a?b%20", "study")
    assert [path.name for path in tmp_path.iterdir()] == ["a?b%20"]
    assert [path.name for path in (tmp_path / "a?b%20").iterdir()] == ["mlflow.db"]


def test_a_project_that_was_moved_keeps_its_files_and_does_not_make_the_old_folder_again(
    whole: Path, record: TrialRecord, files: Path, tmp_path: Path
) -> None:
    Tracker(whole, "study").log_trial(record, files)
    checkpoint = whole / "checkpoints" / "small"
    checkpoint.mkdir(parents=True)
    register(checkpoint, "small", "study/3", folder=whole)
    moved = tmp_path / "moved" / "mlruns"
    moved.parent.mkdir()
    whole.rename(moved)
    tracker = Tracker(moved, "study")
    tracker.log_trial(replace(record, number=4), files)
    tracker.close([3], sorted(files.iterdir()))
    assert not whole.exists()
    logged = Logged(moved, "study")
    for run in (*logged.parents, *logged.children):
        assert logged.artifacts(run) == {"plan.json", "outcomes.jsonl"}
    (version,) = logged.versions("small")
    assert version.source == (moved / "checkpoints" / "small").as_uri()


def _begin(folder: Path, study: str, together: Any) -> None:
    together.wait()
    Tracker(folder, study).close([], [])


def test_studies_that_begin_at_once_in_a_new_folder_are_all_logged(tmp_path: Path) -> None:
    number = 3
    spawned = multiprocessing.get_context("spawn")
    together = spawned.Barrier(number)
    processes = [spawned.Process(target=_begin, args=(tmp_path, f"night-{each}", together)) for each in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    for each in range(number):
        assert [run.info.status for run in Logged(tmp_path, f"night-{each}").parents] == ["FINISHED"]


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "mute"])
def test_a_database_that_is_not_there_is_given_up_within_ten_seconds_and_no_secret_is_shown(
    scheme: str, tmp_path: Path, mute: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    address = "127.0.0.1:9" if scheme != "mute" else mute.removeprefix("http://")
    started = time.monotonic()
    Tracker(tmp_path, "study", tracking_uri=f"postgresql+psycopg://someone:s%40cret@{address}/runs?password=hush")
    assert time.monotonic() - started < 10
    found = capsys.readouterr().err
    assert "MLflow is not available" in found
    assert not re.search("someone|s@cret|s%40cret|hush", found)


def test_what_a_server_says_is_logged_without_the_users_name_and_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Tracker(tmp_path, "study", tracking_uri=NOWHERE.replace("//", "//someone:s%40cret@"))
    found = capsys.readouterr().err
    assert "MLflow is not available" in found
    assert not re.search("someone|s@cret|s%40cret", found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real `mlflow server` on this machine: its address and its database's folder."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}", folder
    process.terminate()
    process.wait()


def test_a_server_named_by_the_environment_takes_runs_files_and_the_chosen_checkpoint(
    server: tuple[str, Path], record: TrialRecord, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, folder = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for _ in range(2):  # the second as a resumed search does
        use(Tracker(tmp_path / "unused", "study"), record, files)
    logged = Logged(folder, "study")
    assert len(logged.parents) == 1
    assert sorted(child.data.tags[TRIAL_TAG] for child in logged.children) == sorted(f"study/{n}" for n in range(20))
    client = MlflowClient(uri)
    assert {e.path for e in client.list_artifacts(logged.children[0].info.run_id)} == {"plan.json", "outcomes.jsonl"}
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    assert [register(checkpoint, "small", "study/3", folder=tmp_path) for _ in range(2)] == ["1", "1"]
    run_id = client.get_model_version("small", "1").run_id
    downloaded = Path(client.download_artifacts(str(run_id), "checkpoint"))
    assert (downloaded / "config.json").read_text() == "{}"
