"""What the report split says of a front: read from a study, said in words. Needs no model.

The search chose its front by scores that it had itself looked for, so they flatter: of many candidates those come
first that the search split happens to suit. The report split has steered nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from autoreap.comparison.comparison import Outcomes
from autoreap.outcomes import with_languages
from autoreap.scores import UNDECIDED, compare
from autoreap.tasks import task_of_metric
from autoreap.wording import metric_text, points_text, size_text

CONFIRMED = "confirmed"  # of a study: its front and baseline on the report split; docs/files.md has its keys
SPLIT = "report"
# A front of up to so many members is compared pair by pair: the number of pairs grows with the square.
MOST_FOR_ALL_PAIRS = 16


def scored(names: Iterable[str]) -> list[str]:
    """Those of the metrics `names` that come from answers, and so can be looked at on another split."""
    return [name for name in names if task_of_metric(name)]


def ties(members: Mapping[int, Outcomes], names: Iterable[str]) -> dict[int, list[int]]:
    """For each member those that can't be told apart from it: paired over the utterances, in none of the metrics.

    Args:
        members: outcomes of the same utterances, by trial, in order of size; of many only neighbours are compared.
        names: the metrics to go by; those that no member has do not count, and without any nothing is tied.
    """
    split = {number: with_languages(outcomes) for number, outcomes in members.items()}
    pairs = combinations(members, 2) if len(members) <= MOST_FOR_ALL_PAIRS else pairwise(members)
    tied: dict[int, list[int]] = {number: [] for number in members}
    for first, second in pairs:
        shared = [name for name in names if name in split[first] and name in split[second]]
        if shared and all(_undecided(name, split[first], split[second]) for name in shared):
            tied[first].append(second)
            tied[second].append(first)
    return tied


def _undecided(metric: str, first: Outcomes, second: Outcomes) -> bool:
    task = task_of_metric(metric)
    assert task is not None  # callers pass metrics of tasks
    counts = [[outcome.counts for outcome in side[metric]] for side in (first, second)]
    return compare(*counts, direction=task.DIRECTION).verdict == UNDECIDED


def smaller_tied(confirmed: Mapping[str, Any] | None, number: int, sizes: Mapping[int, int]) -> list[int]:
    """The members that can't be told apart from `number` and are smaller, smallest first; `sizes` are the front's."""
    known = (confirmed or {}).get("trials", {}).get(str(number), {})
    tied = [other for other in known.get("tied_with", []) if other in sizes and sizes[other] < sizes[number]]
    return sorted(tied, key=lambda other: sizes[other])


def tied_text(confirmed: Mapping[str, Any] | None, number: int, sizes: Mapping[int, int]) -> str:
    """An addition to why `number` was picked; empty unless a smaller member does as well."""
    tied = smaller_tied(confirmed, number, sizes)
    if not tied:
        return ""
    named = " and ".join(f"trial {other} ({size_text(sizes[other])})" for other in tied)
    return f"; on the report split the objectives can't tell it from the smaller {named}"


def with_confirmed(points: Sequence[dict[str, Any]], confirmed: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Plain points, each with what the report split says of it as `confirmed`, where it says something."""
    known = (confirmed or {}).get("trials", {})
    return [
        point | ({"confirmed": known[str(point["trial"])]} if str(point["trial"]) in known else {}) for point in points
    ]


def columns(
    confirmed: Mapping[str, Any] | None, names: Iterable[str], sizes: Mapping[int, int]
) -> dict[str, dict[str, str]]:
    """Columns for a table of the front: heading -> trial (or `baseline`) -> score with interval, and its mark.

    Only the metrics `names` that the report split has; none where nothing was confirmed.
    """
    if confirmed is None:
        return {}
    members = {**confirmed["trials"], "baseline": confirmed["baseline"]}
    shown = [name for name in names if name in confirmed["baseline"]["metrics"]]
    cells: dict[str, dict[str, str]] = {}
    for name in shown:
        column = cells.setdefault(f"{name} (report split) [95%]", {})
        for label, known in members.items():
            on_front = label != "baseline" and int(label) in sizes
            tied = smaller_tied(confirmed, int(label), sizes) if on_front else []
            column[label] = metric_text(name, known["metrics"][name]) + (f" ~{tied[0]}" if tied else "")
    return cells


def legend(confirmed: Mapping[str, Any] | None, sizes: Mapping[int, int]) -> list[str]:
    """What the marks of `columns` mean, and what could not be confirmed, each a line."""
    lines = []
    if any(smaller_tied(confirmed, number, sizes) for number in sizes):
        lines.append(
            "~N: its objectives can't be told apart from the smaller trial N's on the report split (paired, 95%)"
        )
    missing = (confirmed or {}).get("missing", [])
    if missing:
        lines.append(f"not in the report split: {', '.join(missing)}")
    return lines


def confirmed_lines(confirmed: Mapping[str, Any] | None, number: int) -> list[str]:
    """What the report split says of one trial, a line a metric."""
    known = (confirmed or {}).get("trials", {}).get(str(number), {"metrics": {}, "against_baseline": {}})
    lines = []
    for name, found in known["against_baseline"].items():
        points = points_text(found["value"], found["low"], found["high"])
        score = metric_text(name, known["metrics"][name])
        lines.append(f"{name} {score} on the report split, {points} against the unpruned model: {found['verdict']}")
    return lines
