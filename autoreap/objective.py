"""candidate -> plan -> mask -> evaluate -> values."""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoreap.candidate import Candidate
from autoreap.config.evals import EvalsConfig, metric_name, task_of
from autoreap.constraints import values_of
from autoreap.data.evals_data import read_task
from autoreap.described import Described
from autoreap.errors import InputError, ScoringError
from autoreap.evaluate import Evaluator, Watch
from autoreap.outcomes import OUTCOMES_NAME, Evaluation, Outcome, language_metrics
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan
from autoreap.saliency import Saliency
from autoreap.scoring import latency
from autoreap.scoring.latency import Stopwatch
from autoreap.sizing import footprint
from autoreap.sizing.footprint import Footprint
from autoreap.study.racing import Race, Rival


def measured(evals: EvalsConfig, names: Iterable[str] = ()) -> dict[str, str]:
    """What is measured of a candidate: metric -> the direction in which it is better.

    Those of one language, such as `wer/zh`, are among them if one of `names` is of that kind: rows must be read.
    """
    tasks = evals.splits["search"]
    scores = {metric_name(task): task_of(task).DIRECTION for task in tasks}
    if any("/" in name for name in names):
        for task in tasks:
            languages = [sample.language for sample in read_task(task, evals.path.parent)]
            scores |= dict.fromkeys(language_metrics(metric_name(task), languages), task_of(task).DIRECTION)
    return {"size_bytes": "minimize", **scores, **footprint.DIRECTIONS, **latency.DIRECTIONS}


def check_objectives(objectives: Mapping[str, str], evals: EvalsConfig, where: object = "objectives") -> None:
    """Raise `InputError` unless every objective is measured, and searched in the direction in which it is better."""
    known = measured(evals, objectives)
    known |= {f"nll.{metric_name(task)}": "minimize" for task in evals.splits["search"]}
    for metric, direction in objectives.items():
        if metric not in known:
            raise InputError(f"unknown metric {metric!r}", where=where, fix=f"known: {', '.join(known)}")
        if direction != known[metric]:
            better = known[metric].replace("z", "s")
            raise InputError(f"{metric} is better {better}d", where=where, fix=f"{metric}: {better}")


def check_device(names: Collection[str], where: object = "objectives and constraints", *, on_accelerator: bool) -> None:
    """Raise `InputError` if one of the metrics `names` can't be measured; memory is of accelerators alone."""
    if latency.PEAK_MEMORY in names and not on_accelerator:
        problem = f"{latency.PEAK_MEMORY} is measured on an accelerator alone"
        raise InputError(problem, where=where, fix="use size_bytes, or a GPU")


@dataclass(frozen=True)
class Scored:
    """A candidate's plan with its objective values, all metrics with intervals, and the outcomes behind them."""

    plan: PruningPlan
    values: tuple[float, ...]
    size_bytes: int
    metrics: Mapping[str, Mapping[str, Any]]
    evaluation: Evaluation

    def save(self, folder: Path) -> None:
        """Write `plan.json` and `outcomes.jsonl`."""
        self.plan.save(folder / "plan.json")
        self.evaluation.save_outcomes(folder / OUTCOMES_NAME)


class Objective:
    """Scores candidates on one model; holds everything that is the same for all of them.

    Args:
        described: the model.
        saliency: what was measured of it.
        evaluator: scores it under a plan.
        objectives: metric name -> direction, in the order of the study's values. Sizes are always available.
        stopwatch: times every plan; None leaves the metrics of `latency.DIRECTIONS` out.
    """

    def __init__(
        self,
        described: Described,
        saliency: Saliency,
        evaluator: Evaluator,
        objectives: Mapping[str, str],
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._checkpoint = described.checkpoint
        self._base_model = described.base_model
        self.shape = described.shape
        self._saliency = saliency
        self._evaluator = evaluator
        self._objectives = objectives
        self._stopwatch = stopwatch
        self._likelihoods = any(name.startswith("nll.") for name in objectives)

    def plan(self, candidate: Candidate) -> PruningPlan:
        """The exact edit; cheap."""
        return make_plan(candidate, self._saliency, self.shape, self._base_model)

    def exact(self, plan: PruningPlan) -> dict[str, float]:
        """The metrics that are known of `plan` before it is scored."""
        return _exact(Footprint.of(self._checkpoint, plan))

    @property
    def is_screened(self) -> bool:
        """Whether a screen says something of every objective that is not known beforehand."""
        return all(name in footprint.DIRECTIONS or name in self._evaluator.metrics for name in self._objectives)

    def screen(self, plan: PruningPlan) -> dict[str, float]:
        """By objective that is scored, how unlikely its references are under `plan` (`Evaluator.screen`)."""
        scored = [metric for metric in self._evaluator.metrics if metric in self._objectives]
        return {metric: score.value for metric, score in self._evaluator.screen(plan, metrics=scored).items()}

    def score(self, plan: PruningPlan, watch: Watch | None = None, rivals: Sequence[Rival] = ()) -> Scored:
        """Run the evaluation under `plan`, in a race against `rivals`.

        Raises:
            ScoringError: a value is missing or not finite.
            Raced: a rival beats the candidate.
        """
        needed = Footprint.of(self._checkpoint, plan)
        race = Race(self._objectives, _exact(needed), rivals)
        race.check()

        def watched(metric: str, outcome: Outcome) -> None:
            if watch:
                watch(metric, outcome)
            race.watch(metric, outcome)

        evaluation = self._evaluator.run(
            plan, watched, look=race.look, first=self._objectives, likelihoods=self._likelihoods
        )
        evaluation = self._with_costs(evaluation, needed, plan)
        size_bytes, metrics = needed.size_bytes(), evaluation.metrics()
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
        return self._with_costs(
            self._evaluator.run(None, watch, likelihoods=self._likelihoods), Footprint.of(self._checkpoint), None
        )

    def _with_costs(self, evaluation: Evaluation, needed: Footprint, plan: PruningPlan | None) -> Evaluation:
        started = time.monotonic()
        measured = costs(needed, plan, self._stopwatch)
        return replace(evaluation, costs=measured, seconds=evaluation.seconds + time.monotonic() - started)

    def draft_from(self, baseline: Mapping[str, Sequence[Outcome]]) -> None:
        """Do without `score_baseline`, whose answers these are: they draft those of the candidates."""
        self._evaluator.draft_from(baseline)


def _exact(needed: Footprint) -> dict[str, float]:
    return values_of(needed.size_bytes(), needed.metrics())


def costs(needed: Footprint, plan: PruningPlan | None, stopwatch: Stopwatch | None) -> dict[str, dict[str, Any]]:
    """What a plan takes to store and to run, and with a `stopwatch` how fast it answers, as plain values."""
    return needed.metrics() | (stopwatch.measure(plan, needed.size_bytes()) if stopwatch else {})


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
