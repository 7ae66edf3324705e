"""What a study is known by in MLflow: the space, the model, all data that it was measured on, and its trials."""

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from autoreap.config.evals import EvalsConfig, metric_name
from autoreap.config.space import SpaceConfig
from autoreap.data.evals_data import read_task
from autoreap.described import Described
from autoreap.media.samples import digest
from autoreap.saliency import Saliency
from autoreap.study.mlflow_runs import DataSet, StudyRecord, TrialRecord
from autoreap.study.retries import RETRY_OF
from autoreap.study.trials import ERROR, INFEASIBLE, RACED, RESULT, SCREENED


def study_record(space: SpaceConfig, described: Described, evals: EvalsConfig, saliency: Saliency) -> StudyRecord:
    """All that is known before the first trial."""
    parameters = {
        "model": described.name, "space": space.name, "seed": space.seed, "sampler": space.sampler, **space.objectives
    }  # fmt: skip
    tags = {
        "autoreap.model": described.name,
        "autoreap.model_fingerprint": described.checkpoint.fingerprint,
        "autoreap.saliency": saliency.digest(),
    }
    data = [*_calibration_sets(space, saliency), *_search_sets(evals)]
    return StudyRecord(parameters, tags, data, [space.path, evals.path])


def _calibration_sets(space: SpaceConfig, saliency: Saliency) -> list[DataSet]:
    """One a modality: sets of one modality are measured together."""
    return [
        DataSet(
            name=f"calibration.{modality}",
            source=", ".join(chosen.dataset_path for chosen in sets),
            digest=saliency.provenance[f"data.{modality}"],
            context="calibration",
        )
        for modality, sets in space.calibration.sets.items()
    ]


def _search_sets(evals: EvalsConfig) -> list[DataSet]:
    return [
        DataSet(
            name=metric_name(task),
            source=f"{task.dataset_path}:{task.dataset_name or ''}:{task.test_split}",
            digest=digest(read_task(task, evals.path.parent)),
            context="search",
        )
        for task in evals.splits["search"]
    ]


def trial_record(trial: FrozenTrial, objectives: Sequence[str], folder: Path) -> TrialRecord:
    """A finished trial. `folder` holds the files of each trial that was scored on this machine."""
    files = folder / str(trial.number)
    result = trial.user_attrs.get(RESULT, {"metrics": {}})
    said = ("preset", RETRY_OF, ERROR, INFEASIBLE)
    tags = {key: str(trial.user_attrs[key]) for key in said if key in trial.user_attrs}
    if raced := trial.user_attrs.get(RACED):
        tags |= {RACED: raced["reason"], "autoreap.scored": f"{raced['num_scored']}/{raced['num_utterances']}"}
    if reason := trial.user_attrs.get(SCREENED, {}).get("reason"):
        tags |= {SCREENED: reason}
    return TrialRecord(
        number=trial.number,
        parameters=trial.params,
        values=dict(zip(objectives, trial.values or (), strict=False)),
        metrics=result["metrics"],
        state=trial.state.name,
        artifacts=sorted(files.iterdir()) if files.is_dir() else (),
        tags=tags,
    )
