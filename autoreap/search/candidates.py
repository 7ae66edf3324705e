"""candidate -> plan -> what is known of it without inference -> objective values."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoreap.candidate import Candidate
from autoreap.data.eval_set import EvalSet
from autoreap.errors import InputError
from autoreap.evaluation import latency
from autoreap.evaluation.outcomes import language_metrics
from autoreap.models.loading import ModelInfo
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan
from autoreap.saliency import Saliency
from autoreap.scores import Metric
from autoreap.search.constraints import STATIC, Constraint, measured_value
from autoreap.writing.footprint import Footprint


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate's exact plan, and all that is known of it without inference. Made once, and handed on.

    Attributes:
        static: its static metrics but the size.
    """

    plan: PruningPlan
    digest: str
    size_bytes: int
    static: Mapping[str, Metric]

    @property
    def static_values(self) -> dict[str, float]:
        """The static metrics as numbers, the size among them."""
        return metric_values(self.size_bytes, self.static)


class Planner:
    """Makes the plans of candidates for one model; cheap."""

    def __init__(self, model_info: ModelInfo, saliency: Saliency, constraints: Sequence[Constraint] = ()) -> None:
        self._model_info = model_info
        self._saliency = saliency
        self._clips = {each.metric: each.clip_seconds for each in constraints if each.clip_seconds is not None}
        self.shape = model_info.shape

    def plan(self, candidate: Candidate) -> PlannedCandidate:
        """The exact edit that `candidate` stands for, and its footprint."""
        plan = make_plan(candidate, self._saliency, self.shape, self._model_info.base_model)
        # On paper, from the headers of the checkpoint: no weight is read.
        footprint = Footprint.of(self._model_info.checkpoint, plan)
        return PlannedCandidate(plan, plan.digest(), footprint.size_bytes(), self._static(footprint))

    def unpruned(self) -> tuple[int, dict[str, Metric]]:
        """Size and static metrics of the model as it is."""
        footprint = Footprint.of(self._model_info.checkpoint)
        return footprint.size_bytes(), self._static(footprint)

    def _static(self, footprint: Footprint) -> dict[str, Metric]:
        static = footprint.metrics()
        for metric, seconds in self._clips.items():
            static[metric] = Metric.static(footprint.memory_needed(seconds).total_bytes)
        return static


def metric_values(size_bytes: float, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The value of each metric, and the size."""
    return {"size_bytes": size_bytes, **{name: metric.value for name, metric in metrics.items()}}


def objective_values(objectives: Iterable[str], size_bytes: int, metrics: Mapping[str, Metric]) -> tuple[float, ...]:
    """One value an objective, in order.

    Raises:
        ScoringError: a metric is missing or not finite. It must never reach the sampler, where it could rank well.
    """
    measured = metric_values(size_bytes, metrics)
    return tuple(float(measured_value(name, measured)) for name in objectives)


def measured_metrics(evals: EvalSet, names: Iterable[str] = ()) -> dict[str, str]:
    """What is measured of a candidate: metric -> the direction in which it is better.

    Metrics of one language, such as `wer/zh`, are among them if one of `names` is of that kind.
    """
    directions = {"size_bytes": "minimize"}
    by_language = any("/" in name for name in names)
    for task in evals.tasks:
        directions[task.metric] = task.task.DIRECTION
        if by_language:
            languages = [sample.language for sample in task.samples]
            directions |= dict.fromkeys(language_metrics(task.metric, languages), task.task.DIRECTION)
    return directions | dict.fromkeys(STATIC, "minimize") | latency.DIRECTIONS


def check_objectives(objectives: Mapping[str, str], evals: EvalSet, where: object = "objectives") -> None:
    """Raise `InputError` unless every objective is measured, and searched in the direction in which it is better."""
    directions = measured_metrics(evals, objectives)
    # Measured only where an objective asks for it, so `measured_metrics` has none.
    for task in evals.tasks:
        directions[f"nll.{task.metric}"] = "minimize"
    # A sampler that is told the wrong direction looks for the worst candidates, and nothing else would tell.
    for metric, direction in objectives.items():
        if metric not in directions:
            raise InputError(f"unknown metric {metric!r}", where=where, fix=f"known: {', '.join(directions)}")
        if direction != directions[metric]:
            better = directions[metric].replace("z", "s")  # Optuna spells it with z, the space with s
            raise InputError(f"{metric} is better {better}d", where=where, fix=f"{metric}: {better}")


def check_device(names: Collection[str], where: object = "objectives and constraints", *, on_accelerator: bool) -> None:
    """Raise `InputError` if one of the metrics `names` can't be measured; memory is measured on accelerators alone."""
    if latency.PEAK_MEMORY in names and not on_accelerator:
        problem = f"{latency.PEAK_MEMORY} is measured on accelerators only"
        raise InputError(problem, where=where, fix="use size_bytes, or a GPU")


def needs_likelihoods(objectives: Iterable[str]) -> bool:
    """Whether an objective is a negative log-likelihood, which takes a pass more."""
    return any(name.startswith("nll.") for name in objectives)
