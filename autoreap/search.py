"""A study: start or resume it, and score trials until the budget is spent.

Optuna's storage is the truth. A trial is told to it once everything about it is known; MLflow follows, and what it
missed is logged when the search resumes.
"""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from autoreap.candidate import Candidate
from autoreap.errors import InputError
from autoreap.failures import FailuresInARow
from autoreap.front import ERROR, PLAN, RESULT, Point, best_so_far, points_of
from autoreap.mlflow_runs import TrialRecord
from autoreap.night_log import NightLog
from autoreap.objective import Objective, Scored, objective_values
from autoreap.outcomes import Evaluation, Outcome, load_outcomes
from autoreap.plan import ModelShape
from autoreap.progress import log
from autoreap.sampling import enqueue_presets, sampler, suggest
from autoreap.signals import Signals
from autoreap.space_config import SpaceConfig
from autoreap.storage import STORAGE_ERRORS, open_storage, stored
from autoreap.tracking import Tracker
from autoreap.wording import duration, size_text

MAX_CUTS_OFF = 3  # of one candidate; what kills the process each time must not be tried for ever


class Search:
    """One study of one space on one model.

    Args:
        objective: scores candidates.
        shape: of the model; presets scale with its depth.
        identity: what a resumed study must share (model fingerprint, data digests, tasks); a mismatch is refused.
        folder: where each trial's plan and outcomes go, as `<number>/plan.json` and `<number>/outcomes.jsonl`.
    """

    def __init__(
        self,
        space: SpaceConfig,
        objective: Objective,
        shape: ModelShape,
        storage: str,
        name: str,
        identity: Mapping[str, Any],
        folder: Path,
    ) -> None:
        self._space = space
        self._objective = objective
        self._shape = shape
        self._folder = folder
        self.study = _create_study(space, storage, name, identity)
        self._scored: dict[str, Point] = {}
        for point in points_of(self.study):
            self._scored.setdefault(point.plan_digest, point)

    def run(self, tracker: Tracker, signals: Signals, *, trials: int, deadline: float) -> None:
        """Score trials until the study has `trials` finished ones or `deadline` (`time.monotonic`) has passed.

        Raises:
            RepeatedFailureError: trials fail one after the other.
            Interrupted: a signal came; the trial it cut off is tried first next time.
            AutoreapError: the storage can't be read or written.
        """
        self._signals = signals
        self._night = NightLog(trials, deadline, self._objective.num_answers)
        with stored():
            self._recover()
            try:
                self._score_baseline()
                enqueue_presets(self.study, self._space, self._shape)
                self._begin_session()
                tracker.log_baseline(self.study.user_attrs["baseline"]["metrics"])
                self._catch_up(tracker)
                self._score_trials(tracker, trials, deadline)
            except KeyboardInterrupt:
                self._recover()
                raise
            finally:
                self._night.close()

    def _score_trials(self, tracker: Tracker, trials: int, deadline: float) -> None:
        failures = FailuresInARow()
        finished = len(self._counted())
        seconds = [self._seconds(trial) for trial in self._counted() if self._seconds(trial)]
        while finished < trials and time.monotonic() < deadline:
            self._signals.check()
            trial = self.study.ask()
            self._night.begin(f"trial {trial.number}")
            self._attempt(trial)
            done = self.study.get_trials(deepcopy=False)[trial.number]
            self._track(tracker, done)
            finished += 1
            seconds += [self._seconds(done)] if self._seconds(done) else []
            found = best_so_far(list(self._scored.values()), self._space.objectives)
            self._night.end(self._line(trial.number), finished, found, seconds)
            failures.note(done.user_attrs.get(ERROR))

    def _begin_session(self) -> None:
        """Record what this run of the search draws by; with the same record, the same values are drawn."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = sampler(self._space, number)
        session = {"first_trial": number, "seed": self._space.seed, "sampler": self._space.sampler}
        self.study.set_user_attr("sessions", [*self.study.user_attrs.get("sessions", []), session])

    def _answered(self, _metric: str, _outcome: Outcome) -> None:
        """Each answer is told of as it comes, and is where a signal can end a long trial."""
        self._signals.check()
        self._night.answer()

    def _attempt(self, trial: Trial) -> bool:
        """Score one trial and tell the study; a failure is recorded with its reason."""
        try:
            candidate = self._candidate(trial)
            plan = self._objective.plan(candidate)
            digest = plan.digest()
            trial.set_user_attr(PLAN, plan.as_dict())
            if twin := self._scored.get(digest):
                self._repeat(trial, twin)
                return True
            scored = self._objective.score(plan, self._answered)
        except STORAGE_ERRORS:  # no fault of the candidate
            raise
        except Exception as error:  # one bad candidate must not end a night; the reason is kept and shown
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
            return False
        self._keep(trial, scored, digest)
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
        point = Point(trial.number, trial.params, values, scored.metrics, scored.size_bytes, digest)
        self._scored[digest] = point

    def _repeat(self, trial: Trial, twin: Point) -> None:
        """The same plan was scored before: tell the study what is known, at no cost."""
        result = {"metrics": twin.metrics, "size_bytes": twin.size_bytes, "plan_digest": twin.plan_digest}
        trial.set_user_attr(RESULT, result | {"seconds": 0.0, "duplicate_of": twin.trial})
        self.study.tell(trial, list(twin.values.values()))

    def _candidate(self, trial: Trial) -> Candidate:
        return Candidate.from_parameters(
            {name: suggest(trial, name, spec) for name, spec in self._space.parameters.items()}
        )

    def _finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))

    def _counted(self) -> list[FrozenTrial]:
        """Finished trials, without those that were cut off: their values are tried again."""
        return [trial for trial in self._finished() if trial.state != TrialState.FAIL or ERROR in trial.user_attrs]

    def _recover(self) -> None:
        """Trials that were cut off: what was scored is kept, the values of others are tried again first.

        Safe because `exclusive` holds: nobody else can be running them.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if result := trial.user_attrs.get(RESULT):  # it ended between its result and its state
                scored = objective_values(self._space.objectives, result["size_bytes"], result["metrics"])
                self.study.tell(trial.number, scored)
                self._scored = {point.plan_digest: point for point in reversed(points_of(self.study))}
                continue
            cuts = trial.user_attrs.get("cuts_off", 0) + 1
            self.study.tell(trial.number, state=TrialState.FAIL)
            if cuts == MAX_CUTS_OFF:
                log(f"trial {trial.number} was cut off, the {cuts}rd time for its values; they are left out")
                continue
            values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if values:  # else it was cut off before it had any
                kept = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
                self.study.enqueue_trial(values, user_attrs={**kept, "retry_of": trial.number, "cuts_off": cuts})
                log(f"trial {trial.number} was cut off; its values will be tried again")

    def _score_baseline(self) -> None:
        outcomes = self._folder / "baseline" / "outcomes.jsonl"
        if "baseline" in self.study.user_attrs:
            if outcomes.is_file():
                self._objective.draft_from(load_outcomes(outcomes))
            return
        self._night.begin("baseline")
        evaluation: Evaluation = self._objective.score_baseline(self._answered)
        metrics, size_bytes = evaluation.metrics(), self._objective.baseline_size_bytes
        objective_values(self._space.objectives, size_bytes, metrics)  # a baseline without a number can't be a baseline
        evaluation.save_outcomes(outcomes)
        self.study.set_user_attr("baseline", {"metrics": metrics, "size_bytes": size_bytes})
        log(f"baseline: {_summary(metrics, size_bytes)}; {duration(evaluation.seconds)}")

    def _catch_up(self, tracker: Tracker) -> None:
        for trial in self._finished():
            self._track(tracker, trial)

    def _track(self, tracker: Tracker, trial: FrozenTrial) -> None:
        folder = self._folder / str(trial.number)
        result = trial.user_attrs.get(RESULT, {"metrics": {}})
        tags = {key: str(trial.user_attrs[key]) for key in ("preset", "retry_of", ERROR) if key in trial.user_attrs}
        tracker.log_trial(
            TrialRecord(
                number=trial.number,
                parameters=trial.params,
                values=dict(zip(self._space.objectives, trial.values or (), strict=False)),
                metrics=result["metrics"],
                state=trial.state.name,
                artifacts=sorted(folder.iterdir()) if folder.is_dir() else (),
                tags=tags,
            )
        )

    @staticmethod
    def _seconds(trial: FrozenTrial) -> float:
        """What scoring it took; 0 where nothing had to be scored."""
        return float(trial.user_attrs.get(RESULT, {}).get("seconds", 0))

    def _error_of(self, number: int) -> str:
        return str(self.study.get_trials(deepcopy=False)[number].user_attrs.get(ERROR, "unknown"))

    def _line(self, number: int) -> str:
        trial = self.study.get_trials(deepcopy=False)[number]
        values = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
        head = f"trial {number} ({trial.user_attrs.get('preset', 'sampled')}: {values})"
        if trial.state != TrialState.COMPLETE:
            return f"{head} failed: {self._error_of(number)}"
        result = trial.user_attrs[RESULT]
        twin = result.get("duplicate_of")
        spent = duration(result["seconds"]) if twin is None else f"same plan as trial {twin}"
        return f"{head}: {_summary(result['metrics'], result['size_bytes'])}; {spent}"


def _summary(metrics: Mapping[str, Mapping[str, Any]], size_bytes: int) -> str:
    scores = [f"{name} {m['value']:.2%} [{m['low']:.2%}, {m['high']:.2%}]" for name, m in metrics.items()]
    return ", ".join([size_text(size_bytes), *scores])


def _create_study(space: SpaceConfig, storage: str, name: str, identity: Mapping[str, Any]) -> optuna.Study:
    """Open or create the study; what it was started with must not have changed since."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = open_storage(storage)
    directions: list[Any] = list(space.objectives.values())
    if name in optuna.get_all_study_names(opened):
        study = optuna.load_study(study_name=name, storage=opened)
    else:
        study = optuna.create_study(storage=opened, study_name=name, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(space.objectives))  # the axes of optuna's plots and dashboard
    wanted = {"objectives": dict(space.objectives), **identity}
    for key, value in wanted.items():
        stored = study.user_attrs.get(key)
        if stored is None:
            study.set_user_attr(key, value)
        elif stored != value:
            raise InputError(
                f"was started with {key} {stored}, now it is {value}",
                where=f"study {name}",
                fix="undo the change, or start another study with --study",
            )
    return study
