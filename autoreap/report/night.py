"""How the night went: what each trial took, what was lost to what, and when the front stopped growing."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume
from optuna.trial import FrozenTrial, TrialState

from autoreap.progress import log
from autoreap.study.front import log_costs
from autoreap.study.trials import ERROR, INFEASIBLE, RACED, SCREENED, Point, broken_of, objectives_of

MIN_TRIALS_FOR_IMPORTANCE = 20  # of different plans; below, what a parameter does is mostly chance


def night_of(study: optuna.Study, points: Sequence[Point]) -> dict[str, Any]:
    """The part of the document that is about time, losses, and what the search learnt."""
    trials = study.get_trials(deepcopy=False)
    return {
        **_times(trials),
        "seconds": round(sum(seconds_of(trial) or 0 for trial in trials), 1),
        "failures": _failures(trials),
        "raced": _raced(trials),
        "screened": _screened(trials),
        "sessions": [session["first_trial"] for session in study.user_attrs.get("sessions", [])],
        "constraints": _constraints(study, trials),
        "hypervolume": hypervolumes(points, objectives_of(study)),
        "importance": importances(study, points),
        "importance_needs": MIN_TRIALS_FOR_IMPORTANCE,
        "plans": len({point.plan_digest for point in points}),
    }


def _times(trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """When the first trial began and the last one ended, by the clock of the machine that searched."""
    began = [trial.datetime_start for trial in trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    if not began or not ended:
        return {}
    return {"began": f"{min(began):%Y-%m-%d %H:%M}", "ended": f"{max(ended):%Y-%m-%d %H:%M}"}


def seconds_of(trial: FrozenTrial) -> float | None:
    """From the start of a trial to its end; None where it has not ended, or was cut off: nobody saw when."""
    if trial.state == TrialState.FAIL and ERROR not in trial.user_attrs:
        return None
    spent: timedelta | None = trial.duration
    return None if spent is None else round(spent.total_seconds(), 1)


def _failures(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Each reason with its trials, the most frequent first."""
    by_reason: dict[str, list[int]] = {}
    for trial in trials:
        if trial.state == TrialState.FAIL and ERROR in trial.user_attrs:
            by_reason.setdefault(str(trial.user_attrs[ERROR]), []).append(trial.number)
    ordered = sorted(by_reason.items(), key=lambda entry: -len(entry[1]))
    return [{"reason": reason, "trials": numbers} for reason, numbers in ordered]


def _was_told(trial: FrozenTrial, attribute: str) -> bool:
    """Whether the study was told that `trial` ended so: what was set just before a kill does not count."""
    reason = trial.user_attrs.get(attribute, {})
    return trial.state == TrialState.PRUNED and (isinstance(reason, str) or "reason" in reason)


def _raced(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """What trials that were stopped had taken, and how many of their answers were never needed.

    One that repeats a stopped plan was not run at all, so it counts neither way.
    """
    verdicts = [trial.user_attrs[RACED] for trial in trials if _was_told(trial, RACED)]
    run = [verdict for verdict in verdicts if verdict.get("duplicate_of") is None]
    return {
        "num": len(run),
        "seconds": round(sum(verdict["seconds"] for verdict in run), 1),
        "scored": sum(verdict["num_scored"] for verdict in run),
        "answers": sum(verdict["num_utterances"] for verdict in run),
    }


def _screened(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """How many trials a screen ended, and what the screens of all trials took."""
    screens = [trial.user_attrs[SCREENED] for trial in trials if SCREENED in trial.user_attrs]
    run = [screen for screen in screens if screen.get("duplicate_of") is None]
    num = sum(_was_told(trial, SCREENED) and trial.user_attrs[SCREENED].get("duplicate_of") is None for trial in trials)
    return {"num": num, "seconds": round(sum(screen["seconds"] for screen in run), 1)}


def _constraints(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """How many trials broke each constraint: before they were scored, and after."""
    broken = [(_was_told(trial, INFEASIBLE), broken_of(trial.constraints)) for trial in trials]
    return [
        {
            "text": text,
            "unscored": sum(early and text in found for early, found in broken),
            "scored": sum(not early and text in found for early, found in broken),
        }
        for text in study.user_attrs.get("constraints", [])
    ]


def hypervolumes(points: Sequence[Point], objectives: Mapping[str, str]) -> list[list[float]]:
    """[trial, share of the final hypervolume] where it grew.

    The hypervolume is that of the costs by which the knee is found, logarithms, up to the worst of each among the
    points that keep every constraint. It is 1 at the end by construction: it says when the night stopped paying.
    """
    kept = [point for point in points if not point.broken and point.duplicate_of is None]
    costs = np.array([log_costs(point, objectives) for point in kept])
    if not len(kept) or not np.ptp(costs, axis=0).all():
        return []  # nothing spans a volume
    scaled = (costs - costs.min(axis=0)) / np.ptp(costs, axis=0)
    corner = np.ones(len(objectives))
    best: list[list[float]] = []
    front = np.empty((0, len(objectives)))
    total = compute_hypervolume(scaled, corner)
    for point, cost in zip(kept, scaled, strict=True):
        if any((other <= cost).all() for other in front):
            continue
        front = np.vstack([front[(front < cost).any(axis=1)], cost])
        best.append([point.trial, round(compute_hypervolume(front, corner) / total, 4) if total else 1.0])
    return best


def importances(study: optuna.Study, points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """For each objective the share of each parameter, by optuna's default measure; nothing of a small study."""
    objectives = objectives_of(study)
    costs = {point.trial: log_costs(point, objectives) for point in points}
    if len({point.plan_digest for point in points}) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    found = {}
    for place, name in enumerate(objectives):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that low values count as good, which costs are
                shares = optuna.importance.get_param_importances(study, target=partial(_cost, costs, place))
        except (ValueError, RuntimeError) as error:  # such as no parameter that all trials share
            log(f"warning: the importance of parameters for {name} is not known: {error}")
            continue
        found[name] = {parameter: round(share, 4) for parameter, share in shares.items()}
    return found


def _cost(costs: Mapping[int, Sequence[float]], place: int, trial: FrozenTrial) -> float:
    return costs[trial.number][place]
