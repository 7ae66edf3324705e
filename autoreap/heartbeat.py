"""Signs of life of running trials, so that those of a dead worker are found and tried again.

Optuna sends them inside `study.optimize` alone; a search asks and tells, so it sends its own, through the same tables.
"""

import threading
import time
import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autoreap.front import ERROR, PLAN
from autoreap.progress import log
from autoreap.storage import Pulse

RETRY_OF = "retry_of"  # user attribute: the trial that was cut off, whose values this one tries again
MAX_ATTEMPTS = 3  # a candidate that brings its worker down would bring down each worker in turn


class Heartbeat:
    """Signs of life of this worker's running trials, from a thread. Use as a context manager."""

    def __init__(self, storage: RDBStorage, study: str, pulse: Pulse) -> None:
        self._storage = storage
        self._study = study
        self._pulse = pulse
        self._trials: dict[int, int] = {}  # trial number -> the storage's id
        self._stopped = threading.Event()
        self._unbroken_since = float("inf")
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        self._thread.join()

    def start(self, number: int) -> None:
        """Trial `number` runs here from now on."""
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study_id(), number)
        self._storage.record_heartbeat(trial)
        self._trials[number] = trial

    def stop(self, number: int) -> None:
        """Trial `number` has finished."""
        self._trials.pop(number, None)

    @property
    def running(self) -> frozenset[int]:
        """The trials that run here."""
        return frozenset(self._trials)

    @property
    def may_judge(self) -> bool:
        """Whether this worker could have seen a sign of life of everybody who lives.

        After the database was away, all look dead until they have had the time to give one.
        """
        return time.monotonic() - self._unbroken_since > self._pulse.grace_seconds

    def _study_id(self) -> int:
        return self._storage.get_study_id_from_name(self._study)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._study_id()  # a worker without a trial notices an outage too
                for trial in list(self._trials.values()):
                    self._storage.record_heartbeat(trial)
                self._unbroken_since = min(self._unbroken_since, time.monotonic())
            except Exception as error:  # whatever the database's driver raises; the next beat may get through
                if self._unbroken_since < float("inf"):
                    log(f"warning: no sign of life could be given: {type(error).__name__}")
                self._unbroken_since = float("inf")
            self._stopped.wait(self._pulse.interval_seconds)


def fail_dead_trials(study: optuna.Study, heartbeat: Heartbeat) -> None:
    """Fail the running trials of workers that died. Call it in one's turn only.

    A trial gets its first sign of life and its plan within the turn in which it is asked for: one without a plan,
    seen in another turn, was left behind.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if PLAN not in trial.user_attrs and trial.number not in heartbeat.running:
            study.tell(trial.number, state=TrialState.FAIL)
    if heartbeat.may_judge:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)


def retry_cut_off(study: optuna.Study) -> None:
    """Have the values of each trial that was cut off tried again, once. Call it in one's turn only.

    Cut off is what failed without a reason. Which of them wait for another attempt is read from the study, so a kill at
    any moment neither loses nor doubles one.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        if trial.state != TrialState.FAIL or ERROR in trial.user_attrs or trial.number in retried:
            continue
        if _attempts(trial, trials) >= MAX_ATTEMPTS:
            continue
        attributes = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
        values = trial.params or trial.system_attrs.get("fixed_params", {})
        study.enqueue_trial(values, user_attrs={RETRY_OF: trial.number, **attributes})
        log(f"trial {trial.number} was cut off; its values will be tried again")


def _attempts(trial: FrozenTrial, trials: list[FrozenTrial]) -> int:
    """How often these values were tried, this trial included."""
    attempts = 1
    while (before := trial.user_attrs.get(RETRY_OF)) is not None:
        attempts, trial = attempts + 1, trials[before]
    return attempts


def num_taken(trials: list[FrozenTrial]) -> int:
    """How many of a study's trials are spent: finished or running; one that is tried again counts once."""
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return sum(trial.state != TrialState.WAITING and trial.number not in retried for trial in trials)
