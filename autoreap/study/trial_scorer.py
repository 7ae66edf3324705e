"""The life of one trial: sample a plan, find out what is known of it, screen it, score it, and tell the study."""

import time
from collections.abc import Callable, Mapping

from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import GPSampler
from optuna.trial import Trial, TrialState

from autoreap.config.space import SpaceConfig
from autoreap.constraints import Constraint, values_of
from autoreap.evaluate import Watch
from autoreap.objective import Objective
from autoreap.plan import PruningPlan
from autoreap.study.history import History
from autoreap.study.racing import Raced
from autoreap.study.sampling import sample
from autoreap.study.storage import STORAGE_ERRORS
from autoreap.study.trial_queue import TrialQueue
from autoreap.study.trials import ERROR, INFEASIBLE, PLAN, RACED, SCREENED


class TrialScorer:
    """Scores the trials of one study.

    Args:
        space: what is sampled, and how little of a trial may do.
        objective: scores candidates.
        history: of the study; it tells it of each end.
        queue: knows which plans other workers score now.
        watch: is told each answer; what it raises ends the trial.
        unpruned: the unpruned model's metrics, which constraints may refer to.
    """

    def __init__(
        self,
        space: SpaceConfig,
        objective: Objective,
        history: History,
        queue: TrialQueue,
        watch: Watch,
        unpruned: Mapping[str, float],
    ) -> None:
        self._space = space
        self._objective = objective
        self._history = history
        self._study = history.study
        self._queue = queue
        self._watch = watch
        self._unpruned = unpruned

    def attempt(self, trial: Trial, claimed: Callable[[], None]) -> None:
        """Score one trial and tell the study; a failure is recorded with its reason.

        `claimed` is called as soon as no other worker can take the same plan.

        Raises:
            UpdateFinishedTrialError: another worker has taken this one for dead, and told of the trial.
            one of `STORAGE_ERRORS`: the study can't be read or written.
        """
        try:
            plan = self._objective.plan(sample(trial, self._space, self._objective.shape))
            digest = plan.digest()
            trial.set_user_attr(PLAN, plan.as_dict())
            exact = self._objective.exact(plan)
            if self._queue.defers(trial, digest) or self._is_settled(trial, digest, exact):
                return
            claimed()
            if self._is_screened_out(trial, plan, digest, exact):
                return
            rivals = self._history.rivals() if self._space.racing and self._may_stop(trial) else ()
            scored = self._objective.score(plan, self._watch, rivals)
            self._judge(trial, values_of(scored.size_bytes, scored.metrics), exact=False)
        except (*STORAGE_ERRORS, UpdateFinishedTrialError):  # no fault of the candidate
            raise
        except Raced as stopped:
            self._history.stop(trial, RACED, stopped.verdict.as_dict() | {"plan_digest": digest})
        except Exception as error:  # one bad candidate must not end a night; the reason is kept and shown
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._history.keep(trial, scored, digest)

    def _is_settled(self, trial: Trial, digest: str, exact: Mapping[str, float]) -> bool:
        """Whether the study could be told what becomes of `trial` without running the model."""
        if broken := self._judge(trial, exact, exact=True):
            trial.set_user_attr(INFEASIBLE, broken)
            self._study.tell(trial, state=TrialState.PRUNED)
        elif twin := self._history.scored(digest):
            self._judge(trial, values_of(twin.size_bytes, twin.metrics), exact=False)
            self._history.repeat(trial, twin)
        elif self._may_stop(trial) and (stopped := self._history.stopped(digest)):
            self._history.stop(trial, *stopped)
        else:
            return False
        return True

    def _is_screened_out(self, trial: Trial, plan: PruningPlan, digest: str, exact: Mapping[str, float]) -> bool:
        """Screen the candidate; whether that was the end of it."""
        if not self._space.screening or self._draws_again or not self._objective.is_screened:
            return False
        started = time.monotonic()
        surprise = self._objective.screen(plan)
        screen = {"surprise": surprise, "seconds": time.monotonic() - started}
        verdict = self._history.triage(exact, surprise) if self._may_stop(trial) else None
        if verdict is None:
            trial.set_user_attr(SCREENED, screen)
            return False
        self._history.stop(trial, SCREENED, {**screen, "reason": verdict.reason, "plan_digest": digest})
        return True

    def _may_stop(self, trial: Trial) -> bool:
        """Others are compared with presets, so these are scored whatever they come to."""
        return not self._draws_again and "preset" not in trial.user_attrs

    @property
    def _draws_again(self) -> bool:
        """Optuna's GP ignores pruned trials, so it would draw the same values again."""
        return isinstance(self._study.sampler, GPSampler)

    def _judge(self, trial: Trial, values: Mapping[str, float], *, exact: bool) -> str:
        """Tell the study how far `trial` is beyond the constraints known before (`exact`) or after scoring.

        Returns those that it breaks, in words. A sampler learns from violations, of a pruned trial too.
        """
        broken: list[Constraint] = []
        for constraint in self._space.constraints:
            if constraint.is_exact == exact:
                violation = constraint.violation(values, self._unpruned)
                trial.set_constraint(constraint.text, violation)
                broken += [constraint] if violation > 0 else []
        return "; ".join(constraint.with_value(values) for constraint in broken)
