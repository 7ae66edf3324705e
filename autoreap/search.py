"""A study: start or resume it, and score trials until the budget is spent.

Optuna's storage is the truth. A trial is told to it once everything about it is known; MLflow follows, and what it
missed is logged when the search resumes.
"""

import time
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import GPSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from autoreap import latency
from autoreap.candidate import control
from autoreap.constraints import Constraint, values_of
from autoreap.crew import Crew
from autoreap.errors import InputError
from autoreap.failures import FailuresInARow, RepeatedFailureError
from autoreap.front import CONTROLS, ERROR, INFEASIBLE, PLAN, RACED, RESULT, SCREENED, Point, best_so_far, broken_of
from autoreap.group import Seat
from autoreap.known import Known
from autoreap.night_log import NightLog
from autoreap.objective import Objective, Scored, objective_values
from autoreap.outcomes import Evaluation, Outcome, load_outcomes
from autoreap.plan import ModelShape, PruningPlan
from autoreap.progress import log
from autoreap.racing import Raced
from autoreap.recorded import trial_record
from autoreap.retries import is_cut_off, retry_cut_off
from autoreap.samplers import sampler
from autoreap.sampling import check_known_parameters, enqueue_presets, sample
from autoreap.signals import Signals
from autoreap.space_config import SpaceConfig
from autoreap.storage import STORAGE_ERRORS, open_storage
from autoreap.tracking import Tracker
from autoreap.trial_text import scores_text, trial_text
from autoreap.wording import duration

_SIGNAL_SECONDS = 0.2
_MENDED = {
    "code": "go on with --allow-other-code if both score alike, or go back to that version",
    "saliency": "undo the change, start another study with --study, or take mlruns/saliency from the first worker",
}


class Search:
    """One study of one space on one model.

    Args:
        objective: scores candidates.
        shape: of the model; presets scale with its depth.
        seat: the storage and the study, and who else searches it.
        identity: what a resumed study must share (model fingerprint, data digests, code); a mismatch is refused, but of
            what `may_change`.
        folder: where each trial's plan and outcomes go, as `<number>/plan.json` and `<number>/outcomes.jsonl`.
    """

    def __init__(
        self,
        space: SpaceConfig,
        objective: Objective,
        shape: ModelShape,
        seat: Seat,
        identity: Mapping[str, Any],
        folder: Path,
        may_change: Collection[str] = (),
    ) -> None:
        self._space = space
        self._objective = objective
        self._shape = shape
        self._folder = folder
        with seat.group.turn():
            storage = open_storage(seat.storage, seat.pulse)
            self.study = _create_study(space, storage, seat.study)
            _check_identity(self.study, space, identity, may_change)
            _name_axes(self.study, space)
        self._crew = Crew(self.study, storage, seat)
        self._known = Known(self.study, folder, space.objectives)
        self._unpruned: dict[str, float] = {}  # the baseline's metrics, once it is scored

    def run(self, tracker: Tracker, signals: Signals, *, trials: int, deadline: float) -> None:
        """Score trials until the study has `trials` finished ones or `deadline` (`time.monotonic`) has passed.

        Raises:
            RepeatedFailureError: trials fail one after the other.
            Interrupted: a signal came; the trial it cut off is tried first next time.
            one of `STORAGE_ERRORS`: the storage can't be read or written.
        """
        self._signals = signals
        self._night = NightLog(trials, deadline, self._objective.num_answers)
        with self._crew.joined(self._recover):
            try:
                with self._crew.only("baseline", self._wait):
                    self._score_baseline()
                self._draft_from_baseline()
                self._unpruned = self._baseline_values()
                with self._crew.only("controls", self._wait):
                    self._score_controls()
                with self._crew.turn():
                    enqueue_presets(self.study, self._space, self._shape)
                    self._begin_session()
                tracker.log_baseline(self.study.user_attrs["baseline"]["metrics"])
                if not self._crew.has_company:  # in company each logs its own trials, and the last one what is missing
                    self._catch_up(tracker)
                self._score_trials(tracker, trials, deadline)
            except (KeyboardInterrupt, RepeatedFailureError):
                self._leave(tracker)
                raise
            finally:
                self._night.close()
            self._leave(tracker)

    def _score_trials(self, tracker: Tracker, trials: int, deadline: float) -> None:
        failures = FailuresInARow()
        with ExitStack() as standing:
            while time.monotonic() < deadline:
                self._signals.check()
                number = self._score_next(trials)
                if number is not None:
                    done = self._trial(number)
                    if done.state.is_finished():
                        self._told(tracker, done)
                        failures.note(done.user_attrs.get(ERROR))
                elif self._crew.ends(standing, self._wait):
                    return

    def _score_next(self, trials: int) -> int | None:
        """Take the next trial and score it; its number, None if there is none to take."""
        with ExitStack() as turn:
            turn.enter_context(self._crew.turn())
            trial = self._crew.take(trials, self._seed)
            if trial is None:
                return None
            if self._crew.has_company:
                self._known.look(self.study)
            self._night.begin(f"trial {trial.number}")
            try:
                self._attempt(trial, turn.close)
            except UpdateFinishedTrialError:
                log(f"trial {trial.number} was taken for dead and is tried again elsewhere")
                self._crew.done(trial.number)
        return trial.number

    def _told(self, tracker: Tracker, trial: FrozenTrial) -> None:
        """Tell of a finished trial: MLflow, and who reads the log."""
        self._crew.done(trial.number)
        self._track(tracker, trial)
        counted = self._counted()
        seconds = [self._seconds(trial) for trial in counted if self._seconds(trial)]
        found = best_so_far(self._known.points, self._space.objectives)
        self._night.end(trial_text(trial, self._space.objectives), len(counted), found, seconds)

    def _wait(self, seconds: float) -> None:
        """Sleep; a signal ends it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._signals.check()
            time.sleep(min(left, _SIGNAL_SECONDS))

    def _leave(self, tracker: Tracker) -> None:
        """What this worker had begun is tried again, by itself or others."""
        begun = self._crew.begun
        if begun:
            with self._crew.turn():
                self._recover(begun)
            for number in begun:
                self._track(tracker, self._trial(number))

    def _seed(self, number: int) -> None:
        """The sampler draws anew after `number` trials."""
        self.study.sampler = sampler(self._space, number)

    def _begin_session(self) -> None:
        """Record what this run of the search draws by; with the same record, the same values are drawn."""
        number = len(self.study.get_trials(deepcopy=False))
        self._seed(number)
        known = self.study.user_attrs
        session = {"first_trial": number, "seed": self._space.seed, "sampler": self._space.sampler}
        self.study.set_user_attr("sessions", [*known.get("sessions", []), session | {"code": known.get("code")}])

    def _answered(self, _metric: str, _outcome: Outcome) -> None:
        """Each answer is told of as it comes, and is where a signal can end a long trial."""
        self._signals.check()
        self._night.answer()

    def _attempt(self, trial: Trial, claimed: Callable[[], None]) -> None:
        """Score one trial and tell the study; a failure is recorded with its reason.

        `claimed` is called as soon as no other worker can take the same plan.
        """
        try:
            plan = self._objective.plan(sample(trial, self._space, self._shape))
            digest = plan.digest()
            trial.set_user_attr(PLAN, plan.as_dict())
            exact = self._objective.exact(plan)
            if self._crew.defers(trial, digest) or self._is_settled(trial, digest, exact):
                return
            claimed()
            if self._is_screened_out(trial, plan, digest, exact):
                return
            rivals = self._known.rivals() if self._space.racing and self._may_stop(trial) else ()
            scored = self._objective.score(plan, self._answered, rivals)
            self._judge(trial, values_of(scored.size_bytes, scored.metrics), exact=False)
        except (*STORAGE_ERRORS, UpdateFinishedTrialError):  # no fault of the candidate
            raise
        except Raced as stopped:
            self._stop(trial, RACED, stopped.verdict.as_dict() | {"plan_digest": digest})
        except Exception as error:  # one bad candidate must not end a night; the reason is kept and shown
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self._keep(trial, scored, digest)

    def _is_settled(self, trial: Trial, digest: str, exact: Mapping[str, float]) -> bool:
        """Whether the study could be told what becomes of `trial` without running the model."""
        if broken := self._judge(trial, exact, exact=True):
            trial.set_user_attr(INFEASIBLE, broken)
            self.study.tell(trial, state=TrialState.PRUNED)
        elif twin := self._known.scored(digest):
            self._repeat(trial, twin)
        elif self._may_stop(trial) and (stopped := self._known.stopped(digest)):
            self._stop(trial, *stopped)
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
        verdict = self._known.triage(exact, surprise) if self._may_stop(trial) else None
        if verdict is None:
            trial.set_user_attr(SCREENED, screen)
            return False
        self._stop(trial, SCREENED, {**screen, "reason": verdict.reason, "plan_digest": digest})
        return True

    def _keep(self, trial: Trial, scored: Scored, digest: str) -> None:
        folder = self._folder / str(trial.number)
        scored.plan.save(folder / "plan.json")
        scored.evaluation.save_outcomes(folder / "outcomes.jsonl")
        result = {
            "metrics": scored.metrics,
            "size_bytes": scored.size_bytes,
            "plan_digest": digest,
            "seconds": scored.evaluation.seconds,
        }
        trial.set_user_attr(RESULT, result)
        self.study.tell(trial, scored.values)
        values = dict(zip(self._space.objectives, scored.values, strict=True))
        broken = broken_of(trial.constraints)
        point = Point(trial.number, trial.params, values, scored.metrics, scored.size_bytes, digest, broken=broken)
        self._known.note(point, trial.user_attrs.get(SCREENED, {}).get("surprise", {}))

    def _repeat(self, trial: Trial, twin: Point) -> None:
        """The same plan was scored before: tell the study what is known, at no cost."""
        result = {"metrics": twin.metrics, "size_bytes": twin.size_bytes, "plan_digest": twin.plan_digest}
        self._judge(trial, values_of(twin.size_bytes, twin.metrics), exact=False)
        trial.set_user_attr(RESULT, result | {"seconds": 0.0, "duplicate_of": twin.trial})
        self.study.tell(trial, list(twin.values.values()))

    def _stop(self, trial: Trial, attribute: str, verdict: dict[str, Any]) -> None:
        """Without values: what was counted so far is a bound, or a guess, which must not rank among scores."""
        trial.set_user_attr(attribute, verdict)
        self.study.tell(trial, state=TrialState.PRUNED)
        self._known.note_stopped(trial.number, attribute, verdict)

    def _may_stop(self, trial: Trial) -> bool:
        """Others are compared with presets, so these are scored whatever they come to."""
        return not self._draws_again and "preset" not in trial.user_attrs

    @property
    def _draws_again(self) -> bool:
        """Optuna's GP ignores pruned trials, so it would draw the same values again."""
        return isinstance(self.study.sampler, GPSampler)

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

    def _finished(self) -> list[FrozenTrial]:
        return self._trials(TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _counted(self) -> list[FrozenTrial]:
        """Finished trials, without those that were cut off: their values are tried again."""
        return [trial for trial in self._finished() if not is_cut_off(trial)]

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
        self._known.look(self.study)

    def _draft_from_baseline(self) -> None:
        """Answers of the unpruned model that another run or worker has left here draft those of the candidates.

        A worker of another machine may find none, and a file may be damaged: then it answers again, and must come
        to the same scores.
        """
        outcomes = self._folder / "baseline" / "outcomes.jsonl"
        try:
            known = load_outcomes(outcomes) if outcomes.is_file() else {}
        except InputError as error:
            log(f"warning: {error}; the unpruned model answers again")
            known = {}
        if known:
            self._objective.draft_from(known)
        else:
            evaluation = self._objective.score_baseline(self._answered)
            check_same_scores(evaluation.metrics(), self.study.user_attrs["baseline"]["metrics"], "baseline")
            evaluation.save_outcomes(outcomes)

    def _score_baseline(self) -> None:
        if "baseline" in self.study.user_attrs:
            return
        outcomes = self._folder / "baseline" / "outcomes.jsonl"
        self._night.begin("baseline")
        evaluation: Evaluation = self._objective.score_baseline(self._answered)
        metrics, size_bytes = evaluation.metrics(), self._objective.baseline_size_bytes
        objective_values(self._space.objectives, size_bytes, metrics)  # a baseline without a number can't be a baseline
        evaluation.save_outcomes(outcomes)
        self.study.set_user_attr("baseline", {"metrics": metrics, "size_bytes": size_bytes})
        summary = scores_text(metrics, size_bytes, self._space.objectives)
        log(f"baseline: {summary}; {duration(evaluation.seconds)}")

    def _baseline_values(self) -> dict[str, float]:
        """The baseline's metrics; one that a constraint needs is missed before any candidate is scored."""
        baseline = self.study.user_attrs["baseline"]
        values = values_of(baseline["size_bytes"], baseline["metrics"])
        for constraint in self._space.constraints:
            constraint.violation(values, values)
        return values

    def _score_controls(self) -> None:
        """Like the baseline, controls are no trials: they lie outside the space, and no sampler may learn from them."""
        num_layers = self._shape.components["thinker"].num_layers
        for name in self._space.controls:
            known = self.study.user_attrs.get(CONTROLS, {})
            if name in known:
                continue
            self._night.begin(f"control {name}")
            try:
                scored = self._objective.score(self._objective.plan(control(name, num_layers)), self._answered)
            except STORAGE_ERRORS:
                raise
            except Exception as error:  # nothing depends on it; the reason is shown, and a resumed search tries again
                log(f"warning: control {name} is not scored: {type(error).__name__}: {error}")
                continue
            scored.plan.save(self._folder / name / "plan.json")
            scored.evaluation.save_outcomes(self._folder / name / "outcomes.jsonl")
            result = {"metrics": scored.metrics, "size_bytes": scored.size_bytes}
            self.study.set_user_attr(CONTROLS, {**known, name: result})
            summary = scores_text(scored.metrics, scored.size_bytes, self._space.objectives)
            log(f"control {name}: {summary}; {duration(scored.evaluation.seconds)}")

    def _catch_up(self, tracker: Tracker) -> None:
        for trial in self._finished():
            self._track(tracker, trial)

    def _track(self, tracker: Tracker, trial: FrozenTrial) -> None:
        tracker.log_trial(trial_record(trial, list(self._space.objectives), self._folder))

    @staticmethod
    def _seconds(trial: FrozenTrial) -> float:
        """What scoring it took; 0 where nothing had to be scored."""
        return float(trial.user_attrs.get(RESULT, trial.user_attrs.get(RACED, {})).get("seconds", 0))


def check_same_scores(
    metrics: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]], what: str
) -> None:
    """Raise `InputError` if a score of `what` lies outside the interval that another machine measured on it."""
    for name in metrics.keys() & known.keys() - latency.DIRECTIONS.keys():
        measured = known[name]
        if not measured["low"] <= metrics[name]["value"] <= measured["high"]:
            raise InputError(
                f"{name} is {metrics[name]['value']:.2%} on this machine, on another it was {measured['value']:.2%} "
                f"[{measured['low']:.2%}, {measured['high']:.2%}]",
                where=what,
                fix="the same versions, type and kind of device on every machine",
            )


def _create_study(space: SpaceConfig, opened: RDBStorage, name: str) -> optuna.Study:
    """Open or create the study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # see heartbeat.py
    directions: list[Any] = list(space.objectives.values())
    if name in optuna.get_all_study_names(opened):
        study = optuna.load_study(study_name=name, storage=opened)
    else:
        study = optuna.create_study(storage=opened, study_name=name, directions=directions)
    return study


def _name_axes(study: optuna.Study, space: SpaceConfig) -> None:
    """For optuna's plots and dashboard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(space.objectives))


def _same(known: Any, value: Any) -> bool:
    """Whether they are equal; of objectives the order counts too, in which a trial's values stand."""
    return known == value and not (isinstance(value, dict) and list(known) != list(value))


def check_resumed(
    space: SpaceConfig, seat: Seat, identity: Mapping[str, Any], may_change: Collection[str] = ()
) -> None:
    """Raise `InputError` if the study is there and goes on from something else, as far as is known without a model."""
    with seat.group.turn():
        storage = open_storage(seat.storage, seat.pulse)
        if seat.study in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=seat.study, storage=storage)
            _check_identity(study, space, identity, may_change)


def _check_identity(
    study: optuna.Study, space: SpaceConfig, identity: Mapping[str, Any], may_change: Collection[str]
) -> None:
    """Raise `InputError` if what the study was started with has changed since."""
    check_known_parameters(study, space)
    constraints = [constraint.text for constraint in space.constraints]
    wanted = {"objectives": dict(space.objectives), "constraints": constraints, **identity}
    known = {"constraints": [], **study.user_attrs} if study.get_trials(deepcopy=False) else study.user_attrs
    for key, value in wanted.items():
        if key in known and not _same(known[key], value):
            if key not in may_change:
                raise InputError(
                    f"was started with {key} {known[key]}, now it is {value}",
                    where=f"study {study.study_name}",
                    fix=_MENDED.get(key, "undo the change, or start another study with --study"),
                )
            log(f"study {study.study_name} goes on with {key} {value}, it was {known[key]}")
        if known.get(key) != value:
            study.set_user_attr(key, value)
