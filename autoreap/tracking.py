"""The only MLflow import. A failure to log is a warning, never the end of a search: Optuna holds the results.

Everything lives under one folder: runs in `mlflow.db`, artifacts in `artifacts/`, unless a tracking URI says otherwise.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.progress import log
from autoreap.scores import is_exact

STUDY_TAG = "autoreap.study"
TRIAL_TAG = "autoreap.trial"
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}  # a run's, by its trial's


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


class Tracker:
    """Logs a study as a parent run and each trial as a child run, once, however often the search is resumed."""

    def __init__(self, folder: Path, study: str, *, tracking_uri: str | None = None) -> None:
        # Read when mlflow is imported: an unreachable server must cost seconds, not its default four minutes a call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._study = study
        self._client: Any = None
        try:
            self._connect(folder, tracking_uri)
        except Exception as error:  # MLflow raises what its many back ends raise
            log(f"warning: MLflow is not available, this search is not tracked: {error}")

    def _connect(self, folder: Path, tracking_uri: str | None) -> None:
        import logging

        for noisy in ("alembic", "mlflow.store.db.utils"):  # schema creation tells each of its forty steps
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri or f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("autoreap")
        artifacts = None if tracking_uri else (folder / "artifacts").resolve().as_uri()
        self._experiment = (
            experiment.experiment_id
            if experiment
            else client.create_experiment("autoreap", artifact_location=artifacts)
        )
        self._parent = self._find_or_create_parent(client)
        self._logged = self._trials_logged(client)
        self._client = client

    def _find_or_create_parent(self, client: Any) -> str:
        found = client.search_runs([self._experiment], f"tags.`{STUDY_TAG}` = '{self._study}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(self._experiment, run_name=self._study, tags={STUDY_TAG: self._study})
        return str(run.info.run_id)

    def _trials_logged(self, client: Any) -> set[str]:
        children = f"tags.`mlflow.parentRunId` = '{self._parent}' and attributes.status != 'RUNNING'"
        logged: set[str] = set()
        token = None
        while True:
            page = client.search_runs([self._experiment], children, page_token=token)
            logged |= {run.data.tags[TRIAL_TAG] for run in page if TRIAL_TAG in run.data.tags}
            token = page.token
            if not token:
                return logged

    def log_trial(self, record: TrialRecord) -> None:
        """Create the child run of a finished trial, unless it is there already."""
        tag = f"{self._study}/{record.number}"
        if self._client is None or tag in self._logged:
            return
        try:
            self._create_child(record, tag)
            self._logged.add(tag)
        except Exception as error:  # see __init__
            log(f"warning: trial {record.number} could not be logged to MLflow: {error}")

    def _create_child(self, record: TrialRecord, tag: str) -> None:
        from mlflow.entities import Metric, Param

        client = self._client
        for half_logged in client.search_runs([self._experiment], f"tags.`{TRIAL_TAG}` = '{tag}'"):
            client.delete_run(half_logged.info.run_id)  # a kill came between its creation and its end
        tags = {TRIAL_TAG: tag, "mlflow.parentRunId": self._parent, **record.tags}
        run_id = client.create_run(self._experiment, run_name=f"trial {record.number}", tags=tags).info.run_id
        now = int(time.time() * 1000)
        flat = {**record.values, **_flat(record.metrics)}
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in flat.items()],
            params=[Param(name, str(value)) for name, value in record.parameters.items()],
        )
        for artifact in record.artifacts:
            client.log_artifact(run_id, str(artifact))
        client.set_terminated(run_id, status=_STATUS.get(record.state, "FAILED"))

    def log_study(
        self, parameters: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], artifacts: Sequence[Path]
    ) -> None:
        """On the parent run: what was searched, the baseline's metrics (as `baseline.wer`), pictures and reports."""
        if self._client is None:
            return
        try:
            logged = self._client.get_run(self._parent).data.params  # MLflow refuses to change one
            for name in parameters.keys() - logged.keys():
                self._client.log_param(self._parent, name, parameters[name])
            for name, value in _flat(metrics).items():
                self._client.log_metric(self._parent, f"baseline.{name}", value)
            for artifact in artifacts:
                self._client.log_artifact(self._parent, str(artifact))
        except Exception as error:  # see __init__
            log(f"warning: the study could not be logged to MLflow: {error}")

    def close(self) -> None:
        """Mark the parent run as finished."""
        if self._client is None:
            return
        try:
            self._client.set_terminated(self._parent)
        except Exception as error:  # see __init__
            log(f"warning: the study could not be marked as finished in MLflow: {error}")


def _flat(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`wer`, `wer.low`, `wer.high`, `wer.num_failed` for each metric; the value alone of what is exact."""
    flat = {}
    for name, measured in metrics.items():
        flat[name] = float(measured["value"])
        parts = () if is_exact(measured) else ("low", "high", "num_failed")
        flat |= {f"{name}.{part}": float(measured[part]) for part in parts if part in measured}
    return flat
