"""Signs of life of running trials, so that those of a dead worker are found.

Optuna sends them inside `study.optimize` alone; a search asks and tells, so it sends its own, through the same tables.
"""

import threading
import time
import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from autoreap.progress import log
from autoreap.study.storage import Pulse
from autoreap.study.trials import PLAN


class Heartbeat:
    """Signs of life of this worker's running trials, from a thread. Use as a context manager.

    Without a `pulse` it sends none: who searches alone has nobody to tell.
    """

    def __init__(self, storage: RDBStorage, study: str, pulse: Pulse | None) -> None:
        self._storage = storage
        self._study = study
        self._pulse = pulse
        self._trials: dict[int, int] = {}  # trial number -> the storage's id
        self._stopped = threading.Event()
        self._unbroken_since = float("inf")
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True) if pulse else None

    def __enter__(self) -> "Heartbeat":
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()

    def start(self, number: int) -> None:
        """Trial `number` runs here from now on."""
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study_id(), number)
        if self._pulse:
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
        """Whether this worker would have seen a sign of life of everybody who lives.

        After the database was away, all look dead until they have had the time to give one.
        """
        return self._pulse is not None and time.monotonic() - self._unbroken_since > self._pulse.grace_seconds

    def _study_id(self) -> int:
        return self._storage.get_study_id_from_name(self._study)

    def _run(self) -> None:
        assert self._pulse is not None
        last = time.monotonic()
        while not self._stopped.is_set():
            try:
                self._study_id()  # a worker without a trial notices an outage too
                for trial in list(self._trials.values()):
                    self._storage.record_heartbeat(trial)
                now = time.monotonic()
                unbroken = now - last < self._pulse.grace_seconds  # while the database is away, a beat takes long
                self._unbroken_since = min(self._unbroken_since, now) if unbroken else now
                last = now
            except Exception as error:  # whatever the database's driver raises; the next beat may get through
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
