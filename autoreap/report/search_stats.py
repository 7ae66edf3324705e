"""How a search went: what each trial took, what was lost to what, and when the front stopped growing."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume  # there is no public name for it
from optuna.trial import create_trial

from autoreap.search.front import log_to_minimise
from autoreap.search.records import StudyRecord, TrialRecord, TrialStatus

logger = logging.getLogger(__name__)

MIN_TRIALS_FOR_IMPORTANCE = 20  # of different plans; below, what a parameter does is mostly chance


def search_stats(study: StudyRecord) -> dict[str, Any]:
    """The part of the report's document that is about time, losses, and what the search learnt."""
    began = [trial.started for trial in study.trials if trial.started]
    ended = [trial.ended for trial in study.trials if trial.ended]
    times = {}
    if began and ended:  # a study may have only queued trials
        times = {"began": f"{min(began):%Y-%m-%d %H:%M}", "ended": f"{max(ended):%Y-%m-%d %H:%M}"}
    return {
        **times,
        "seconds": round(sum(trial.wall_seconds or 0 for trial in study.trials), 1),
        "untried": study.num_untried,
        "failures": _failures(study.trials),
        "pruned": _pruned(study.trials),
        "sessions": list(study.first_trials),
        "constraints": _constraints(study),
        "hypervolume": hypervolumes(study.points, study.objectives),
        "importance": importances(study),
        "importance_needs": MIN_TRIALS_FOR_IMPORTANCE,
        "plans": _num_plans(study),
    }


def _num_plans(study: StudyRecord) -> int:
    return len({point.plan_digest for point in study.points})


def _failures(trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    by_reason: dict[str, list[int]] = {}
    for trial in trials:
        if trial.status is TrialStatus.FAILED:
            by_reason.setdefault(str(trial.reason), []).append(trial.number)
    ordered = sorted(by_reason.items(), key=lambda entry: -len(entry[1]))
    return [{"reason": reason, "trials": numbers} for reason, numbers in ordered]


def _pruned(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """What pruned trials had taken, and how many of their answers were never needed.

    A trial that repeats a pruned plan was not run at all, so it does not count.
    """
    run = [trial for trial in trials if trial.status is TrialStatus.PRUNED and trial.duplicate_of is None]
    return {
        "num": len(run),
        "seconds": round(sum(trial.seconds for trial in run), 1),
        "scored": sum(trial.num_scored for trial in run),
        "answers": sum(trial.num_utterances for trial in run),
    }


def _constraints(study: StudyRecord) -> list[dict[str, Any]]:
    """How many trials violated each constraint: before they were scored, and after."""
    rows = []
    for text in study.constraints:
        violating = [trial for trial in study.trials if text in trial.violations]
        unscored = sum(trial.status is TrialStatus.INFEASIBLE for trial in violating)
        rows.append({"text": text, "unscored": unscored, "scored": len(violating) - unscored})
    return rows


def hypervolumes(points: Sequence[TrialRecord], objectives: Mapping[str, str]) -> list[list[float]]:
    """[trial, share of the final hypervolume] where it grew.

    The hypervolume is that of the logarithms by which the knee is found, up to the worst of each among the points that
    keep every constraint. It is 1 at the end by construction: it says when the search stopped paying.
    """
    kept = [point for point in points if not point.violations and point.duplicate_of is None]
    costs = np.array([log_to_minimise(point, objectives) for point in kept])
    if not kept or not np.ptp(costs, axis=0).all():
        return []  # nothing spans a volume
    scaled = (costs - costs.min(axis=0)) / np.ptp(costs, axis=0)
    corner = np.ones(len(objectives))
    steps: list[list[float]] = []
    front = np.empty((0, len(objectives)))
    total = compute_hypervolume(scaled, corner)
    for point, cost in zip(kept, scaled, strict=True):
        if any((other <= cost).all() for other in front):  # dominated: it adds nothing
            continue
        front = np.vstack([front[(front < cost).any(axis=1)], cost])
        share = compute_hypervolume(front, corner) / total if total else 1.0
        steps.append([point.number, round(share, 4)])
    return steps


def importances(study: StudyRecord) -> dict[str, dict[str, float]]:
    """For each objective the share of each parameter, by Optuna's default measure; nothing of a small study."""
    if _num_plans(study) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    found = {}
    for place, name in enumerate(study.objectives):
        # A study in memory, of this objective's logarithms: on a linear scale one candidate that babbles decides all.
        single = optuna.create_study(direction="minimize")
        for point in study.points:
            cost = log_to_minimise(point, study.objectives)[place]
            trial = create_trial(params=dict(point.params), distributions=dict(point.distributions), value=cost)
            single.add_trial(trial)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                shares = optuna.importance.get_param_importances(single)
        except (ValueError, RuntimeError) as error:  # such as no parameter that all trials share
            logger.warning("the importance of parameters for %s is not known: %s", name, error)
            continue
        found[name] = {parameter: round(share, 4) for parameter, share in shares.items()}
    return found
