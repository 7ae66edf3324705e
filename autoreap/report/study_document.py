"""A study as the morning report shows it: one document of plain values, which becomes JSON.

Its keys are read by the scripts of `page/`. What can't be known any more, such as the recordings of an evals file that
has moved, is left out of it, and the page says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoreap.data.tasks import task_of_metric
from autoreap.formatting import unit_of, visible_metrics
from autoreap.report.candidate_details import all_details
from autoreap.report.recommendation import recommendation
from autoreap.report.search_stats import search_stats
from autoreap.scores import Metric
from autoreap.search.constraints import is_static
from autoreap.search.front import drawn_metric, front_of, worse_elsewhere
from autoreap.search.records import ScoredModel, StudyRecord, TrialRecord, TrialStatus
from autoreap.search.storage import DEFAULT_ROOT


def study_document(study: StudyRecord, root: Path = DEFAULT_ROOT) -> dict[str, Any]:
    """All that the page shows of `study`; the outcomes lie under `root`."""
    front = front_of(study)
    splits: dict[str, Mapping[str, Metric]] = {"search": study.baseline.metrics}
    if study.held_out is not None:
        splits["report"] = study.held_out.baseline
    scores: dict[str, list[str]] = {}
    units, rates = {"size_bytes": unit_of("size_bytes")}, set()
    for split, metrics in splits.items():
        for name in metrics:
            units[name] = unit_of(name)
        scores[split] = [name for name in visible_metrics(metrics, study.objectives) if not is_static(name)]
        for name in scores[split]:
            # Errors are compared by ratio, on a log scale: 2% and 4% lie as far apart as 20% and 40%.
            task = task_of_metric(name)
            if task is not None and task.DIRECTION == "minimize" and units[name] == "rate":
                rates.add(name)
    head = recommendation(study)
    picked = [number for number in (head["trial"], head["knee"]) if number is not None]
    x = ["size_bytes"]
    x += [name for name in study.baseline.metrics if is_static(name)]
    base, model = study.base_model, None
    if base is not None:
        model = base.name
    return {
        "study": study.name,
        "model": model,
        "objectives": study.objectives,
        "units": units,
        "log": sorted(rates),
        "x": x,
        "y": scores,
        "drawn": drawn_metric(study),
        "baseline": {"scores": _scores(study.baseline, splits.get("report"))},
        "controls": {name: {"scores": _scores(control, None)} for name, control in study.controls.items()},
        "trials": _trial_rows(study, front),
        "head": head,
        "night": search_stats(study),
        **all_details(study, front, picked, root),
    }


def _scores(scored: ScoredModel | TrialRecord, held_out: Mapping[str, Metric] | None) -> dict[str, Any]:
    """Split -> metric -> [value, low, high], or [value] where it is static."""
    scores: dict[str, Any] = {"search": {"size_bytes": [scored.size_bytes], **_brief(scored.metrics)}}
    if held_out is not None:
        scores["report"] = _brief(held_out)
    return scores


def _brief(metrics: Mapping[str, Metric]) -> dict[str, list[float]]:
    brief = {}
    for name, metric in metrics.items():
        values = [metric.value]
        if not metric.is_static:
            values += [metric.low, metric.high]
        brief[name] = [_rounded(value) for value in values]
    return brief


def _rounded(value: float) -> float:
    # More digits than are shown, fewer than are stored; bytes and parameters are whole.
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}")


def _trial_rows(study: StudyRecord, front: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    on_front = {point.number for point in front}
    first = min((trial.started for trial in study.trials if trial.started), default=None)
    rows = []
    for trial in study.trials:
        if trial.status is TrialStatus.WAITING:
            continue
        row: dict[str, Any] = {"trial": trial.number, "params": trial.params, "state": trial.status}
        parts = {
            "reason": trial.reason,
            "duplicate_of": trial.duplicate_of,
            "preset": trial.preset,
            "retry_of": trial.retry_of,
        }
        for key, value in parts.items():
            if value is not None:
                row[key] = value
        if trial.started is not None and first is not None:
            row["start"] = round((trial.started - first).total_seconds(), 1)
            row["seconds"] = None  # of one that runs, or was interrupted at an unknown time
            if trial.wall_seconds is not None:
                row["seconds"] = round(trial.wall_seconds, 1)
        if trial.violations:
            row["broken"] = list(trial.violations)
        if trial.is_scored:
            report_metrics = None
            tied: list[int] = []
            held_out = study.held_out_of(trial.number)
            if held_out is not None:
                report_metrics = held_out.metrics
                tied = list(held_out.tied_with)
            row["scores"] = _scores(trial, report_metrics)
            row["front"] = trial.number in on_front
            unhealed = study.unhealed(trial)
            if unhealed is not None:
                row["unhealed"] = unhealed.number
            row["worse"] = worse_elsewhere(study, trial)
            row["tied"] = tied
        rows.append(row)
    return rows
