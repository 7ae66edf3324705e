"""Pick one point of a front, and say why. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from autoreap.data.tasks import task_of_metric
from autoreap.errors import InputError
from autoreap.formatting import count_text, metric_text, size_text, unit_of, value_text
from autoreap.search.front import error_of, explain_empty_front, feasible_points, front_of, least_error, log_to_minimise
from autoreap.search.held_out import smaller_ties_text
from autoreap.search.non_inferiority import (
    MarginCheck,
    all_hold,
    is_refuted,
    non_inferior_points,
    report_checks,
    search_checks,
    smallest_safe,
    worst_ratio,
)
from autoreap.search.records import StudyRecord, TrialRecord

RULES = ("safe", "knee", "smallest", "best")
_BOUNDS = {"smallest": ("--max-wer-increase", "0.5 (points)"), "best": ("--max-size", "20GB")}


def select(
    study: StudyRecord, rule: str, *, max_wer_increase: float | None = None, max_size_bytes: float | None = None
) -> tuple[TrialRecord, str]:
    """The point that `rule` picks, and why.

    Args:
        rule: `safe` (the smallest that is non-inferior to the unpruned model, see `_select_safe`), `knee` (the best
            trade-off of the front, see `_select_knee`), `smallest` (the smallest of the front with a WER of at most the
            baseline's plus `max_wer_increase`, in points), or `best` (the lowest WER of at most `max_size_bytes`); the
            last two need size_bytes and one WER among the objectives.

    Raises:
        InputError: no point fits the rule, or a bound is missing or belongs to another rule.
    """
    check_bounds(rule, max_wer_increase=max_wer_increase, max_size_bytes=max_size_bytes)
    front = front_of(study)
    if not front:
        fix = "search longer, or relax a constraint in a study of its own"
        raise InputError(explain_empty_front(study), where=f"study {study.name}", fix=fix)
    if rule == "safe":
        return _select_safe(front, study)
    if rule == "knee":
        point, reason = _select_knee(front, study)
    elif rule == "smallest":
        point, reason = _select_smallest(front, study, max_wer_increase or 0.0)
    else:
        point, reason = _select_best(front, study, max_size_bytes or 0.0)
    return point, reason + smaller_ties_text(study, point, front)


def check_bounds(rule: str, *, max_wer_increase: float | None, max_size_bytes: float | None) -> None:
    """Raise `InputError` unless `rule` is one and has its own bound; a bound that would be ignored is a mistake."""
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}", where="--rule", fix=", ".join(RULES))
    given = {"--max-wer-increase": max_wer_increase, "--max-size": max_size_bytes}
    needed, example = _BOUNDS.get(rule, (None, None))
    for owner, (option, _) in _BOUNDS.items():
        if given[option] is not None and owner != rule:
            raise InputError(f"has no {option}", where=f"--rule {rule}", fix=f"--rule {owner} has it")
    if needed is not None and given[needed] is None:
        raise InputError(f"needs {needed}", where=f"--rule {rule}", fix=f"for example {example}")


def _select_safe(front: Sequence[TrialRecord], study: StudyRecord) -> tuple[TrialRecord, str]:
    """The smallest candidate that is non-inferior to the unpruned model in every quality metric.

    It is chosen on the search split. Where the report split disagrees, the next larger one is taken.
    """
    chosen = smallest_safe(study)
    if chosen is None:
        raise _none_is_safe(front, study)
    reason = f"smallest that is non-inferior to the unpruned model in {_margins_text(search_checks(study, chosen))}"
    if report_checks(study, chosen) is None:
        reason += ", on the search split; it was not scored on the report split"
    else:
        reason += ", on both splits"
    refuted = []
    for point in non_inferior_points(study.points, study.margins):
        if point.size_bytes <= chosen.size_bytes and is_refuted(study, point):
            failed = [check.metric for check in report_checks(study, point) or [] if not check.is_non_inferior]
            refuted.append(f"trial {point.number} ({', '.join(failed)})")
    if refuted:
        reason += f"; smaller, but not confirmed by the report split: {', '.join(refuted)}"
    return chosen, reason


def _margins_text(checks: Sequence[MarginCheck]) -> str:
    """`wer (margin 0.5 points) and accuracy (margin 1 point)`."""
    texts = []
    for check in checks:
        points = 100 * check.margin
        noun = "point" if points == 1 else "points"
        texts.append(f"{check.metric} (margin {points:g} {noun})")
    return " and ".join(texts)


def _none_is_safe(front: Sequence[TrialRecord], study: StudyRecord) -> InputError:
    """The error to raise: it names the nearest candidate, and the best trade-off where there is one."""
    nearest = nearest_to_safe(study)
    assert nearest is not None  # the front is not empty
    failed = "; ".join(check.describe() for check in nearest.checks if not check.is_non_inferior)
    text = f"no candidate is non-inferior to the unpruned model; the nearest is trial {nearest.point.number}"
    text += f" ({size_text(nearest.point.size_bytes)}), on the {nearest.split} split {failed}"
    try:
        knee, _ = _select_knee(front, study)
    except InputError:
        pass
    else:
        text += f". The best trade-off is trial {knee.number} ({size_text(knee.size_bytes)}, --rule knee)"
    if any(check.num_needed for check in nearest.checks):
        fix = f"add utterances to the {nearest.split} split, or state larger margins in the space"
    else:
        fix = "search longer, search gentler cuts, or state larger margins in the space"
    return InputError(text, where="--rule safe", fix=fix)


@dataclass(frozen=True)
class Nearest:
    """A candidate that is not non-inferior, with the checks on the split that it fails first."""

    point: TrialRecord
    split: str
    checks: Sequence[MarginCheck]


def nearest_to_safe(study: StudyRecord) -> Nearest | None:
    """The candidate that comes nearest: first what holds on the search split, then what exceeds a margin least."""
    entries = []
    for point in feasible_points(study.points):
        checks = search_checks(study, point)
        if all_hold(checks):
            entries.append(Nearest(point, "report", report_checks(study, point) or []))
        else:
            entries.append(Nearest(point, "search", checks))
    if not entries:
        return None
    return min(entries, key=lambda entry: (entry.split == "search", worst_ratio(entry.checks), entry.point.size_bytes))


def _select_knee(front: Sequence[TrialRecord], study: StudyRecord) -> tuple[TrialRecord, str]:
    """The useful point whose worst loss is the least, of those on or below the line between the ends of the front.

    A point above that line is a worse trade than the ends mixed. Where only the ends are left, the largest is taken:
    a step away from it costs more than it saves.

    A loss is how far an objective lies on the way from its best to its worst value among the useful points, on a log
    scale. To minimise the worst of them is the Kalai-Smorodinsky solution (Econometrica 43, 1975; for fronts of many
    objectives Binois et al., JMLR 21, 2020). Unlike the distance to the ideal corner, it never prefers an end of the
    front that is best in most objectives and hopeless in one, and correlated objectives do not count double. Of equal
    worst losses the second worst decides, and so on.
    """
    limits = _error_limits(study)
    useful = list(front)
    texts = []
    for name, limit in limits.items():
        direction = study.objectives[name]
        useful = [point for point in useful if error_of(point.values[name], direction) <= limit]
        if direction == "minimize":
            texts.append(f"{name} <= {limit:.2%}")
        else:
            texts.append(f"{name} >= {1 - limit:.2%}")
    bounds = ", ".join(texts)
    if not useful:
        baseline = ", ".join(f"{name} {metric_text(name, study.baseline.metrics[name])}" for name in limits)
        problem = f"no point of the front has {bounds} (unpruned: {baseline})"
        fix = "search longer, or state your own limit: --rule smallest --max-wer-increase POINTS"
        raise InputError(problem, where="--rule knee", fix=fix)
    losses = _losses(useful, study.objectives)
    ends = _ends(list(losses.values()))
    # Never empty: no mixture of the ends is better than an end itself.
    candidates = [point for point in useful if not _is_above(losses[point.number], ends)]
    chosen = min(candidates, key=lambda point: (sorted(losses[point.number], reverse=True), -point.size_bytes))
    reason = f"best trade-off of the {count_text(len(useful), 'front point')}"
    if bounds:
        reason += f" with {bounds}"
    if len(useful) > 1 and max(losses[chosen.number]) == 1.0:
        reason += "; it is an end of the front: no point between the ends is a better trade-off than they are"
    return chosen, reason


def _ends(losses: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """For each objective that differs at all, the losses of the point that is best in it; of several the best one."""
    ends = []
    for place in range(len(losses[0])):
        if any(row[place] > 0 for row in losses):
            best = [row for row in losses if row[place] == 0]
            ends.append(min(best, key=sum))
    return ends


def _is_above(point: Sequence[float], ends: Sequence[Sequence[float]]) -> bool:
    """Whether some mixture of the ends is better than `point` in every objective; with two, it lies above their line.

    A linear program: the weights of the mixture, and by how much it is better at least.
    """
    if not ends:
        return False
    columns = np.array(ends).T  # [objectives, ends]
    # In an objective in which no end loses anything, no mixture can be better.
    differs = columns.any(axis=1)
    columns, own = columns[differs], np.array(point)[differs]
    margins = np.ones((len(columns), 1))
    # Unknown: the weight of each end, and the margin, which is as large as can be (linprog minimises, hence -1).
    found = linprog(
        c=[0.0] * len(ends) + [-1.0],
        A_ub=np.hstack([columns, margins]),
        b_ub=own,
        A_eq=[[1.0] * len(ends) + [0.0]],
        b_eq=[1.0],
        bounds=[(0, 1)] * len(ends) + [(None, None)],
    )
    # Above the solver's rounding: a point on the line must not count as above it.
    return bool(-found.fun > 1e-9)


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
            error = max(error_of(baseline.value, direction), least_error(baseline))
            limits[name] = max(error, math.sqrt(error))
    return limits


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
    baseline = study.baseline.metrics[wer]
    bound = baseline.value + max_wer_increase / 100
    fitting = [point for point in front if point.values[wer] <= bound]
    unpruned = f"unpruned {metric_text(wer, baseline)} + {max_wer_increase:g} points"
    return _first(fitting, f"smallest with {wer} <= {value_text(wer, bound)} ({unpruned})")


def _select_best(front: Sequence[TrialRecord], study: StudyRecord, max_size_bytes: float) -> tuple[TrialRecord, str]:
    wer = wer_objective(study.objectives, "best")
    fitting = [point for point in front if point.size_bytes <= max_size_bytes]
    fitting.sort(key=lambda point: point.values[wer])
    return _first(fitting, f"lowest {wer} with at most {size_text(max_size_bytes)}")


def _first(fitting: Sequence[TrialRecord], reason: str) -> tuple[TrialRecord, str]:
    if not fitting:
        raise InputError(
            f"no point of the front fits: {reason}", where="select", fix="relax the bound, or search longer"
        )
    return fitting[0], reason


def wer_objective(objectives: Mapping[str, str], rule: str) -> str:
    """The objective that is a WER: `wer`, or the only one with a label. Another front may lack the rule's point."""
    found = [name for name in objectives if name.startswith("wer.")]
    if "wer" in objectives:
        found = ["wer"]
    if len(found) != 1 or "size_bytes" not in objectives:
        problem = f"weighs size_bytes against one wer, but this study's objectives are {', '.join(objectives)}"
        raise InputError(problem, where=f"--rule {rule}", fix="use --rule knee")
    return found[0]
