"""The Pareto front of a study, and the rules that pick one point of it. Needs no model."""

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import TrialState

from autoreap.confirmed import CONFIRMED, tied_text
from autoreap.constraints import EXACT
from autoreap.errors import InputError
from autoreap.scores import exact
from autoreap.study import INFEASIBLE, Point, objectives_of, points_of
from autoreap.wording import metric_text, rate_text, size_text


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
    reasons = [
        f"; trial {trial.number} breaks {trial.user_attrs[INFEASIBLE]}"
        for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        if INFEASIBLE in trial.user_attrs
    ]
    return f"has no finished trial yet{reasons[-1] if reasons else ''}"


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


def select(
    study: optuna.Study, rule: str, *, max_wer_increase: float | None = None, max_size_bytes: float | None = None
) -> tuple[Point, str]:
    """The front's point that `rule` picks, and why in words, with any smaller ones that do as well.

    Args:
        rule: `knee` (nearest to the ideal corner, on log scales, each scaled to the front's range), `smallest` (the
            smallest with a WER of at most the baseline's plus `max_wer_increase`, in points), or `best` (the lowest WER
            of at most `max_size_bytes`); the last two need size_bytes and one WER among the objectives.
    """
    objectives = objectives_of(study)
    front = pareto(points_of(study), objectives)
    if not front:
        fix = "search longer, or relax a constraint in a study of its own"
        raise InputError(empty_front(study), where=f"study {study.study_name}", fix=fix)
    point, reason = _picked(study, front, rule, max_wer_increase=max_wer_increase, max_size_bytes=max_size_bytes)
    sizes = {member.trial: member.size_bytes for member in front}
    return point, reason + tied_text(study.user_attrs.get(CONFIRMED), point.trial, sizes)


def _picked(
    study: optuna.Study,
    front: Sequence[Point],
    rule: str,
    *,
    max_wer_increase: float | None,
    max_size_bytes: float | None,
) -> tuple[Point, str]:
    objectives = objectives_of(study)
    if rule == "knee":
        point = min(front, key=lambda candidate: _distance_to_ideal(candidate, front, objectives))
        return point, f"nearest to the ideal corner of {' and '.join(objectives)} on log scales"
    if rule not in ("smallest", "best"):
        raise InputError(f"unknown rule {rule!r}", where="--rule", fix="knee, smallest or best")
    wer = _wer_among(objectives, rule)
    if rule == "smallest":
        if max_wer_increase is None:
            raise InputError("needs --max-wer-increase", where="--rule smallest", fix="for example 0.5 (points)")
        baseline = study.user_attrs["baseline"]["metrics"][wer]
        bound = baseline["value"] + max_wer_increase / 100
        measured = rate_text(baseline["value"], baseline["low"], baseline["high"])
        return _first(
            [point for point in front if point.values[wer] <= bound],
            f"smallest with a {_spelt(wer)} of at most {bound:.2%} (baseline {measured} + {max_wer_increase:g} points)",
        )
    if max_size_bytes is None:
        raise InputError("needs --max-size", where="--rule best", fix="for example 20GB")
    small_enough = [point for point in front if point.size_bytes <= max_size_bytes]
    small_enough.sort(key=lambda point: point.values[wer])
    return _first(small_enough, f"lowest {_spelt(wer)} of at most {size_text(max_size_bytes)}")


def _first(fitting: Sequence[Point], reason: str) -> tuple[Point, str]:
    if not fitting:
        raise InputError(f"no point of the front is: {reason}", where="select", fix="relax the bound, or search longer")
    return fitting[0], reason


def _wer_among(objectives: Mapping[str, str], rule: str) -> str:
    """The objective that is a WER: `wer`, or the only one with a label. Another front may lack the rule's point."""
    labelled = [name for name in objectives if name.startswith("wer.")]
    found = ["wer"] if "wer" in objectives else labelled
    if len(found) != 1 or "size_bytes" not in objectives:
        raise InputError(
            f"weighs size_bytes against one wer, but this study's objectives are {', '.join(objectives)}",
            where=f"--rule {rule}",
            fix="use --rule knee",
        )
    return found[0]


def _spelt(wer: str) -> str:
    return "WER" if wer == "wer" else wer


def drawn_metric(study: optuna.Study) -> str:
    """What a picture shows against size: the WER if there is one, else the first objective that is another score."""
    measured = study.user_attrs["baseline"]["metrics"]
    objectives = [name for name in objectives_of(study) if name in measured]
    return "wer" if "wer" in measured else [*objectives, *measured][0]


def _distance_to_ideal(point: Point, front: Sequence[Point], objectives: Mapping[str, str]) -> float:
    columns = list(zip(*(log_costs(other, objectives) for other in front), strict=True))
    scaled = [
        (cost - min(column)) / (max(column) - min(column)) if max(column) > min(column) else 0.0
        for cost, column in zip(log_costs(point, objectives), columns, strict=True)
    ]
    return math.hypot(*scaled)


def log_costs(point: Point, objectives: Mapping[str, str]) -> list[float]:
    """Logarithms of the objectives, of 1 - value where more is better; an error of zero counts as half of one.

    Sizes, times and error rates are compared by ratio. On a linear scale one candidate that babbles, at a WER of 200%,
    would make 26% look as good as 2%.
    """
    costs: list[float] = []
    for name, direction in objectives.items():
        value = point.values[name] if direction == "minimize" else 1 - point.values[name]
        denominator = point.metrics.get(name, {}).get("denominator", 1e9)
        costs.append(math.log(max(value, 0.5 / denominator)))
    return costs
