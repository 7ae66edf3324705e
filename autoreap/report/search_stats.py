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
    began, ended = [], []
    seconds: float = 0
    failed: dict[str, list[int]] = {}
    for trial in study.trials:
        if trial.started:
            began.append(trial.started)
        if trial.ended:
            ended.append(trial.ended)
        seconds += trial.wall_seconds or 0
        if trial.status is TrialStatus.FAILED:
            failed.setdefault(str(trial.reason), []).append(trial.number)
    commonest_first = sorted(failed.items(), key=lambda entry: -len(entry[1]))
    times = {}
    if began and ended:  # a study may have only queued trials
        times = {"began": f"{min(began):%Y-%m-%d %H:%M}", "ended": f"{max(ended):%Y-%m-%d %H:%M}"}
    return {
        **times,
        "seconds": round(seconds, 1),
        "untried": study.num_untried,
        "failures": [{"reason": reason, "trials": numbers} for reason, numbers in commonest_first],
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


def _pruned(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """What pruned trials had taken, and how many of their answers were never needed.

    A trial that repeats a pruned plan was not run at all, so it does not count.
    """
    num, num_scored, num_answers = 0, 0, 0
    seconds: float = 0
    for trial in trials:
        if trial.status is TrialStatus.PRUNED and trial.duplicate_of is None:
            num += 1
            seconds += trial.seconds
            num_scored += trial.num_scored
            num_answers += trial.num_utterances
    return {"num": num, "seconds": round(seconds, 1), "scored": num_scored, "answers": num_answers}


def _constraints(study: StudyRecord) -> list[dict[str, Any]]:
    """How many trials violated each constraint: before they were scored, and after."""
    rows = []
    for text in study.constraints:
        num_unscored, num_scored = 0, 0
        for trial in study.trials:
            if text not in trial.violations:
                continue
            if trial.status is TrialStatus.INFEASIBLE:
                num_unscored += 1
            else:
                num_scored += 1
        rows.append({"text": text, "unscored": num_unscored, "scored": num_scored})
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
        if (front <= cost).all(axis=1).any():  # dominated: it adds nothing
            continue
        # What the point dominates leaves the front, and adds nothing from now on.
        front = np.vstack([front[(front < cost).any(axis=1)], cost])
        share = 1.0
        if total:
            share = compute_hypervolume(front, corner) / total
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
