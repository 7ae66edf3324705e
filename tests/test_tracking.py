"""Against a real MLflow, in SQLite: what is logged, that it is logged once, and that a failure never ends a search."""

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from autoreap.scores import Counts, exact, score
from autoreap.tracking import STUDY_TAG, TRIAL_TAG, Tracker, TrialRecord

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there
WER = score([Counts(1, 5), Counts(0, 5), Counts(2, 5)], num_failed=1).as_dict()

_names = (f"study-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests, each with a study of its own: MLflow takes seconds to create one."""
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture
def study() -> str:
    return next(_names)


@pytest.fixture
def record(tmp_path: Path) -> TrialRecord:
    for name in ("plan.json", "outcomes.jsonl"):
        (tmp_path / name).write_text("{}")
    return TrialRecord(
        number=3,
        parameters={"retention": 0.5, "layers_cut": 2, "saliency": "affinity"},
        values={"size_bytes": 1e6, "wer": WER["value"]},
        metrics={"wer": WER},
        state="COMPLETE",
        artifacts=[tmp_path / "outcomes.jsonl", tmp_path / "plan.json"],
        tags={"preset": "medium"},
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

    def start_child(self, number: int) -> str:
        """A child as a kill leaves it between its creation and its end."""
        tags = {TRIAL_TAG: f"{self._study}/{number}", "mlflow.parentRunId": self.parents[0].info.run_id}
        return str(self._client.create_run(self.experiment.experiment_id, tags=tags).info.run_id)


def test_a_trial_is_a_child_run_of_its_study_with_values_intervals_parameters_tags_and_files(
    folder: Path, study: str, record: TrialRecord
) -> None:
    Tracker(folder, study).log_trial(record)
    logged = Logged(folder, study)
    (parent,), (child,) = logged.parents, logged.children
    assert child.data.tags[TRIAL_TAG] == f"{study}/3"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["preset"] == "medium"
    assert child.data.params == {"retention": "0.5", "layers_cut": "2", "saliency": "affinity"}
    parts = {f"wer.{part}": WER[part] for part in ("low", "high", "num_failed")}
    assert child.data.metrics == {"size_bytes": 1e6, "wer": WER["value"], **parts}
    assert child.info.status == "FINISHED"
    assert logged.artifacts(child) == {"plan.json", "outcomes.jsonl"}
    assert (folder / "artifacts" / child.info.run_id).is_dir()


def test_what_is_counted_is_logged_alone_and_what_is_timed_with_its_interval(
    folder: Path, study: str, record: TrialRecord
) -> None:
    timed = {"value": 0.8, "low": 0.75, "high": 0.85, "num_samples": 48, "quartiles": [0.7, 0.9]}
    costs = {"active_parameters": exact(1000), "first_token_ratio": timed}
    Tracker(folder, study).log_trial(replace(record, values={}, metrics=costs))
    (child,) = Logged(folder, study).children
    expected = {"active_parameters": 1000.0, "first_token_ratio": 0.8}
    assert child.data.metrics == expected | {"first_token_ratio.low": 0.75, "first_token_ratio.high": 0.85}


def test_a_failed_trial_is_a_failed_run_with_its_reason(folder: Path, study: str, record: TrialRecord) -> None:
    failed = replace(record, state="FAIL", values={}, metrics={}, artifacts=(), tags={"autoreap.error": "no score"})
    Tracker(folder, study).log_trial(failed)
    (child,) = Logged(folder, study).children
    assert (child.info.status, child.data.metrics) == ("FAILED", {})
    assert child.data.tags["autoreap.error"] == "no score"


def test_a_raced_trial_is_a_killed_run_without_values(folder: Path, study: str, record: TrialRecord) -> None:
    raced = replace(
        record, state="PRUNED", values={}, metrics={}, artifacts=(), tags={"autoreap.raced": "trial 2 is better"}
    )
    Tracker(folder, study).log_trial(raced)
    (child,) = Logged(folder, study).children
    assert (child.info.status, child.data.metrics) == ("KILLED", {})
    assert child.data.tags["autoreap.raced"] == "trial 2 is better"


def test_the_same_trial_is_logged_once(folder: Path, study: str, record: TrialRecord) -> None:
    tracker = Tracker(folder, study)
    tracker.log_trial(record)
    (first,) = Logged(folder, study).children
    tracker.log_trial(record)
    assert [child.info.run_id for child in Logged(folder, study).children] == [first.info.run_id]


@pytest.mark.parametrize("state", ["COMPLETE", "FAIL", "PRUNED"])
def test_a_resumed_study_goes_on_in_the_same_runs(folder: Path, study: str, record: TrialRecord, state: str) -> None:
    record = replace(record, state=state)
    Tracker(folder, study).log_trial(record)
    before = Logged(folder, study)
    runs = [run.info.run_id for run in (*before.parents, *before.children)]
    resumed = Tracker(folder, study)
    resumed.log_trial(record)
    after = Logged(folder, study)
    assert [run.info.run_id for run in (*after.parents, *after.children)] == runs
    resumed.log_trial(replace(record, number=4))
    assert len(Logged(folder, study).children) == 2


def test_trials_of_another_study_are_not_taken_for_ones_own(folder: Path, study: str, record: TrialRecord) -> None:
    Tracker(folder, study).log_trial(record)
    other = next(_names)
    Tracker(folder, other).log_trial(record)
    assert len(Logged(folder, study).children) == len(Logged(folder, other).children) == 1


def test_a_trial_that_was_half_logged_when_killed_is_logged_anew(folder: Path, study: str, record: TrialRecord) -> None:
    Tracker(folder, study)
    half_logged = Logged(folder, study).start_child(3)
    Tracker(folder, study).log_trial(record)
    (child,) = Logged(folder, study).children
    assert child.info.run_id != half_logged
    assert child.info.status == "FINISHED"


def test_the_study_itself_is_logged_with_its_baseline_and_pictures(folder: Path, study: str, tmp_path: Path) -> None:
    picture = tmp_path / "front.png"
    picture.write_bytes(b"png")
    tracker = Tracker(folder, study)
    tracker.log_study({"model": "tiny", "seed": 0}, {"wer": WER}, [picture])
    tracker.close()
    logged = Logged(folder, study)
    (parent,) = logged.parents
    assert parent.data.params == {"model": "tiny", "seed": "0"}
    assert parent.data.metrics["baseline.wer"] == WER["value"]
    assert {"baseline.wer.low", "baseline.wer.high"} <= set(parent.data.metrics)
    assert logged.artifacts(parent) == {"front.png"}
    assert parent.info.status == "FINISHED"


def test_what_a_resumed_search_adds_to_its_study_is_logged_though_a_setting_has_changed(
    folder: Path, study: str, tmp_path: Path
) -> None:
    pictures = [tmp_path / name for name in ("first.png", "second.png")]
    for picture, seed in zip(pictures, (0, 1), strict=True):
        picture.write_bytes(b"png")
        tracker = Tracker(folder, study)
        tracker.log_study({"seed": seed}, {"wer": WER}, [picture])
        tracker.close()
    logged = Logged(folder, study)
    assert logged.artifacts(logged.parents[0]) == {"first.png", "second.png"}


def use(tracker: Tracker, record: TrialRecord) -> None:
    """All that a search does with its tracker."""
    tracker.log_trial(record)
    tracker.log_study({"model": "tiny"}, {"wer": WER}, record.artifacts)
    tracker.close()


@pytest.mark.parametrize("uri", [NOWHERE, "unheard-of://server"])
def test_a_server_that_is_not_there_is_a_warning_alone(
    tmp_path: Path, record: TrialRecord, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    use(Tracker(tmp_path / "mlruns", "study", tracking_uri=uri), record)
    assert capsys.readouterr().err.count("warning: MLflow is not available, this search is not tracked") == 1


@pytest.fixture
def broken(folder: Path) -> Iterator[Any]:
    """Breaks the database behind MLflow's back when called; mends it afterwards."""

    def rename(old: str, new: str) -> None:
        with sqlite3.connect(folder / "mlflow.db") as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    yield lambda: rename("runs", "lost")
    rename("lost", "runs")


def test_a_database_that_breaks_during_the_search_is_a_warning_alone(
    folder: Path, study: str, record: TrialRecord, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(folder, study)
    broken()
    use(tracker, record)
    warnings = capsys.readouterr().err
    assert "warning: trial 3 could not be logged to MLflow" in warnings
    assert "warning: the study could not be logged to MLflow" in warnings
    assert "warning: the study could not be marked as finished in MLflow" in warnings


def test_a_trial_that_could_not_be_logged_is_logged_when_the_search_resumes(
    folder: Path, study: str, record: TrialRecord
) -> None:
    missing = replace(record, artifacts=[folder / "no such file"])
    tracker = Tracker(folder, study)
    tracker.log_trial(missing)
    assert [child.info.status for child in Logged(folder, study).children] != ["FINISHED"]
    Tracker(folder, study).log_trial(record)
    assert [child.info.status for child in Logged(folder, study).children] == ["FINISHED"]
