"""A study from its first trial to its last: score trials until the budget is spent.

Optuna's storage is the truth. A trial is told to it once everything about it is known; MLflow follows, and what it
missed is logged when the search resumes.
"""

import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from autoreap.config.space import SpaceConfig
from autoreap.objective import Objective, objective_values
from autoreap.outcomes import Outcome
from autoreap.progress import log
from autoreap.study.baselines import Baselines
from autoreap.study.failures import FailuresInARow, RepeatedFailureError
from autoreap.study.front import best_so_far
from autoreap.study.group import Seat
from autoreap.study.history import History
from autoreap.study.identity import Identity, study_of
from autoreap.study.mlflow_records import trial_record
from autoreap.study.retries import retry_cut_off
from autoreap.study.samplers import sampler
from autoreap.study.sampling import enqueue_presets
from autoreap.study.storage import open_storage
from autoreap.study.trial_queue import TrialQueue
from autoreap.study.trial_scorer import TrialScorer
from autoreap.study.trial_text import scoring_seconds, trial_text
from autoreap.study.trials import ERROR, RESULT, is_cut_off
from autoreap.terminal.night_log import NightLog
from autoreap.terminal.signals import Signals
from autoreap.tracking import Tracker


class Search:
    """One study of one space on one model.

    Args:
        objective: scores candidates.
        seat: the storage and the study, and who else searches it.
        identity: what a resumed study must share; a mismatch is refused.
        folder: where each trial's plan and outcomes go, as `<number>/plan.json` and `<number>/outcomes.jsonl`.
    """

    def __init__(self, space: SpaceConfig, objective: Objective, seat: Seat, identity: Identity, folder: Path) -> None:
        self._space = space
        self._objective = objective
        self._folder = folder
        with seat.group.turn():
            storage = open_storage(seat.storage, seat.pulse)
            self.study = study_of(space, storage, seat.study, identity)
        self._group = seat.group
        self._queue = TrialQueue(self.study, storage, seat)
        self._history = History(self.study, folder, space.objectives)

    def run(self, tracker: Tracker, signals: Signals, *, trials: int, deadline: float) -> None:
        """Score trials until the study has `trials` finished ones or `deadline` (`time.monotonic`) has passed.

        Raises:
            RepeatedFailureError: trials fail one after the other.
            Interrupted: a signal came; the trial it cut off is tried first next time.
            one of `STORAGE_ERRORS`: the storage can't be read or written.
        """
        self._signals = signals
        self._night = NightLog(trials, deadline, self._objective.num_answers)
        with self._queue.joined(self._recover):
            try:
                unpruned = self._scored_baselines()
                with self._group.turn():
                    enqueue_presets(self.study, self._space, self._objective.shape)
                    self._begin_session()
                tracker.log_baseline(self.study.user_attrs["baseline"]["metrics"])
                if not self._queue.has_company:  # in company each logs its own trials, and the last one what is missing
                    self._catch_up(tracker)
                scorer = TrialScorer(self._space, self._objective, self._history, self._queue, self._answered, unpruned)
                self._score_trials(scorer, tracker, trials, deadline)
            except (KeyboardInterrupt, RepeatedFailureError):
                self._leave(tracker)
                raise
            finally:
                self._night.close()
            self._leave(tracker)

    def _scored_baselines(self) -> dict[str, float]:
        """Have the unpruned model and the controls scored, by one worker for all; the unpruned model's metrics."""
        baselines = Baselines(self.study, self._space, self._objective, self._folder, self._night, self._answered)
        with self._group.only("baseline", self._signals.wait):
            baselines.score_unpruned()
        baselines.draft_from_unpruned()
        unpruned = baselines.unpruned_values()
        with self._group.only("controls", self._signals.wait):
            baselines.score_controls()
        return unpruned

    def _begin_session(self) -> None:
        """Record what this run of the search draws by; with the same record, the same values are drawn."""
        number = len(self.study.get_trials(deepcopy=False))
        self._seed(number)
        known = self.study.user_attrs
        session = {"first_trial": number, "seed": self._space.seed, "sampler": self._space.sampler}
        self.study.set_user_attr("sessions", [*known.get("sessions", []), session | {"code": known.get("code")}])

    def _seed(self, number: int) -> None:
        """The sampler draws anew after `number` trials."""
        self.study.sampler = sampler(self._space, number)

    def _score_trials(self, scorer: TrialScorer, tracker: Tracker, trials: int, deadline: float) -> None:
        failures = FailuresInARow()
        with ExitStack() as standing:
            while time.monotonic() < deadline:
                self._signals.check()
                number = self._score_next(scorer, trials)
                if number is not None:
                    done = self._trial(number)
                    if done.state.is_finished():
                        self._told(tracker, done)
                        failures.note(done.user_attrs.get(ERROR))
                elif self._queue.ends(standing, self._signals.wait):
                    return

    def _score_next(self, scorer: TrialScorer, trials: int) -> int | None:
        """Take the next trial and score it; its number, None if there is none to take."""
        with ExitStack() as turn:
            turn.enter_context(self._group.turn())
            trial = self._queue.take(trials, self._seed)
            if trial is None:
                return None
            if self._queue.has_company:
                self._history.look()
            self._night.begin(f"trial {trial.number}")
            try:
                scorer.attempt(trial, turn.close)
            except UpdateFinishedTrialError:
                log(f"trial {trial.number} was taken for dead and is tried again elsewhere")
                self._queue.done(trial.number)
        return trial.number

    def _answered(self, _metric: str, _outcome: Outcome) -> None:
        """Each answer is told of as it comes, and is where a signal can end a long trial."""
        self._signals.check()
        self._night.answer()

    def _told(self, tracker: Tracker, trial: FrozenTrial) -> None:
        """Tell of a finished trial: MLflow, and who reads the log."""
        self._queue.done(trial.number)
        self._track(tracker, trial)
        # Without those that were cut off: their values are tried again.
        counted = [each for each in self._finished() if not is_cut_off(each)]
        seconds = [spent for each in counted if (spent := scoring_seconds(each))]
        found = best_so_far(self._history.points, self._space.objectives)
        self._night.end(trial_text(trial, self._space.objectives), len(counted), found, seconds)

    def _catch_up(self, tracker: Tracker) -> None:
        for trial in self._finished():
            self._track(tracker, trial)

    def _track(self, tracker: Tracker, trial: FrozenTrial) -> None:
        tracker.log_trial(trial_record(trial, list(self._space.objectives), self._folder))

    def _leave(self, tracker: Tracker) -> None:
        """What this worker had begun is tried again, by itself or others."""
        begun = self._queue.begun
        if begun:
            with self._group.turn():
                self._recover(begun)
            for number in begun:
                self._track(tracker, self._trial(number))

    def _recover(self, own: Collection[int] | None = None) -> None:
        """Trials that were cut off: what was scored is kept, the values of others are tried again first.

        Safe because nobody else runs them: there is no other, or they are `own`, and then the process ends by itself
        and no death of it.
        """
        for trial in self._trials(TrialState.RUNNING):
            if own is not None and trial.number not in own:
                continue
            if result := trial.user_attrs.get(RESULT):  # it ended between its result and its state
                scored = objective_values(self._space.objectives, result["size_bytes"], result["metrics"])
                self.study.tell(trial.number, scored)
            else:
                self.study.tell(trial.number, state=TrialState.FAIL)
        retry_cut_off(self.study, spared=own or ())
        self._history.look()

    def _finished(self) -> list[FrozenTrial]:
        return self._trials(TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]
