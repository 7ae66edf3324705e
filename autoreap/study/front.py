"""The Pareto front of a study. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from autoreap.constraints import EXACT
from autoreap.scores import exact
from autoreap.study.trials import INFEASIBLE, Point, objectives_of, points_of
from autoreap.wording import metric_text


def pareto(points: Sequence[Point], objectives: Mapping[str, str]) -> list[Point]:
    """The points that no other one matches in every objective and beats in one, smallest first.

    Only points that keep every constraint count. Of points with equal plans the first counts; a value that is not
    finite never gets here.
    """
    distinct = [
        point for point in _distinct(points) if not point.broken and all(map(math.isfinite, point.values.values()))
    ]
    costs = {point.trial: tuple(costs_of(point.values, objectives).values()) for point in distinct}

    def dominated(point: Point) -> bool:
        own = costs[point.trial]
        return any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in costs.values())

    front = [point for point in distinct if not dominated(point)]
    return sorted(front, key=lambda point: (point.size_bytes, point.trial))


def best_so_far(points: Sequence[Point], objectives: Mapping[str, str]) -> str:
    """The front in a few words: `front 6, best wer 2.31%`."""
    words = [f"front {len(pareto(points, objectives))}"]
    for name, direction in objectives.items():
        kept = [point for point in points if not point.broken]
        if kept and name not in EXACT:
            values = [point.values[name] for point in kept]
            best = exact(min(values) if direction == "minimize" else max(values))
            words.append(f"best {name} {metric_text(name, best)}")
    return ", ".join(words)


def nearest(points: Sequence[Point], number: int = 5) -> list[Point]:
    """The `number` points that are least far beyond the constraints, nearest first."""
    return sorted(_distinct(points), key=lambda point: (sum(point.broken.values()), point.trial))[:number]


def _distinct(points: Sequence[Point]) -> list[Point]:
    """The first point of each plan."""
    first = {point.plan_digest: point.trial for point in reversed(points)}
    return [point for point in points if first[point.plan_digest] == point.trial]


def empty_front(study: optuna.Study) -> str:
    """Why the front of `study` is empty, in words."""
    closest = nearest(points_of(study), 1)
    if closest:
        broken = broken_text(closest[0])
        return f"no trial keeps every constraint; nearest is trial {closest[0].trial}, which breaks {broken}"
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    ruled_out = [trial for trial in pruned if INFEASIBLE in trial.user_attrs]
    if not ruled_out:
        return "has no finished trial yet"
    least = min(ruled_out, key=lambda trial: sum(max(0, violation) for violation in trial.constraints.values()))
    return (
        f"no trial is scored; of {len(ruled_out)} that a constraint ruled out beforehand the nearest is "
        f"trial {least.number}, which breaks {least.user_attrs[INFEASIBLE]}"
    )


def broken_text(point: Point) -> str:
    """The constraints that `point` breaks, and by how much."""
    return " and ".join(f"{text} by {violation:.0%} of the bound" for text, violation in point.broken.items())


def costs_of(values: Mapping[str, float], objectives: Mapping[str, str]) -> dict[str, float]:
    """Those of `values` that are objectives, all to be minimised."""
    return {
        name: values[name] if direction == "minimize" else -values[name]
        for name, direction in objectives.items()
        if name in values
    }


def drawn_metric(study: optuna.Study) -> str:
    """What a picture shows against size: the WER if there is one, else the first objective that is another score."""
    measured = study.user_attrs["baseline"]["metrics"]
    scores = [name for name in (*objectives_of(study), *measured) if name in measured and name not in EXACT]
    return "wer" if "wer" in scores else scores[0]


def log_costs(point: Point, objectives: Mapping[str, str]) -> list[float]:
    """Logarithms of the objectives, of 1 - value where more is better; an error of zero counts as half of one.

    Sizes, times and error rates are compared by ratio. On a linear scale one candidate that babbles, at a WER of 200%,
    would make 26% look as good as 2%.
    """
    costs: list[float] = []
    for name, direction in objectives.items():
        value = point.values[name] if direction == "minimize" else 1 - point.values[name]
        costs.append(math.log(max(value, least_error(point.metrics.get(name, {})))))
    return costs


def least_error(measured: Mapping[str, Any]) -> float:
    """Half of one error among what `measured` counted: what none at all stands for where errors are compared."""
    return 0.5 / float(measured.get("denominator", 1e9))
