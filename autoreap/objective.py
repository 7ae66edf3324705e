"""candidate -> plan -> mask -> evaluate -> values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoreap.candidate import Candidate
from autoreap.checkpoint import Checkpoint
from autoreap.errors import InputError, ScoringError
from autoreap.evals_config import EvalsConfig
from autoreap.evaluate import Evaluator, Watch, metric_name
from autoreap.outcomes import Evaluation, Outcome
from autoreap.plan import BaseModel, ModelShape, PruningPlan, make_plan
from autoreap.rewrite import plan_rewrite
from autoreap.saliency import Saliency
from autoreap.tasks import task_named


def check_objectives(objectives: Mapping[str, str], evals: EvalsConfig) -> None:
    """Raise `InputError` unless every objective is measured, and searched in the direction in which it is better."""
    tasks = evals.splits["search"]
    known = {"size_bytes": "minimize", **{metric_name(task): task_named(task.task).DIRECTION for task in tasks}}
    for metric, direction in objectives.items():
        if metric not in known:
            raise InputError(f"unknown metric {metric!r}", where="objectives", fix=f"known: {', '.join(known)}")
        if direction != known[metric]:
            raise InputError(f"{metric} is better {known[metric].replace('z', 's')}d", where="objectives")


@dataclass(frozen=True)
class Scored:
    """A candidate's plan with its objective values, all metrics with intervals, and the outcomes behind them."""

    plan: PruningPlan
    values: tuple[float, ...]
    size_bytes: int
    metrics: Mapping[str, Mapping[str, Any]]
    evaluation: Evaluation


class Objective:
    """Scores candidates on one model; holds everything that is the same for all of them.

    Args:
        objectives: metric name -> direction, in the order of the study's values. `size_bytes` is always available.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: ModelShape,
        base_model: BaseModel,
        saliency: Saliency,
        evaluator: Evaluator,
        objectives: Mapping[str, str],
    ) -> None:
        self._checkpoint = checkpoint
        self._shape = shape
        self._base_model = base_model
        self._saliency = saliency
        self._evaluator = evaluator
        self._objectives = objectives

    def plan(self, candidate: Candidate) -> PruningPlan:
        """The exact edit; cheap."""
        return make_plan(candidate, self._saliency, self._shape, self._base_model)

    def score(self, plan: PruningPlan, watch: Watch | None = None) -> Scored:
        """Run the evaluation under `plan`. Raises `ScoringError` where a value is missing or not finite."""
        evaluation = self._evaluator.run(plan, watch)
        size_bytes = plan_rewrite(self._checkpoint, plan).size_bytes
        metrics = evaluation.metrics()
        return Scored(plan, objective_values(self._objectives, size_bytes, metrics), size_bytes, metrics, evaluation)

    @property
    def baseline_size_bytes(self) -> int:
        """Bytes of the unpruned model."""
        return self._checkpoint.num_bytes

    @property
    def num_answers(self) -> int:
        """Utterances and questions of one evaluation."""
        return self._evaluator.num_answers

    def score_baseline(self, watch: Watch | None = None) -> Evaluation:
        """The unpruned model on the same data."""
        return self._evaluator.run(None, watch)

    def draft_from(self, baseline: Mapping[str, Sequence[Outcome]]) -> None:
        """Do without `score_baseline`, whose answers these are: they draft those of the candidates."""
        self._evaluator.draft_from(baseline)


def objective_values(
    objectives: Mapping[str, str] | Sequence[str], size_bytes: int, metrics: Mapping[str, Mapping[str, Any]]
) -> tuple[float, ...]:
    """One value an objective, in order.

    Raises:
        ScoringError: a metric is missing or not finite. It must never reach the sampler, where it could rank well.
    """
    available: dict[str, Any] = {
        "size_bytes": size_bytes,
        **{name: measured.get("value") for name, measured in metrics.items()},
    }
    for name in objectives:
        if available.get(name) is None:
            raise ScoringError(f"metric {name} was not measured")
        if not math.isfinite(available[name]):
            raise ScoringError(f"metric {name} is {available[name]}")
    return tuple(float(available[name]) for name in objectives)
