"""Trials that were cut off: a kill, a signal or a dead machine ended them, no fault of their candidate that is known.

They failed without a reason. Which of them have been tried again is read from the study, so a kill at any moment
neither loses nor doubles one.
"""

from collections.abc import Collection, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoreap.progress import log
from autoreap.study.trials import is_cut_off

RETRY_OF = "retry_of"  # user attribute: the trial that was cut off, whose values this one tries again
DEATHS = "deaths"  # user attribute: of processes at these values, before this trial
MAX_DEATHS = 3  # of processes at one candidate, which must not be tried for ever


def num_taken(trials: Sequence[FrozenTrial]) -> int:
    """How many trials are spent: finished or running, without those that were cut off."""
    return sum(trial.state != TrialState.WAITING and not is_cut_off(trial) for trial in trials)


def retry_cut_off(study: optuna.Study, spared: Collection[int] = ()) -> None:
    """Have the values of each trial that was cut off tried again first, once. One process at a time may do so.

    Args:
        spared: trials whose process ended by itself, which is no fault of theirs.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if not is_cut_off(trial) or trial.number in retried or not values:  # without values it had not begun
            continue
        deaths = trial.user_attrs.get(DEATHS, 0) + (trial.number not in spared)
        if deaths >= MAX_DEATHS:
            continue
        kept = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
        study.enqueue_trial(values, user_attrs={**kept, RETRY_OF: trial.number, DEATHS: deaths})
        last = "; the last time" if deaths == MAX_DEATHS - 1 else ""
        log(f"trial {trial.number} was cut off; its values will be tried again{last}")
