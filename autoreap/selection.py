"""The rules that pick one point of a front, each with its reason in words. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from autoreap.confirmed import CONFIRMED, tied_text
from autoreap.errors import InputError
from autoreap.front import empty_front, least_error, log_costs, pareto
from autoreap.study import Point, objectives_of, points_of
from autoreap.tasks import task_of_metric
from autoreap.wording import metric_text, rate_text, size_text, unit_of

RULES = ("knee", "smallest", "best")


def select(
    study: optuna.Study, rule: str, *, max_wer_increase: float | None = None, max_size_bytes: float | None = None
) -> tuple[Point, str]:
    """The front's point that `rule` picks, and why in words, with any smaller ones that do as well.

    Args:
        rule: `knee` (the useful point whose worst loss is the least, see `_knee`), `smallest` (the smallest with a WER
            of at most the baseline's plus `max_wer_increase`, in points), or `best` (the lowest WER of at most
            `max_size_bytes`); the last two need size_bytes and one WER among the objectives.

    Raises:
        InputError: no point of the front is what the rule asks for, or a bound is missing or of another rule.
    """
    check_bounds(rule, max_wer_increase=max_wer_increase, max_size_bytes=max_size_bytes)
    objectives = objectives_of(study)
    front = pareto(points_of(study), objectives)
    if not front:
        fix = "search longer, or relax a constraint in a study of its own"
        raise InputError(empty_front(study), where=f"study {study.study_name}", fix=fix)
    if rule == "knee":
        point, reason = _knee(front, objectives, study.user_attrs["baseline"]["metrics"])
    elif rule == "smallest":
        point, reason = _smallest(study, front, max_wer_increase or 0.0)
    else:
        point, reason = _best(front, objectives, max_size_bytes or 0.0)
    sizes = {member.trial: member.size_bytes for member in front}
    return point, reason + tied_text(study.user_attrs.get(CONFIRMED), point.trial, sizes)


def check_bounds(rule: str, *, max_wer_increase: float | None, max_size_bytes: float | None) -> None:
    """Raise `InputError` unless `rule` is one and is given its own bound; one that would be ignored is a mistake."""
    given = {"--max-wer-increase": max_wer_increase, "--max-size": max_size_bytes}
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}", where="--rule", fix="knee, smallest or best")
    needed = {"smallest": ("--max-wer-increase", "0.5 (points)"), "best": ("--max-size", "20GB")}
    option, example = needed.get(rule, (None, None))
    for name, value in given.items():
        if value is not None and name != option:
            other = next(rule for rule, (option, _) in needed.items() if option == name)
            raise InputError(f"has no {name}", where=f"--rule {rule}", fix=f"--rule {other} has it")
    if option and given[option] is None:
        raise InputError(f"needs {option}", where=f"--rule {rule}", fix=f"for example {example}")


def _knee(
    front: Sequence[Point], objectives: Mapping[str, str], baseline: Mapping[str, Mapping[str, Any]]
) -> tuple[Point, str]:
    """The useful point whose worst loss is the least.

    A loss is how far an objective lies on the way from its best to its worst value among the useful points, on a log
    scale. To minimise the worst of them is the Kalai-Smorodinsky solution (Econometrica 43, 1975; for fronts of many
    objectives Binois et al., JMLR 21, 2020). Unlike the distance to the ideal corner, it never prefers an end of the
    front that is best in most objectives and hopeless in one, and objectives that say the same do not count double. Of
    equal worst losses the second worst decides, and so on; then the size.
    """
    most = _most_errors(objectives, baseline)
    useful = [
        point for point in front if all(_error(point.values[name], objectives[name]) <= most[name] for name in most)
    ]
    bounds = ", ".join(_bound_text(name, objectives[name], most[name], baseline[name]) for name in most)
    said = f"useful is what has errors nearer to the baseline's than to all wrong, by ratio: {bounds}"
    if not useful:
        fix = "search longer, or say what is good enough: --rule smallest --max-wer-increase POINTS"
        raise InputError(f"no point of the front is useful; {said}", where="--rule knee", fix=fix)
    losses = dict(zip((point.trial for point in useful), _losses(useful, objectives), strict=True))
    chosen = min(useful, key=lambda point: (sorted(losses[point.trial], reverse=True), point.size_bytes, point.trial))
    ways = ", ".join(f"{name} {loss:.0%}" for name, loss in zip(objectives, losses[chosen.trial], strict=True))
    among = f"{len(useful)} useful points of {len(front)} on the front" if most else f"{len(front)} points of the front"
    reason = f"its worst loss is the least of the {among}: of the way from their best to their worst, by ratio, {ways}"
    return chosen, f"{reason}; {said}" if most else reason


def _most_errors(objectives: Mapping[str, str], baseline: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The highest error of use, for each objective that is a rate of answers.

    Of two candidates that make 10 and 40 times the baseline's errors neither can be used, and no saving makes up for
    it. So errors may grow up to the geometric mean of the baseline's and of all wrong; what a baseline gets that is
    itself beyond all wrong may be matched.
    """
    most = {}
    for name, direction in objectives.items():
        if task_of_metric(name) and unit_of(name) == "rate" and name in baseline:
            error = max(_error(baseline[name]["value"], direction), least_error(baseline[name]))
            most[name] = max(error, math.sqrt(error))
    return most


def _error(value: float, direction: str) -> float:
    return value if direction == "minimize" else 1 - value


def _bound_text(name: str, direction: str, most: float, baseline: Mapping[str, Any]) -> str:
    bound = f"at most {most:.2%}" if direction == "minimize" else f"at least {1 - most:.2%}"
    return f"{name} {bound} (baseline {metric_text(name, baseline)})"


def _losses(points: Sequence[Point], objectives: Mapping[str, str]) -> list[list[float]]:
    """For each point its place in each objective, from 0, the best of `points`, to 1, the worst."""
    costs = [log_costs(point, objectives) for point in points]
    ends = [(min(column), max(column)) for column in zip(*costs, strict=True)]
    return [
        [(cost - low) / (high - low) if high > low else 0.0 for cost, (low, high) in zip(row, ends, strict=True)]
        for row in costs
    ]


def _smallest(study: optuna.Study, front: Sequence[Point], max_wer_increase: float) -> tuple[Point, str]:
    wer = _wer_among(objectives_of(study), "smallest")
    baseline = study.user_attrs["baseline"]["metrics"][wer]
    bound = baseline["value"] + max_wer_increase / 100
    measured = rate_text(baseline["value"], baseline["low"], baseline["high"])
    return _first(
        [point for point in front if point.values[wer] <= bound],
        f"smallest with a {_spelt(wer)} of at most {bound:.2%} (baseline {measured} + {max_wer_increase:g} points)",
    )


def _best(front: Sequence[Point], objectives: Mapping[str, str], max_size_bytes: float) -> tuple[Point, str]:
    wer = _wer_among(objectives, "best")
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
