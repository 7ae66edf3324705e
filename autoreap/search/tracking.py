"""A study in MLflow: a parent run with a child run a trial.

Optuna holds the results. MLflow may be slow, gone for an hour, or broken: that is a warning, never the end of a search.
What MLflow did not take waits here, and is tried again ever more rarely; what still waits at the end is logged when the
search resumes. Nothing is logged twice, whatever was killed and when. The only module that imports MLflow.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.data.eval_set import EvalSet
from autoreap.errors import AutoreapError, first_line
from autoreap.formatting import duration
from autoreap.models.loading import ModelInfo
from autoreap.saliency import Saliency
from autoreap.scores import Metric
from autoreap.search.addresses import sqlite_file, sqlite_url, without_secrets
from autoreap.search.records import HeldOutScores, TrialRecord, TrialStatus
from autoreap.search.space import SpaceConfig
from autoreap.search.tracking_file import artifacts_of, make_whole

logger = logging.getLogger(__name__)

STUDY_TAG, TRIAL_TAG, FRONT_TAG = "autoreap.study", "autoreap.trial", "autoreap.front"
STATE_TAG, REASON_TAG = "autoreap.state", "autoreap.reason"
EXPERIMENT = "autoreap"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 900.0
# Characters; MLflow refuses a run with a much longer one, such as why a trial failed.
_MAX_TAG_LENGTH = 4000
_ARTIFACT_PATH = "checkpoint"
_RUN_STATUS = {
    TrialStatus.SCORED: "FINISHED",
    TrialStatus.DUPLICATE: "FINISHED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.INFEASIBLE: "KILLED",
}


@dataclass(frozen=True)
class DataSet:
    """Data that a study was measured on: what for (calibration, search), and the digest of its rows and media."""

    name: str
    source: str
    digest: str
    context: str


@dataclass(frozen=True)
class StudyFacts:
    """What is logged of a study when it starts."""

    parameters: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    data: Sequence[DataSet] = ()
    artifacts: Sequence[Path] = ()


def study_facts(space: SpaceConfig, model_info: ModelInfo, evals: EvalSet, saliency: Saliency) -> StudyFacts:
    """All that is known before the first trial: the space, the model, and the data that it is measured on."""
    parameters = {"model": model_info.name, "space": space.name, "seed": space.seed, "sampler": space.sampler}
    tags = {
        "autoreap.model": model_info.name,
        "autoreap.model_fingerprint": model_info.checkpoint.fingerprint,
        "autoreap.saliency": saliency.digest(),
    }
    data = []
    for modality, sets in space.calibration.sets.items():  # sets of one modality are measured together
        source = ", ".join(chosen.dataset_path for chosen in sets)
        data.append(DataSet(f"calibration.{modality}", source, saliency.provenance[f"data.{modality}"], "calibration"))
    for task in evals.tasks:
        config = task.config
        source = f"{config.dataset_path}:{config.dataset_name or ''}:{config.test_split}"
        data.append(DataSet(task.metric, source, task.digest, "search"))
    return StudyFacts({**parameters, **space.objectives}, tags, data, [space.path, evals.path])


class Tracker:
    """Logs a study to MLflow, however often the search is resumed and MLflow is away.

    Args:
        folder: runs are in its `mlflow.db`, artifacts in `artifacts/`, unless a tracking URI says otherwise: the
            argument, or else the variable MLFLOW_TRACKING_URI.
        pause_seconds: after a first failure; each further one doubles it.
    """

    def __init__(
        self, folder: Path, study: str, *, tracking_uri: str | None = None, pause_seconds: float = FIRST_PAUSE_SECONDS
    ) -> None:
        self._folder = folder
        self._study = study
        self._tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._runs: _StudyRuns | None = None
        self._waiting: dict[str, Callable[[_StudyRuns], None]] = {}
        self._first_pause = pause_seconds
        self._pause = 0.0
        self._next_try = time.monotonic()
        self._flush()  # a server that is not there is told now, before anything is scored

    def log_study(self, facts: StudyFacts) -> None:
        """What is searched, on which model and data."""
        self._log("the study", lambda runs: runs.log_study(facts))

    def log_baseline(self, metrics: Mapping[str, Metric]) -> None:
        """The unpruned model's scores."""
        self._log("the baseline", lambda runs: runs.log_baseline(metrics))

    def log_trial(self, trial: TrialRecord, files: Path) -> None:
        """A finished trial, unless it is logged already. `files` is the folder of its files."""
        self._log(f"trial {trial.number}", lambda runs: runs.log_trial(trial, files))

    def log_held_out(self, scores: HeldOutScores) -> None:
        """The front's scores on the report split."""
        self._log("the report split", lambda runs: runs.log_held_out(scores))

    def close(self, front: Collection[int], artifacts: Sequence[Path], *, status: str = "FINISHED") -> None:
        """The end of the search: its front, pictures and reports, and a last try for all that waits."""

        def end(runs: "_StudyRuns") -> None:
            runs.mark_front(front)
            runs.log_artifacts(artifacts)
            runs.end(status)

        # However long the pause would be: there is no later try in this run.
        self._next_try = time.monotonic()
        self._log("the front", end)
        if self._waiting:
            logger.warning("MLflow lacks some runs; the same command logs them when it resumes the search")

    def _log(self, label: str, entry: Callable[["_StudyRuns"], None]) -> None:
        self._waiting[label] = entry  # a later entry of one label stands for the earlier one
        if time.monotonic() >= self._next_try:
            self._flush()

    def _flush(self) -> None:
        """Log what waits, in order, up to two failures in a row: one may be the entry's own fault, two are MLflow's."""
        if self._runs is None:
            try:
                self._runs = _StudyRuns(self._folder, self._study, self._tracking_uri)
            except Exception as error:  # MLflow raises what its many back ends raise
                self._postpone("MLflow is not available", error, doubled=True)
                return
        num_logged = num_failures = 0
        for label, entry in list(self._waiting.items()):
            try:
                entry(self._runs)
            except Exception as error:  # as above
                self._waiting[label] = self._waiting.pop(label)  # it waits behind the others
                self._postpone(f"{label} could not be logged to MLflow", error, doubled=num_logged == 0)
                num_failures += 1
                if num_failures == 2:
                    return
            else:
                num_logged, num_failures = num_logged + 1, 0
                self._waiting.pop(label, None)
        if self._pause and not self._waiting:
            logger.info("MLflow can be reached again; waiting entries are logged (%d)", num_logged)
            self._pause = 0.0

    def _postpone(self, problem: str, error: Exception, *, doubled: bool) -> None:
        if doubled and self._pause:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        else:
            self._pause = min(self._first_pause, LONGEST_PAUSE_SECONDS)
        self._next_try = time.monotonic() + self._pause
        reason = without_secrets(first_line(error), self._tracking_uri or "")
        logger.warning("%s, tried again in %s; the search goes on: %s", problem, duration(self._pause), reason)


class _StudyRuns:
    """The runs of one study. Raises whatever MLflow's back ends raise, and may be called again after that or a kill."""

    def __init__(self, folder: Path, study: str, tracking_uri: str | None) -> None:
        self._study = study
        self._client = connect(folder, tracking_uri)
        self._experiment = self._find_or_create_experiment()
        self._parent = self._find_or_create_parent()
        self._logged = set(self._finished_children())

    def _find_or_create_experiment(self) -> str:
        # A database in a folder has it from the start; on a server another study may make it at the same moment.
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(self._client.create_experiment(EXPERIMENT))
            except MlflowException:
                experiment = self._client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _find_or_create_parent(self) -> str:
        found = self._client.search_runs([self._experiment], f"tags.`{STUDY_TAG}` = '{self._study}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            # An earlier search has ended it.
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run = self._client.create_run(self._experiment, run_name=self._study, tags={STUDY_TAG: self._study})
        return str(run.info.run_id)

    def _finished_children(self) -> dict[str, Any]:
        query = f"tags.`mlflow.parentRunId` = '{self._parent}' and attributes.status != 'RUNNING'"
        children: dict[str, Any] = {}
        token = None
        # MLflow gives a thousand runs at a time.
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            for run in page:
                if TRIAL_TAG in run.data.tags:
                    children[run.data.tags[TRIAL_TAG]] = run
            token = page.token
            if not token:
                return children

    def log_study(self, facts: StudyFacts) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        logged = self._client.get_run(self._parent).data.params  # MLflow refuses to change one
        for name in facts.parameters.keys() - logged.keys():
            self._client.log_param(self._parent, name, facts.parameters[name])
        for name, value in facts.tags.items():
            self._client.set_tag(self._parent, name, value)
        inputs = []
        for data in facts.data:
            dataset = Dataset(data.name, data.digest, source_type="local", source=data.source)
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)]))
        if inputs:
            self._client.log_inputs(self._parent, inputs)
        self.log_artifacts(facts.artifacts)

    def log_baseline(self, metrics: Mapping[str, Metric]) -> None:
        """On the parent, as `baseline.wer`."""
        self._log_changed_metrics(self._client.get_run(self._parent), "baseline.", metrics)

    def log_trial(self, trial: TrialRecord, files: Path) -> None:
        """Create the child run of a finished trial, unless it is there already."""
        from mlflow.entities import Param

        tag = f"{self._study}/{trial.number}"
        if tag in self._logged:
            return
        for half_logged in self._client.search_runs([self._experiment], f"tags.`{TRIAL_TAG}` = '{tag}'"):
            # A kill came between its creation and its end.
            self._client.delete_run(half_logged.info.run_id)
        tags = {TRIAL_TAG: tag, "mlflow.parentRunId": self._parent, **_tags_of(trial)}
        run_id = self._client.create_run(self._experiment, run_name=f"trial {trial.number}", tags=tags).info.run_id
        self._client.log_batch(run_id, params=[Param(name, str(value)) for name, value in trial.params.items()])
        self._log_metrics(run_id, {**trial.values, **_flatten(trial.metrics)})
        if files.is_dir():
            for path in sorted(files.iterdir()):
                self._client.log_artifact(run_id, str(path))
        # Last: a run that is still RUNNING is half logged, and is made again.
        self._client.set_terminated(run_id, status=_RUN_STATUS.get(trial.status, "FAILED"))
        self._logged.add(tag)

    def log_held_out(self, scores: HeldOutScores) -> None:
        """`report.wer` on the run of a trial, `baseline.report.wer` on the parent. The split may have changed since."""
        self._log_changed_metrics(self._client.get_run(self._parent), "baseline.report.", scores.baseline)
        children = self._finished_children()
        for number, trial in scores.trials.items():
            run = children.get(f"{self._study}/{number}")
            # A trial that MLflow did not take yet is logged when the search resumes.
            if run is not None:
                self._log_changed_metrics(run, "report.", trial.metrics)

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """On the parent: pictures, reports, the space."""
        for path in paths:
            self._client.log_artifact(self._parent, str(path))

    def mark_front(self, front: Collection[int]) -> None:
        """Tag the children on the front `true`, those that left it `false`."""
        on_front = {f"{self._study}/{number}" for number in front}
        for tag, run in self._finished_children().items():
            before, now = run.data.tags.get(FRONT_TAG), str(tag in on_front).lower()
            # Most trials were never on the front: they get no tag, which saves a request each.
            if before != now and (before or tag in on_front):
                self._client.set_tag(run.info.run_id, FRONT_TAG, now)

    def end(self, status: str) -> None:
        """Mark the parent as `FINISHED`, or as `KILLED` where a signal ended the search."""
        self._client.set_terminated(self._parent, status)

    def _log_changed_metrics(self, run: Any, prefix: str, metrics: Mapping[str, Metric]) -> None:
        # MLflow keeps a history of each metric: the same value again would be a second point of it.
        changed = {}
        for name, value in _flatten(metrics).items():
            if run.data.metrics.get(prefix + name) != value:
                changed[prefix + name] = value
        if changed:
            self._log_metrics(run.info.run_id, changed)

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric as LoggedMetric

        now = int(time.time() * 1000)  # MLflow wants milliseconds
        logged = [LoggedMetric(name, value, now, 0) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=logged)


def _tags_of(trial: TrialRecord) -> dict[str, str]:
    tags = {STATE_TAG: str(trial.status)}
    if trial.preset is not None:
        tags["preset"] = trial.preset
    if trial.retry_of is not None:
        tags["retry_of"] = str(trial.retry_of)
    if trial.reason is not None:
        tags[REASON_TAG] = trial.reason[:_MAX_TAG_LENGTH]
    if trial.num_scored:
        tags["autoreap.scored"] = f"{trial.num_scored}/{trial.num_utterances}"
    return tags


def _flatten(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """`wer`, `wer.low`, `wer.high`, `wer.num_failed` for each metric; a static one is its value alone."""
    flat = {}
    for name, metric in metrics.items():
        flat[name] = float(metric.value)
        if not metric.is_static:
            flat[f"{name}.low"], flat[f"{name}.high"] = metric.low, metric.high
            if metric.num_failed is not None:
                flat[f"{name}.num_failed"] = float(metric.num_failed)
    return flat


def connect(folder: Path, tracking_uri: str | None) -> Any:
    """A client of `tracking_uri`, or of the database in `folder`."""
    # Read when mlflow is imported: a server that is gone must cost seconds, not its default of four minutes a call.
    # It is `Tracker` that tries again.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Schema creation logs each of its forty steps.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A traceback for what is a warning here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # libpq's own default is to wait for as long as the kernel does; for each address of a host.
    os.environ.setdefault("PGCONNECT_TIMEOUT", "4")
    from mlflow import MlflowClient

    if tracking_uri is None:
        return MlflowClient(_address(_local_database(folder)))
    file = sqlite_file(tracking_uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(_address(file))
    if not tracking_uri.startswith(("http://", "https://")):
        import mlflow.store.db.utils

        mlflow.store.db.utils.MAX_RETRY_COUNT = 1  # of ten tries, which take two minutes
    return MlflowClient(tracking_uri)


def _address(file: Path) -> str:
    # With a driver: where MLflow reads none it makes a folder of the address as it is written, `a%3Fb` for `a?b`.
    return sqlite_url(file, "sqlite+pysqlite")


def _local_database(folder: Path) -> Path:
    from mlflow.store.db.utils import _get_latest_schema_revision

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    def build(path: Path) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store: Any = SqlAlchemyStore(_address(path), artifacts_of(folder))  # type: ignore[no-untyped-call]
        try:
            store.create_experiment(EXPERIMENT, artifact_location=artifacts_of(folder))
        finally:
            store.engine.dispose()

    revision: str = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    return make_whole(folder, revision, build, EXPERIMENT)


def register(checkpoint: Path, name: str, trial: str, *, folder: Path, tracking_uri: str | None = None) -> str:
    """Make `checkpoint` a version of the registered model `name`, unless the trial is one already; the version.

    A server takes a copy of the checkpoint into the trial's run, the only source it accepts. A database on this machine
    refers to the checkpoint where it is.

    Args:
        trial: `<study>/<number>`, as its run is tagged.
        folder: where the runs are without a tracking URI (argument, or MLFLOW_TRACKING_URI).

    Raises:
        AutoreapError: MLflow did not take it.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    try:
        client = connect(folder, uri)
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(TRIAL_TAG) == trial:
                return str(version.version)
        run = _run_of(client, trial)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = checkpoint.resolve().as_uri()
        if uri and uri.startswith(("http://", "https://")):
            client.log_artifacts(run.info.run_id, str(checkpoint), _ARTIFACT_PATH)
            source = f"{run.info.artifact_uri}/{_ARTIFACT_PATH}"
        version = client.create_model_version(name, source, run.info.run_id, tags={TRIAL_TAG: trial})
    except AutoreapError:
        raise
    except Exception as error:  # MLflow raises what its many back ends raise
        reason = without_secrets(first_line(error), uri or "")
        raise AutoreapError(f"{checkpoint} is written, but MLflow did not register it: {reason}") from None
    return str(version.version)


def _run_of(client: Any, trial: str) -> Any:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    query = f"tags.`{TRIAL_TAG}` = '{trial}' and attributes.status != 'RUNNING'"
    found = client.search_runs([experiment.experiment_id], query) if experiment else []
    if not found:
        raise AutoreapError(f"MLflow has no run of trial {trial}; resume the search, which logs what is missing")
    return found[0]
