"""A study as the morning report shows it: one document of plain values, which becomes JSON.

Its keys are read by the scripts of `page/`. What can't be known any more, such as the recordings of an evals file that
has moved, is left out of it, and the page says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoreap.constraints import EXACT
from autoreap.errors import InputError
from autoreap.report.details import details_of
from autoreap.report.night import night_of, seconds_of
from autoreap.scores import is_exact
from autoreap.study.confirmed import CONFIRMED
from autoreap.study.front import drawn_metric, pareto
from autoreap.study.selection import select
from autoreap.study.trials import (
    CONTROLS,
    DEFAULT_ROOT,
    PLAN,
    RESULT,
    Point,
    broken_of,
    fate_of,
    objectives_of,
    points_of,
)
from autoreap.tasks import task_of_metric
from autoreap.wording import shown, unit_of

MAX_WER_INCREASE = 0.5  # points; of the sentence about the smallest
Metrics = Mapping[str, Mapping[str, Any]]


def report_document(study: optuna.Study, root: Path = DEFAULT_ROOT) -> dict[str, Any]:
    """All that the page tells of `study`, which has a baseline; the outcomes lie under `root`."""
    points, objectives, confirmed = points_of(study), objectives_of(study), study.user_attrs.get(CONFIRMED)
    front, baseline = pareto(points, objectives), study.user_attrs["baseline"]
    splits = {"search": baseline["metrics"], **({"report": confirmed["baseline"]["metrics"]} if confirmed else {})}
    controls = study.user_attrs.get(CONTROLS, {})
    scores = {split: _measured(metrics, objectives) for split, metrics in splits.items()}
    knee, smallest = _picked(study, "knee"), _smallest(study)
    picked = [number for number in (knee, (smallest or {}).get("trial")) if number is not None]
    return {
        "study": study.study_name,
        "model": _model_name(study),
        "objectives": objectives,
        "units": {name: unit_of(name) for metrics in splits.values() for name in ("size_bytes", *metrics)},
        "log": sorted({name for names in scores.values() for name in names if _is_error_rate(name)}),
        "x": [name for name in EXACT if name == "size_bytes" or name in baseline["metrics"]],
        "y": scores,
        "drawn": drawn_metric(study),
        "baseline": {"scores": _scores(baseline, splits.get("report"))},
        "controls": {name: {"scores": _scores(known, None)} for name, known in controls.items()},
        "trials": _trials(study, front, confirmed),
        "head": {"knee": knee, "smallest": smallest, "points": MAX_WER_INCREASE},
        "night": night_of(study, points),
        **details_of(study, points, front, picked, root),
    }


def _measured(metrics: Metrics, objectives: Mapping[str, str]) -> list[str]:
    """What may stand on the y axis: scores, and objectives that are no property of the plan alone."""
    return [name for name in shown(metrics, objectives) if name not in EXACT]


def _is_error_rate(name: str) -> bool:
    """Errors are compared by ratio, on a log scale: 2% and 4% lie as far apart as 20% and 40%."""
    task = task_of_metric(name)
    return task is not None and task.DIRECTION == "minimize" and unit_of(name) == "rate"


def _model_name(study: optuna.Study) -> str | None:
    plans = (trial.user_attrs[PLAN] for trial in study.get_trials(deepcopy=False) if PLAN in trial.user_attrs)
    return next((str(plan["base_model"]["name"]) for plan in plans), None)


def _scores(known: Mapping[str, Any], confirmed: Metrics | None) -> dict[str, Any]:
    """Split -> metric -> [value, low, high], or [value] where it is exact."""
    search = {"size_bytes": [known["size_bytes"]], **_brief(known["metrics"])}
    return {"search": search, **({"report": _brief(confirmed)} if confirmed else {})}


def _brief(metrics: Metrics) -> dict[str, list[float]]:
    return {
        name: [_rounded(measured[part]) for part in (("value",) if is_exact(measured) else ("value", "low", "high"))]
        for name, measured in metrics.items()
    }


def _rounded(value: float) -> float:
    """More digits than are shown, fewer than are stored; bytes and parameters are whole."""
    return value if isinstance(value, int) else float(f"{value:.7g}")


def _trials(study: optuna.Study, front: Sequence[Point], confirmed: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    on_front, judged = {point.trial for point in front}, (confirmed or {}).get("trials", {})
    started = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        row = {"trial": trial.number, "params": trial.params, **_became(trial)}
        row |= {key: trial.user_attrs[key] for key in ("preset", "retry_of") if key in trial.user_attrs}
        if trial.datetime_start:
            row["start"] = round((trial.datetime_start - min(started)).total_seconds(), 1)
            row["seconds"] = seconds_of(trial)
        if broken := broken_of(trial.constraints):
            row["broken"] = list(broken)
        if trial.state == TrialState.COMPLETE:
            known = judged.get(str(trial.number), {})
            row["scores"] = _scores(trial.user_attrs[RESULT], known.get("metrics"))
            row["front"] = trial.number in on_front
            row["tied"] = known.get("tied_with", [])
        rows.append(row)
    return rows


def _became(trial: FrozenTrial) -> dict[str, Any]:
    """What became of a trial, and why where that is not plain."""
    fate = fate_of(trial)
    known = {"reason": fate.reason, "twin": fate.twin}
    return {"state": fate.became, **{key: value for key, value in known.items() if value is not None}}


def _picked(study: optuna.Study, rule: str, **bound: float) -> int | None:
    """The trial that `rule` picks; None where no point of the front fits it."""
    try:
        return select(study, rule, **bound)[0].trial
    except InputError:
        return None


def _smallest(study: optuna.Study) -> dict[str, Any] | None:
    """The smallest within `MAX_WER_INCREASE`; None where the study does not weigh size against one WER."""
    objectives = objectives_of(study)
    wers = [name for name in objectives if name.partition(".")[0] == "wer"]
    if "size_bytes" not in objectives or (len(wers) != 1 and "wer" not in wers):
        return None
    return {"trial": _picked(study, "smallest", max_wer_increase=MAX_WER_INCREASE)}
