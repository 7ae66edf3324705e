"""The trials of a study as one of its workers takes them: which is next, and when there is nothing left to do.

A trial is taken in turn, and which plan it scores is said within that turn. So there is never a trial too many, and no
plan is scored by two workers at the same time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import optuna
from optuna.storages import RDBStorage
from optuna.trial import Trial, TrialState

from autoreap.plan import plan_from_dict
from autoreap.progress import log
from autoreap.study.group import Seat
from autoreap.study.heartbeat import Heartbeat, fail_dead_trials
from autoreap.study.retries import num_taken, retry_cut_off
from autoreap.study.trials import PLAN

_DEFERRED = "autoreap.deferred"  # user attribute of a running trial: another worker scores the same plan

Wait = Callable[[float], None]  # sleeps so many seconds, unless a signal comes


class TrialQueue:
    """What this worker takes; where its seat has a pulse, others take from the same study.

    Use it within `joined`; `take` and `defers` are called within one turn of the group.
    """

    def __init__(self, study: optuna.Study, storage: RDBStorage, seat: Seat) -> None:
        self._study = study
        self._group = seat.group
        self._pulse = seat.pulse
        self._heartbeat = Heartbeat(storage, seat.study, seat.pulse)
        self._deferred: dict[int, tuple[Trial, str]] = {}  # by number: a trial, and the digest of its plan
        self._claimed: set[str] = set()  # digests of the plans that others score now
        self._stands_by = False

    @property
    def has_company(self) -> bool:
        """Whether others may search the study at the same time."""
        return self._pulse is not None

    @property
    def begun(self) -> frozenset[int]:
        """The trials that this worker has taken and not finished."""
        return self._heartbeat.running

    @contextmanager
    def joined(self, when_alone: Callable[[], None]) -> Iterator[None]:
        """Be one of the workers, and give signs of life; see `Group.joined`."""
        with self._group.joined(when_alone), self._heartbeat:
            yield

    def take(self, trials: int, seed: Callable[[int], None]) -> Trial | None:
        """In turn: a trial whose plan another worker did not score after all, or else a new one, up to `trials` in all.

        Args:
            seed: seeds the sampler by the number of trials so far: workers that start together must not draw the same.
        """
        if self.has_company:
            fail_dead_trials(self._study, self._heartbeat)
            retry_cut_off(self._study)
        known = self._study.get_trials(deepcopy=False)
        self._claimed = {
            plan_from_dict(trial.user_attrs[PLAN], where=f"trial {trial.number}").digest()
            for trial in known
            if trial.state == TrialState.RUNNING
            and trial.number not in self._heartbeat.running
            and PLAN in trial.user_attrs
            and not trial.user_attrs.get(_DEFERRED)
        }
        for trial, digest in self._deferred.values():
            if digest not in self._claimed:
                return trial
        if num_taken(known) >= trials:
            return None
        if self.has_company:
            seed(len(known))
        trial = self._study.ask()
        self._heartbeat.start(trial.number)
        return trial

    def defers(self, trial: Trial, digest: str) -> bool:
        """In turn: whether another worker scores the plan of `trial` now. It then waits for what comes out."""
        elsewhere = digest in self._claimed
        if elsewhere or trial.number in self._deferred:
            trial.set_user_attr(_DEFERRED, elsewhere)
        if elsewhere:
            self._deferred[trial.number] = (trial, digest)
        return elsewhere

    def done(self, number: int) -> None:
        """Trial `number` is finished, or somebody else's."""
        self._heartbeat.stop(number)
        self._deferred.pop(number, None)

    def ends(self, standing: ExitStack, wait: Wait) -> bool:
        """Whether a worker without a trial to take has nothing to wait for; if it has, some time passes.

        One of those stands by: a worker that still has a trial may die. `standing` holds its place.
        """
        if self._pulse is None or not self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            return True
        if not self._deferred and not self._stands_by:
            self._stands_by = standing.enter_context(self._group.standing_by())
            if not self._stands_by:
                return True
            log("no trial is left to take; standing by until the other workers have finished theirs")
        wait(self._pulse.interval_seconds)
        return False
