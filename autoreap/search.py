"""A study: start or resume it, and score trials until the budget is spent.

Optuna's storage is the truth. A trial is told to it once everything about it is known; MLflow follows, and what it
missed is logged when the search resumes.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from autoreap.candidate import control
from autoreap.constraints import Constraint, values_of
from autoreap.errors import AutoreapError, InputError
from autoreap.front import (
    CONTROLS,
    ERROR,
    INFEASIBLE,
    PLAN,
    RACED,
    RESULT,
    Point,
    broken_of,
    pareto,
    points_of,
    study_names,
)
from autoreap.objective import Objective, Scored, objective_values
from autoreap.outcomes import Evaluation, load_outcomes
from autoreap.plan import ModelShape
from autoreap.progress import log
from autoreap.racing import Numerators, Raced, Rival
from autoreap.samplers import sampler
from autoreap.sampling import enqueue_presets, sample
from autoreap.space_config import SpaceConfig
from autoreap.tracking import Tracker, TrialRecord
from autoreap.wording import duration, metric_text, shown, size_text

MAX_FAILURES_IN_A_ROW = 3


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
        self._unpruned: dict[str, float] = {}  # the baseline's metrics, once it is scored
        self._scored: dict[str, Point] = {}
        for point in points_of(self.study):
            self._scored.setdefault(point.plan_digest, point)
        self._raced: dict[str, dict[str, Any]] = {}  # by the digest of the plan: what a repetition is told
        for trial in self._trials(TrialState.PRUNED):
            if RACED in trial.user_attrs:
                self._note_raced(trial.number, trial.user_attrs[RACED])
        self._numerators: dict[int, Numerators] = {}

    def run(self, tracker: Tracker, *, trials: int, hours: float | None) -> None:
        """Score trials until the study has `trials` finished ones or `hours` are over, whichever comes first."""
        self._recover()
        self._score_baseline()
        self._unpruned = self._baseline_values()
        self._score_controls()
        enqueue_presets(self.study, self._space, self._shape)
        self._catch_up(tracker)
        started = time.monotonic()
        deadline = started + hours * 3600 if hours is not None else float("inf")
        finished = already = len(self._finished())
        failures = 0
        self.study.sampler = sampler(self._space, finished)
        while finished < trials and time.monotonic() < deadline:
            trial = self.study.ask()
            failures = 0 if self._attempt(trial) else failures + 1
            self._track(tracker, self.study.get_trials(deepcopy=False)[trial.number])
            finished += 1
            if failures == MAX_FAILURES_IN_A_ROW:
                raise AutoreapError(f"{failures} trials failed in a row; the last: {self._error_of(trial.number)}")
            elapsed = time.monotonic() - started
            remaining = min(elapsed / (finished - already) * (trials - finished), deadline - time.monotonic())
            log(f"{self._line(trial.number)}; {finished}/{trials} done, ETA {duration(max(remaining, 0))}")

    def _attempt(self, trial: Trial) -> bool:
        """Score one trial and tell the study; a failure is recorded with its reason."""
        try:
            plan = self._objective.plan(sample(trial, self._space, self._shape))
            digest = plan.digest()
            trial.set_user_attr(PLAN, plan.as_dict())
            if broken := self._judge(trial, self._objective.exact(plan), exact=True):
                trial.set_user_attr(INFEASIBLE, broken)
                self.study.tell(trial, state=TrialState.PRUNED)
                return True
            if twin := self._scored.get(digest):
                self._repeat(trial, twin)
                return True
            rivals = self._rivals() if self._may_race(trial) else ()
            if rivals and (raced := self._raced.get(digest)):
                self._tell_raced(trial, raced)
                return True
            scored = self._objective.score(plan, rivals=rivals)
            self._judge(trial, values_of(scored.size_bytes, scored.metrics), exact=False)
        except Raced as stopped:
            self._tell_raced(trial, stopped.verdict.as_dict() | {"plan_digest": digest})
            return True
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
        broken = broken_of(trial.constraints)
        point = Point(trial.number, trial.params, values, scored.metrics, scored.size_bytes, digest, broken=broken)
        self._scored[digest] = point

    def _repeat(self, trial: Trial, twin: Point) -> None:
        """The same plan was scored before: tell the study what is known, at no cost."""
        result = {"metrics": twin.metrics, "size_bytes": twin.size_bytes, "plan_digest": twin.plan_digest}
        self._judge(trial, values_of(twin.size_bytes, twin.metrics), exact=False)
        trial.set_user_attr(RESULT, result | {"seconds": 0.0, "duplicate_of": twin.trial})
        self.study.tell(trial, list(twin.values.values()))

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

    def _tell_raced(self, trial: Trial, verdict: dict[str, Any]) -> None:
        """Without values: what was counted so far is a bound, which must not rank among scores."""
        trial.set_user_attr(RACED, verdict)
        self.study.tell(trial, state=TrialState.PRUNED)
        self._note_raced(trial.number, verdict)

    def _note_raced(self, number: int, verdict: dict[str, Any]) -> None:
        repeated = verdict | {"duplicate_of": number, "seconds": 0.0}
        self._raced.setdefault(verdict["plan_digest"], repeated)

    def _may_race(self, trial: Trial) -> bool:
        """Others are compared with presets; and Optuna's GP ignores pruned trials, so it would draw the same again."""
        gp = isinstance(self.study.sampler, GPSampler)
        return self._space.racing and not gp and "preset" not in trial.user_attrs

    def _rivals(self) -> list[Rival]:
        """The front as it is."""
        front = pareto(list(self._scored.values()), self._space.objectives)
        return [
            Rival(point.trial, point.values, point.metrics, partial(self._numerators_of, point.trial))
            for point in front
        ]

    def _numerators_of(self, number: int) -> Numerators:
        """What trial `number` scored, utterance by utterance; nothing where its outcomes can't be read."""
        if number not in self._numerators:
            try:
                outcomes = load_outcomes(self._folder / str(number) / "outcomes.jsonl")
            except (InputError, OSError) as error:
                log(f"warning: no sample is compared with trial {number}: {error}")
                outcomes = {}
            self._numerators[number] = {
                metric: {outcome.id: outcome.counts.numerator for outcome in listed}
                for metric, listed in outcomes.items()
            }
        return self._numerators[number]

    def _finished(self) -> list[FrozenTrial]:
        return self._trials(TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _recover(self) -> None:
        """Trials that a kill left running are failed, and their values tried again first.

        Safe because `exclusive` holds: nobody else can be running them.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            kept = {"preset": trial.user_attrs["preset"]} if "preset" in trial.user_attrs else {}
            self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, **kept})
            log(f"trial {trial.number} was cut off; its values will be tried again")

    def _score_baseline(self) -> None:
        outcomes = self._folder / "baseline" / "outcomes.jsonl"
        if "baseline" in self.study.user_attrs:
            if outcomes.is_file():
                self._objective.draft_from(load_outcomes(outcomes))
            return
        evaluation: Evaluation = self._objective.score_baseline()
        metrics, size_bytes = evaluation.metrics(), self._objective.baseline_size_bytes
        objective_values(self._space.objectives, size_bytes, metrics)  # a baseline without a number can't be a baseline
        evaluation.save_outcomes(outcomes)
        self.study.set_user_attr("baseline", {"metrics": metrics, "size_bytes": size_bytes})
        log(f"baseline: {self._summary(metrics, size_bytes)}; {duration(evaluation.seconds)}")

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
            scored = self._objective.score(self._objective.plan(control(name, num_layers)))
            scored.plan.save(self._folder / name / "plan.json")
            scored.evaluation.save_outcomes(self._folder / name / "outcomes.jsonl")
            result = {"metrics": scored.metrics, "size_bytes": scored.size_bytes}
            self.study.set_user_attr(CONTROLS, {**known, name: result})
            summary = self._summary(scored.metrics, scored.size_bytes)
            log(f"control {name}: {summary}; {duration(scored.evaluation.seconds)}")

    def _catch_up(self, tracker: Tracker) -> None:
        for trial in self._finished():
            self._track(tracker, trial)

    def _track(self, tracker: Tracker, trial: FrozenTrial) -> None:
        folder = self._folder / str(trial.number)
        result = trial.user_attrs.get(RESULT, {"metrics": {}})
        shown = ("preset", "retry_of", ERROR, INFEASIBLE)
        tags = {key: str(trial.user_attrs[key]) for key in shown if key in trial.user_attrs}
        if raced := trial.user_attrs.get(RACED):
            tags |= {RACED: raced["reason"], "autoreap.scored": f"{raced['num_scored']}/{raced['num_utterances']}"}
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

    def _error_of(self, number: int) -> str:
        return str(self.study.get_trials(deepcopy=False)[number].user_attrs.get(ERROR, "unknown"))

    def _line(self, number: int) -> str:
        trial = self.study.get_trials(deepcopy=False)[number]
        values = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
        head = f"trial {number} ({trial.user_attrs.get('preset', 'sampled')}: {values})"
        if raced := trial.user_attrs.get(RACED):
            return f"{head} raced: {_stopped(raced)}"
        if INFEASIBLE in trial.user_attrs:
            return f"{head} not scored: {trial.user_attrs[INFEASIBLE]}"
        if trial.state != TrialState.COMPLETE:
            return f"{head} failed: {self._error_of(number)}"
        result = trial.user_attrs[RESULT]
        twin = result.get("duplicate_of")
        spent = duration(result["seconds"]) if twin is None else f"same plan as trial {twin}"
        return f"{head}: {self._summary(result['metrics'], result['size_bytes'])}; {spent}"

    def _summary(self, metrics: Mapping[str, Mapping[str, Any]], size_bytes: int) -> str:
        names = shown(metrics, self._space.objectives)
        return ", ".join([size_text(size_bytes), *[f"{name} {metric_text(name, metrics[name])}" for name in names]])


def _stopped(raced: Mapping[str, Any]) -> str:
    if raced.get("duplicate_of") is not None:
        return f"same plan as trial {raced['duplicate_of']}"
    scored = f"{raced['num_scored']} of {raced['num_utterances']} utterances"
    return f"{raced['reason']}; {scored}, {duration(raced['seconds'])}"


def _create_study(space: SpaceConfig, storage: str, name: str, identity: Mapping[str, Any]) -> optuna.Study:
    """Open or create the study; what it was started with must not have changed since."""
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Any] = list(space.objectives.values())
    if name in study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
    else:
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    constraints = [constraint.text for constraint in space.constraints]
    wanted = {"objectives": dict(space.objectives), "constraints": constraints, **identity}
    known = {"constraints": [], **study.user_attrs} if study.get_trials(deepcopy=False) else study.user_attrs
    for key, value in wanted.items():
        stored = known.get(key)
        if stored is None:
            study.set_user_attr(key, value)
        elif stored != value:
            raise InputError(
                f"was started with {key} {stored}, now it is {value}",
                where=f"study {name}",
                fix="undo the change, or start another study with --study",
            )
    return study
