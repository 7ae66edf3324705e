"""One function a command: the command line and Python callers share them.

A job opens the model, does one thing, and returns what there is to show.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from transformers import PreTrainedModel

from autoreap import calibration_data
from autoreap.calibrate import Options, calibrate
from autoreap.checkpoint import Checkpoint, open_checkpoint, resolve_model
from autoreap.config import (
    DEFAULT_MAX_UNREADABLE,
    CalibrationConfig,
    CalibrationSet,
    EvalsConfig,
    SpaceConfig,
    load_evals,
    load_space,
)
from autoreap.errors import InputError, VerificationError
from autoreap.evaluate import Evaluation, Evaluator, check_splits_apart, load_outcomes, read_task
from autoreap.families import Family, family_of
from autoreap.families.chat_inputs import ChatInputs
from autoreap.front import DEFAULT_ROOT, Point, default_storage, objectives_of, pareto, plan_of, points_of, select
from autoreap.materialise import materialise
from autoreap.objective import Objective, check_objectives
from autoreap.plan import BaseModel, ModelShape, PruningPlan, load_plan
from autoreap.progress import log
from autoreap.report import plot_front, write_report
from autoreap.saliency import Saliency, load_saliency
from autoreap.samples import Sample, digest
from autoreap.scores import paired_difference
from autoreap.search import Search, exclusive
from autoreap.tracking import Tracker


@dataclass(frozen=True)
class Described:
    """A model on disk: what can be said of it without loading a weight."""

    name: str
    checkpoint: Checkpoint
    family: Family
    shape: ModelShape

    @property
    def base_model(self) -> BaseModel:
        """As plans name it."""
        return BaseModel(self.name, self.checkpoint.fingerprint)


@dataclass(frozen=True)
class Loaded:
    """A model in memory, with its inputs."""

    described: Described
    model: PreTrainedModel
    inputs: ChatInputs


def describe(model: str) -> Described:
    """Open MODEL from its headers; `InputError` if it is none that this project knows."""
    path = resolve_model(model)
    checkpoint = open_checkpoint(path)
    family = family_of(checkpoint.config, where=path / "config.json")
    for name in checkpoint.tensors:
        family.role(name)
    return Described(model, checkpoint, family, family.shape(checkpoint.config))


def load(described: Described, *, speech: bool = False, device: str | None = None, dtype: str = "auto") -> Loaded:
    """Load the weights. On a CPU, `auto` computes in float32; on an accelerator, in the stored type."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    path = described.checkpoint.path
    log(f"loading {described.name} on {device}")
    model = described.family.load(path, dtype=dtype, device=device, speech=speech)
    return Loaded(described, model, described.family.inputs(path))


def read_calibration(calibration: CalibrationConfig | Mapping[str, Path]) -> dict[str, list[Sample]]:
    """The rows by modality, of sets or of one JSONL file each; a broken row is found before a model is loaded."""
    if isinstance(calibration, CalibrationConfig):
        return calibration_data.read_calibration(calibration)
    sets = {modality: (CalibrationSet(str(path)),) for modality, path in calibration.items()}
    return calibration_data.read_calibration(CalibrationConfig(sets))


def calibrated(
    loaded: Loaded,
    data: Mapping[str, Sequence[Sample]],
    components: Sequence[str] = ("thinker",),
    *,
    cache: Path | None = None,
    max_unreadable: float = DEFAULT_MAX_UNREADABLE,
) -> Saliency:
    """Measure the model on `data` (rows by modality), or take the same measurement from `cache`."""
    described = loaded.described
    key = [described.checkpoint.fingerprint, sorted(components), str(loaded.model.dtype)]
    key += [f"{modality}:{digest(samples)}" for modality, samples in sorted(data.items())]
    path = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.safetensors" if cache else None
    if path is not None and path.exists():
        log(f"saliency measured before: {path}")
        return load_saliency(path)
    saliency = calibrate(
        loaded.model,
        described.family,
        loaded.inputs,
        described.base_model,
        data,
        components=components,
        options=Options(max_unreadable=max_unreadable),
    )
    if path is not None:
        saliency.save(path)
    return saliency


def evaluated(
    described: Described, evals: Path, plan: PruningPlan | None = None, *, split: str = "search", batch_size: int = 32
) -> Evaluation:
    """Score the model, under `plan` if there is one."""
    config = load_evals(evals)
    for task in config.splits[split]:
        read_task(task, evals.parent)  # a broken row is found before a model is loaded
    loaded = load(described)
    return Evaluator(loaded.model, loaded.inputs, config, split=split, batch_size=batch_size).run(plan)


@dataclass(frozen=True)
class SearchOptions:
    """What the command line may say beside the space; None leaves it to the space."""

    model: str = "tiny"
    study: str | None = None
    trials: int | None = None
    hours: float | None = None
    storage: str | None = None
    seed: int | None = None
    root: Path = DEFAULT_ROOT
    tracking_uri: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves behind: the study, its pictures, and the checkpoint if the space asked for one."""

    study: optuna.Study
    front: Sequence[Point]
    picture: Path | None
    report: Path | None
    shipped: "Shipped | None"


def search(space_path: Path, options: SearchOptions) -> SearchResult:
    """The main job: calibrate once, search, draw the front, and ship the selected candidate if the space says so."""
    space = load_space(space_path)
    space = replace(space, seed=space.seed if options.seed is None else options.seed)
    evals = load_evals(space.evals)
    check_objectives(space.objectives, evals)
    check_splits_apart(evals)
    described = describe(options.model)
    name = options.study or f"{space.name}-{Path(options.model).name}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"must be letters, digits, '.', '_' and '-', got {name!r}", where="--study")
    searches_talker = any(parameter.startswith("talker.") for parameter in space.parameters)
    with exclusive(options.root, name):
        data = read_calibration(space.calibration)
        loaded = load(described, speech=searches_talker)
        components = ["thinker", "talker"] if searches_talker else ["thinker"]
        saliency = calibrated(
            loaded,
            data,
            components,
            cache=options.root / "saliency",
            max_unreadable=space.calibration.max_unreadable,
        )
        evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=space.batch_size)
        objective = Objective(
            described.checkpoint, described.shape, described.base_model, saliency, evaluator, space.objectives
        )
        identity = {
            "model": described.checkpoint.fingerprint,
            "saliency": saliency.digest(),
            "evals": evals_digest(evals),
        }
        folder = options.root / "trials" / name
        storage = options.storage or default_storage(options.root)
        run = Search(space, objective, described.shape, storage, name, identity, folder)
        tracker = Tracker(options.root, name, tracking_uri=options.tracking_uri)
        run.run(tracker, trials=options.trials or space.trials, hours=options.hours or space.hours)
        return _concluded(run.study, space, described, tracker, options)


def _concluded(
    study: optuna.Study, space: SpaceConfig, described: Described, tracker: Tracker, options: SearchOptions
) -> SearchResult:
    """Draw the front, ship the selected candidate, and hand both to the tracker."""
    folder = options.root / "trials" / study.study_name
    front = pareto(points_of(study), objectives_of(study))
    picture, report = (folder / "front.png", folder / "report.html") if front else (None, None)
    if picture and report:
        plot_front(study, picture)
        write_report(study, report)
    tracker.log_study(
        {"model": described.name, "space": space.name, "seed": space.seed, **objectives_of(study)},
        study.user_attrs["baseline"]["metrics"],
        [path for path in (picture, report, space.path) if path is not None],
    )
    tracker.close()
    shipped = ship(study, space, described, options.root) if space.materialise and front else None
    return SearchResult(study, front, picture, report, shipped)


@dataclass(frozen=True)
class Shipped:
    """A trial's checkpoint.

    Attributes:
        trial, reason: which one, and why.
        num_compared: how many answers were compared with the trial's; all were equal.
        metrics: its scores as plain values.
        against_baseline: for each metric (difference to the unpruned model, low, high), paired over the utterances.
    """

    trial: int
    reason: str
    path: Path
    num_compared: int
    metrics: Mapping[str, Mapping[str, Any]]
    against_baseline: Mapping[str, tuple[float, float, float]]


def ship(study: optuna.Study, space: SpaceConfig, described: Described, root: Path) -> Shipped:
    """Materialise the trial that the space's rule selects, load it with stock transformers and score it again.

    Raises:
        VerificationError: the checkpoint answers one utterance otherwise than the trial did.
    """
    point, reason = select(study, space.materialise or "knee")
    plan = plan_of(study, point.trial)
    path = root / "checkpoints" / f"{study.study_name}-trial-{point.trial}"
    if not _holds(path, plan):
        facts = {"metrics": point.metrics, "trial": f"{study.study_name}/{point.trial}"}
        materialise(described.checkpoint.path, plan, path, facts=facts)
    log(f"scoring {path} as stock transformers loads it")
    evaluation = evaluated(describe(str(path)), space.evals, batch_size=space.batch_size)
    folder = root / "trials" / study.study_name
    expected = load_outcomes(folder / str(point.trial) / "outcomes.jsonl")
    different = [
        f"{metric} {own.id}: {own.output!r} instead of {trial.output!r}"
        for metric, outcomes in evaluation.outcomes.items()
        for own, trial in zip(outcomes, expected[metric], strict=True)
        if own != trial
    ]
    num_compared = sum(map(len, evaluation.outcomes.values()))
    if different:
        raise VerificationError(f"{path}: {len(different)} of {num_compared} answers differ, such as {different[0]}")
    baseline = load_outcomes(folder / "baseline" / "outcomes.jsonl")
    against_baseline = {
        metric: paired_difference([o.counts for o in outcomes], [o.counts for o in baseline[metric]])
        for metric, outcomes in evaluation.outcomes.items()
    }
    return Shipped(point.trial, reason, path, num_compared, evaluation.metrics(), against_baseline)


def _holds(path: Path, plan: PruningPlan) -> bool:
    """Whether a search that was resumed has shipped this very plan before."""
    return (path / "plan.json").is_file() and load_plan(path / "plan.json") == plan


def evals_digest(evals: EvalsConfig) -> str:
    """Sixteen hex digits of the search split: its rows, media and prompts."""
    total = hashlib.sha256()
    for config in evals.splits["search"]:
        total.update(repr(replace(config, dataset_path="")).encode())
        total.update(digest(read_task(config, evals.path.parent)).encode())
    return total.hexdigest()[:16]
