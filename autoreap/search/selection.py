"""Pick one point of a front, and say why. Needs no model."""

import math
from collections.abc import Mapping, Sequence

from autoreap.data.tasks import task_of_metric
from autoreap.errors import InputError
from autoreap.formatting import count_text, metric_text, size_text, unit_of, value_text
from autoreap.scores import Metric
from autoreap.search.front import explain_empty_front, front_of, least_error, log_to_minimise
from autoreap.search.held_out import smaller_ties_text
from autoreap.search.records import StudyRecord, TrialRecord

RULES = ("knee", "smallest", "best")
_BOUNDS = {"smallest": ("--max-wer-increase", "0.5 (points)"), "best": ("--max-size", "20GB")}


def select(
    study: StudyRecord, rule: str, *, max_wer_increase: float | None = None, max_size_bytes: float | None = None
) -> tuple[TrialRecord, str]:
    """The front's point that `rule` picks, and why, with any smaller points that do as well.

    Args:
        rule: `knee` (the best trade-off, see `_select_knee`), `smallest` (the smallest with a WER of at most the
            baseline's plus `max_wer_increase`, in points), or `best` (the lowest WER of at most `max_size_bytes`); the
            last two need size_bytes and one WER among the objectives.

    Raises:
        InputError: no point of the front fits the rule, or a bound is missing or belongs to another rule.
    """
    check_bounds(rule, max_wer_increase=max_wer_increase, max_size_bytes=max_size_bytes)
    front = front_of(study)
    if not front:
        fix = "search longer, or relax a constraint in a study of its own"
        raise InputError(explain_empty_front(study), where=f"study {study.name}", fix=fix)
    if rule == "knee":
        point, reason = _select_knee(front, study)
    elif rule == "smallest":
        point, reason = _select_smallest(front, study, max_wer_increase or 0.0)
    else:
        point, reason = _select_best(front, study, max_size_bytes or 0.0)
    return point, reason + smaller_ties_text(study.held_out, point, front)


def check_bounds(rule: str, *, max_wer_increase: float | None, max_size_bytes: float | None) -> None:
    """Raise `InputError` unless `rule` is one and has its own bound; a bound that would be ignored is a mistake."""
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}", where="--rule", fix="knee, smallest or best")
    given = {"--max-wer-increase": max_wer_increase, "--max-size": max_size_bytes}
    needed, example = _BOUNDS.get(rule, (None, None))
    for owner, (option, _) in _BOUNDS.items():
        if given[option] is not None and owner != rule:
            raise InputError(f"has no {option}", where=f"--rule {rule}", fix=f"--rule {owner} has it")
    if needed is not None and given[needed] is None:
        raise InputError(f"needs {needed}", where=f"--rule {rule}", fix=f"for example {example}")


def _select_knee(front: Sequence[TrialRecord], study: StudyRecord) -> tuple[TrialRecord, str]:
    """The useful point whose worst loss is the least.

    A loss is how far an objective lies on the way from its best to its worst value among the useful points, on a log
    scale. To minimise the worst of them is the Kalai-Smorodinsky solution (Econometrica 43, 1975; for fronts of many
    objectives Binois et al., JMLR 21, 2020). Unlike the distance to the ideal corner, it never prefers an end of the
    front that is best in most objectives and hopeless in one, and correlated objectives do not count double. Of equal
    worst losses the second worst decides, and so on; then the size.
    """
    limits = _error_limits(study)
    bounds = ", ".join(_limit_text(name, study.objectives[name], limit) for name, limit in limits.items())
    useful = []
    for point in front:
        errors = {name: _error(point.values[name], study.objectives[name]) for name in limits}
        if all(errors[name] <= limits[name] for name in limits):
            useful.append(point)
    if not useful:
        baseline = ", ".join(f"{name} {metric_text(name, study.baseline.metrics[name])}" for name in limits)
        raise InputError(
            f"no point of the front is useful, that is, has {bounds} (unpruned: {baseline})",
            where="--rule knee",
            fix="search longer, or state your own limit: --rule smallest --max-wer-increase POINTS",
        )
    losses = _losses(useful, study.objectives)
    chosen = min(useful, key=lambda point: (sorted(losses[point.number], reverse=True), point.size_bytes, point.number))
    condition = f" with {bounds}" if bounds else ""
    return chosen, f"best trade-off of the {count_text(len(useful), 'front point')}{condition}"


def _error_limits(study: StudyRecord) -> dict[str, float]:
    """The highest useful error, for each objective that is a rate of answers.

    Of two candidates that make 10 and 40 times the baseline's errors neither can be used, and no saving makes up for
    it. So errors may grow up to the geometric mean of the baseline's and of all wrong. A baseline that is itself beyond
    all wrong may be matched.
    """
    limits = {}
    for name, direction in study.objectives.items():
        baseline = study.baseline.metrics.get(name)
        if baseline is not None and task_of_metric(name) and unit_of(name) == "rate":
            error = max(_error(baseline.value, direction), least_error(baseline))
            limits[name] = max(error, math.sqrt(error))
    return limits


def _error(value: float, direction: str) -> float:
    return value if direction == "minimize" else 1 - value


def _limit_text(name: str, direction: str, limit: float) -> str:
    return f"{name} <= {limit:.2%}" if direction == "minimize" else f"{name} >= {1 - limit:.2%}"


def _losses(points: Sequence[TrialRecord], objectives: Mapping[str, str]) -> dict[int, list[float]]:
    """For each point its place in each objective, from 0, the best of `points`, to 1, the worst."""
    costs = {point.number: log_to_minimise(point, objectives) for point in points}
    losses: dict[int, list[float]] = {number: [] for number in costs}
    for place in range(len(objectives)):
        column = [row[place] for row in costs.values()]
        low, span = min(column), max(column) - min(column)
        for number, row in costs.items():
            losses[number].append((row[place] - low) / span if span > 0 else 0.0)
    return losses


def _select_smallest(
    front: Sequence[TrialRecord], study: StudyRecord, max_wer_increase: float
) -> tuple[TrialRecord, str]:
    wer = wer_objective(study.objectives, "smallest")
    baseline: Metric = study.baseline.metrics[wer]
    bound = baseline.value + max_wer_increase / 100
    fitting = [point for point in front if point.values[wer] <= bound]
    unpruned = metric_text(wer, baseline)
    return _first(
        fitting, f"smallest with {wer} <= {value_text(wer, bound)} (unpruned {unpruned} + {max_wer_increase:g} points)"
    )


def _select_best(front: Sequence[TrialRecord], study: StudyRecord, max_size_bytes: float) -> tuple[TrialRecord, str]:
    wer = wer_objective(study.objectives, "best")
    fitting = [point for point in front if point.size_bytes <= max_size_bytes]
    fitting.sort(key=lambda point: point.values[wer])
    return _first(fitting, f"lowest {wer} of at most {size_text(max_size_bytes)}")


def _first(fitting: Sequence[TrialRecord], reason: str) -> tuple[TrialRecord, str]:
    if not fitting:
        raise InputError(f"no point of the front is: {reason}", where="select", fix="relax the bound, or search longer")
    return fitting[0], reason


def wer_objective(objectives: Mapping[str, str], rule: str) -> str:
    """The objective that is a WER: `wer`, or the only one with a label. Another front may lack the rule's point."""
    found = ["wer"] if "wer" in objectives else [name for name in objectives if name.startswith("wer.")]
    if len(found) != 1 or "size_bytes" not in objectives:
        problem = f"weighs size_bytes against one wer, but this study's objectives are {', '.join(objectives)}"
        raise InputError(problem, where=f"--rule {rule}", fix="use --rule knee")
    return found[0]
