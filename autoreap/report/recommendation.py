"""What the morning report opens with: the candidate that the rule `safe` picks, or the one that comes nearest."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoreap.errors import InputError
from autoreap.scores import Metric
from autoreap.search.non_inferiority import MarginCheck, report_checks, search_checks
from autoreap.search.records import StudyRecord
from autoreap.search.selection import nearest_to_safe, select


def recommendation(study: StudyRecord) -> dict[str, Any]:
    """Plain values for the page; `trial` is None where no trial was scored that keeps every constraint.

    Keys: `trial`, `is_safe`, `is_shipped`, `rows` (a metric on a split each), `knee`.
    """
    if not study.points:
        return {"trial": None, "knee": None}
    safe = shown = _pick(study, "safe")
    if shown is None:
        nearest = nearest_to_safe(study)
        if nearest is None:
            return {"trial": None, "knee": None}
        shown = nearest.point.number
    trial = study.trial(shown)
    rows = _rows("search", search_checks(study, trial), study.baseline.metrics, trial.metrics)
    on_report, own = report_checks(study, trial), study.held_out_of(shown)
    if on_report is not None and own is not None and study.held_out is not None:
        rows += _rows("report", on_report, study.held_out.baseline, own.metrics)
    return {
        "trial": shown,
        "is_safe": safe is not None,
        "is_shipped": study.shipped == shown,
        "rows": rows,
        "knee": _pick(study, "knee"),
    }


def _pick(study: StudyRecord, rule: str) -> int | None:
    try:
        return select(study, rule)[0].number
    except InputError:
        return None


def _rows(
    split: str, checks: Sequence[MarginCheck], unpruned: Mapping[str, Metric], own: Mapping[str, Metric]
) -> list[dict[str, Any]]:
    rows = []
    for check in checks:
        rows.append(
            {
                "metric": check.metric,
                "split": split,
                "unpruned": _interval(unpruned[check.metric]),
                "own": _interval(own[check.metric]),
                "difference": check.difference.as_dict(),
                "margin": round(100 * check.margin, 6),  # 0.007 * 100 is 0.7000000000000001
                "verdict": check.verdict,
                "needed": check.num_needed,
            }
        )
    return rows


def _interval(metric: Metric) -> list[float]:
    return [metric.value, metric.low, metric.high]
