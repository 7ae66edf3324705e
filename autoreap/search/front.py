"""The Pareto front of a study. Needs no model."""

import math
from collections.abc import Iterable, Mapping, Sequence

from autoreap.formatting import value_text
from autoreap.scores import WORSE, Metric
from autoreap.search.constraints import is_static
from autoreap.search.records import StudyRecord, TrialRecord, TrialStatus


def pareto(points: Sequence[TrialRecord], objectives: Mapping[str, str]) -> list[TrialRecord]:
    """The points that no other point equals in every objective and beats in one, smallest first.

    Only points that keep every constraint count. Of points with equal plans the first counts.
    """
    candidates = feasible_points(points)
    costs = {point.number: tuple(to_minimise(point.values, objectives).values()) for point in candidates}
    front = []
    for point in candidates:
        if not any(_dominates(other, costs[point.number]) for other in costs.values()):
            front.append(point)
    return front


def feasible_points(points: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The points that keep every constraint, the first of each plan, smallest first."""
    feasible = []
    for point in _distinct(points):
        # A value that is not finite compares with nothing, so it would be dominated by nothing.
        if not point.violations and all(map(math.isfinite, point.values.values())):
            feasible.append(point)
    return in_order_of_size(feasible)


def in_order_of_size(points: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Each of `points` once, smallest first; of equal sizes the earlier trial."""
    by_number = {point.number: point for point in points}
    return sorted(by_number.values(), key=lambda point: (point.size_bytes, point.number))


def _dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    return other != own and all(a <= b for a, b in zip(other, own, strict=True))


def front_of(study: StudyRecord) -> list[TrialRecord]:
    """The Pareto front of `study`, smallest first."""
    return pareto(study.points, study.objectives)


def worse_elsewhere(study: StudyRecord, trial: TrialRecord) -> list[str]:
    """The metrics that are no objective and in which `trial` is significantly worse than the unpruned model.

    On the report split where that was scored, else on the search split.
    """
    differences = trial.against_baseline
    held_out = study.held_out_of(trial.number)
    if held_out is not None:
        differences = {**differences, **held_out.against_baseline}
    worse = []
    for name, difference in differences.items():
        if name not in study.objectives and difference.verdict == WORSE:
            worse.append(name)
    return worse


def best_so_far(points: Sequence[TrialRecord], objectives: Mapping[str, str]) -> str:
    """The front in a few words: `front 6, best wer 2.31%`."""
    words = [f"front {len(pareto(points, objectives))}"]
    feasible = [point for point in points if not point.violations]
    for name, direction in objectives.items():
        if feasible and not is_static(name):
            values = [point.values[name] for point in feasible]
            best = min(values) if direction == "minimize" else max(values)
            words.append(f"best {name} {value_text(name, best)}")
    return ", ".join(words)


def nearest(points: Sequence[TrialRecord], number: int = 5) -> list[TrialRecord]:
    """The `number` points that violate the constraints least, nearest first."""
    return sorted(_distinct(points), key=lambda point: (sum(point.violations.values()), point.number))[:number]


def _distinct(points: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The first point of each plan."""
    first: dict[str, TrialRecord] = {}
    for point in points:
        first.setdefault(point.plan_digest, point)
    return list(first.values())


def explain_empty_front(study: StudyRecord) -> str:
    """Why the front of `study` is empty."""
    if study.points:
        (closest,) = nearest(study.points, 1)
        violated = violations_text(closest)
        return f"no trial keeps every constraint; the nearest is trial {closest.number}, which violates {violated}"
    infeasible = [trial for trial in study.trials if trial.status is TrialStatus.INFEASIBLE]
    if not infeasible:
        return "has no finished trial yet"
    least = min(infeasible, key=lambda trial: sum(trial.violations.values()))
    return (
        f"no trial was scored; of {len(infeasible)} that a constraint ruled out before scoring, the nearest is "
        f"trial {least.number}, which violates {least.reason}"
    )


def violations_text(point: TrialRecord) -> str:
    """The constraints that `point` violates, and by how much."""
    return " and ".join(f"{text} by {violation:.0%} of the bound" for text, violation in point.violations.items())


def to_minimise(values: Mapping[str, float], objectives: Mapping[str, str]) -> dict[str, float]:
    """Those of `values` that are objectives, all to be minimised."""
    costs = {}
    for name, direction in objectives.items():
        if name in values:
            costs[name] = values[name] if direction == "minimize" else -values[name]
    return costs


def log_to_minimise(point: TrialRecord, objectives: Mapping[str, str]) -> list[float]:
    """Logarithms of the objectives, of 1 - value where more is better; an error of zero counts as half of one.

    Sizes, times and error rates are compared by ratio. On a linear scale one candidate that babbles, at a WER of 200%,
    would make 26% look as good as 2%.
    """
    costs = []
    for name, direction in objectives.items():
        error = error_of(point.values[name], direction)
        costs.append(math.log(max(error, least_error(point.metrics.get(name)))))
    return costs


def error_of(value: float, direction: str) -> float:
    """What is to be minimised of a rate: itself, or 1 minus it where more is better."""
    return value if direction == "minimize" else 1 - value


def least_error(metric: Metric | None) -> float:
    """Half of one error among what `metric` counted: it stands for no error at all where errors are compared."""
    if metric is None or not metric.denominator:
        return 0.5e-9  # not a rate of counts: only the logarithm of 0 must be avoided
    return 0.5 / metric.denominator


def drawn_metric(study: StudyRecord) -> str:
    """What a picture shows against size: the WER if there is one, else the first objective that is another score."""
    measured = study.baseline.metrics
    scores = [name for name in (*study.objectives, *measured) if name in measured and not is_static(name)]
    return "wer" if "wer" in scores else scores[0]
