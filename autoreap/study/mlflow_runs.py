"""What is written to MLflow: a parent run for a study, a child for each trial.

Raises whatever MLflow's back ends raise, and may be called again after that or a kill: nothing is there twice.
"""

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.scores import is_exact

STUDY_TAG = "autoreap.study"
TRIAL_TAG = "autoreap.trial"
FRONT_TAG = "autoreap.front"
STATE_TAG = "autoreap.state"
EXPERIMENT = "autoreap"
_LONGEST_TAG = 4000  # characters; MLflow refuses a run with a much longer one, such as why a trial failed
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}


@dataclass(frozen=True)
class TrialRecord:
    """What is logged of one finished trial. `metrics` are scores as plain values, `values` the objectives."""

    number: int
    parameters: Mapping[str, Any]
    values: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Any]]
    state: str
    artifacts: Sequence[Path] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """Data that a study was measured on: what for (calibration, search), and the digest of its rows and media."""

    name: str
    source: str
    digest: str
    context: str


@dataclass(frozen=True)
class StudyRecord:
    """What is logged of a study when it starts. `tags` say which model it prunes."""

    parameters: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    data: Sequence[DataSet] = ()
    artifacts: Sequence[Path] = ()


def connect(folder: Path, tracking_uri: str | None) -> Any:
    """A client of `tracking_uri`, or of the database in `folder`."""
    # Read when mlflow is imported: a server that is gone must cost seconds, not its default of four minutes a call.
    # It is `Tracker` that tries again.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # schema creation tells each of its forty steps
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback for what is a warning here
    from mlflow import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri or f"sqlite:///{folder.resolve() / 'mlflow.db'}")


class StudyRuns:
    """The runs of one study."""

    def __init__(self, folder: Path, study: str, tracking_uri: str | None) -> None:
        self._study = study
        self._client = connect(folder, tracking_uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        artifacts = None if tracking_uri else (folder / "artifacts").resolve().as_uri()
        self._experiment = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        )
        self._parent = self._find_or_create_parent()
        self._logged = set(self._finished_children())

    def _find_or_create_parent(self) -> str:
        found = self._client.search_runs([self._experiment], f"tags.`{STUDY_TAG}` = '{self._study}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run = self._client.create_run(self._experiment, run_name=self._study, tags={STUDY_TAG: self._study})
        return str(run.info.run_id)

    def _finished_children(self) -> dict[str, Any]:
        """The finished children by their trial tag."""
        query = f"tags.`mlflow.parentRunId` = '{self._parent}' and attributes.status != 'RUNNING'"
        children: dict[str, Any] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            children |= {run.data.tags[TRIAL_TAG]: run for run in page if TRIAL_TAG in run.data.tags}
            token = page.token
            if not token:
                return children

    def log_study(self, record: StudyRecord) -> None:
        """On the parent: what is searched, on which model and data."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        logged = self._client.get_run(self._parent).data.params  # MLflow refuses to change one
        for name in record.parameters.keys() - logged.keys():
            self._client.log_param(self._parent, name, record.parameters[name])
        for name, value in record.tags.items():
            self._client.set_tag(self._parent, name, value)
        inputs = [
            DatasetInput(
                Dataset(data.name, data.digest, source_type="local", source=data.source),
                [InputTag("mlflow.data.context", data.context)],
            )
            for data in record.data
        ]
        if inputs:
            self._client.log_inputs(self._parent, inputs)
        self.log_artifacts(record.artifacts)

    def log_baseline(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """On the parent: the unpruned model's metrics, as `baseline.wer`."""
        logged = self._client.get_run(self._parent).data.metrics
        named = {f"baseline.{name}": value for name, value in _flat(metrics).items()}
        self._log_metrics(self._parent, {name: value for name, value in named.items() if name not in logged})

    def log_trial(self, record: TrialRecord) -> None:
        """Create the child run of a finished trial, unless it is there already."""
        from mlflow.entities import Param

        tag = f"{self._study}/{record.number}"
        if tag in self._logged:
            return
        for half_logged in self._client.search_runs([self._experiment], f"tags.`{TRIAL_TAG}` = '{tag}'"):
            self._client.delete_run(half_logged.info.run_id)  # a kill came between its creation and its end
        tags = {TRIAL_TAG: tag, STATE_TAG: record.state, "mlflow.parentRunId": self._parent}
        tags |= {name: value[:_LONGEST_TAG] for name, value in record.tags.items()}
        run = self._client.create_run(self._experiment, run_name=f"trial {record.number}", tags=tags)
        run_id = run.info.run_id
        parameters = [Param(name, str(value)) for name, value in record.parameters.items()]
        self._client.log_batch(run_id, params=parameters)
        self._log_metrics(run_id, {**record.values, **_flat(record.metrics)})
        for artifact in record.artifacts:
            self._client.log_artifact(run_id, str(artifact))
        self._client.set_terminated(run_id, status=_STATUS.get(record.state, "FAILED"))
        self._logged.add(tag)

    def log_confirmed(
        self, baseline: Mapping[str, Mapping[str, Any]], trials: Mapping[int, Mapping[str, Mapping[str, Any]]]
    ) -> None:
        """Metrics of the report split: `report.wer` on the run of a trial, `baseline.report.wer` on the parent."""
        self._log_new(self._client.get_run(self._parent), "baseline.report", baseline)
        children = self._finished_children()
        for number, metrics in trials.items():
            if run := children.get(f"{self._study}/{number}"):
                self._log_new(run, "report", metrics)

    def _log_new(self, run: Any, prefix: str, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """What the run does not say already: the report split may have changed since."""
        named = {f"{prefix}.{name}": value for name, value in _flat(metrics).items()}
        logged = run.data.metrics
        if new := {name: value for name, value in named.items() if logged.get(name) != value}:
            self._log_metrics(run.info.run_id, new)

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """On the parent: pictures, reports, the space."""
        for path in paths:
            self._client.log_artifact(self._parent, str(path))

    def mark_front(self, front: Collection[int]) -> None:
        """Tag the children that are on the front `true`, those that were and are no more `false`."""
        on_front = {f"{self._study}/{number}" for number in front}
        for tag, run in self._finished_children().items():
            before, now = run.data.tags.get(FRONT_TAG), str(tag in on_front).lower()
            if before != now and (before or tag in on_front):
                self._client.set_tag(run.info.run_id, FRONT_TAG, now)

    def end(self, status: str) -> None:
        """Mark the parent as `FINISHED`, or as `KILLED` where a signal ended the search."""
        self._client.set_terminated(self._parent, status)


def _flat(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`wer`, `wer.low`, `wer.high`, `wer.num_failed` for each metric; the value alone of what is exact."""
    flat = {}
    for name, measured in metrics.items():
        flat[name] = float(measured["value"])
        parts = () if is_exact(measured) else ("low", "high", "num_failed")
        flat |= {f"{name}.{part}": float(measured[part]) for part in parts if part in measured}
    return flat
