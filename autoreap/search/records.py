"""What a study stores, and how it is read again. No other module touches Optuna's user attributes.

A trial's result is stored before its state, so a kill between the two loses nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from autoreap.errors import InputError
from autoreap.evaluation.outcomes import OUTCOMES_NAME
from autoreap.plan import BaseModel, PruningPlan, plan_from_dict
from autoreap.scores import (
    Difference,
    Metric,
    differences_as_dict,
    differences_from_dict,
    metrics_as_dict,
    metrics_from_dict,
)

FORMAT = 2  # of what is stored here; 0.3 and before wrote none
BASELINE = "baseline"  # the unpruned model: its scores in a study, and the folder of its files
MAX_DEATHS = 3  # of processes at one candidate, which must not be tried for ever
# The names of Optuna's user attributes. Those with a prefix are of a trial, the others of a study or a queued trial;
# they stay as they are, so that studies can be resumed.
_FORMAT = "autoreap.format"
_RESULT = "autoreap.result"
_PRUNED = "autoreap.pruned"
_INFEASIBLE = "autoreap.infeasible"
_ERROR = "autoreap.error"
_PLAN, _DIGEST = "autoreap.plan", "autoreap.plan_digest"
_PRESET, _NEIGHBOUR_OF, _RETRY_OF, _DEATHS = "preset", "neighbour_of", "retry_of", "deaths"
_OBJECTIVES, _CONSTRAINTS, _CONTROLS = "objectives", "constraints", "controls"
_HELD_OUT, _SCORING, _SESSIONS, _MARGINS = "held_out", "scoring", "sessions", "margins"
_NUM_UNTRIED, _SHIPPED = "num_untried_neighbours", "shipped"


class TrialStatus(StrEnum):
    """What became of a trial. A duplicate has the plan of an earlier trial, so nothing had to be scored."""

    SCORED = "scored"
    DUPLICATE = "duplicate"
    INFEASIBLE = "infeasible"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    WAITING = "waiting"


@dataclass(frozen=True)
class ScoredModel:
    """The unpruned model, or a control: metrics and size."""

    metrics: Mapping[str, Metric]
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"metrics": metrics_as_dict(self.metrics), "size_bytes": self.size_bytes}


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        preset, neighbour_of: the preset that it tries, or the trial from which it is a step; None where it was sampled.
        distributions: what each parameter was sampled from.
        values: the objectives by name; empty where it was not scored.
        metrics: every score with its interval; empty where it was not scored.
        against_baseline: by metric of answers, the difference to the unpruned model, paired over the utterances.
        violations: constraint -> how far the trial is beyond the bound, as a share of it; only broken ones.
        seconds: what scoring took; 0 for a duplicate.
        reason: why it was not scored; None where it was.
        num_scored, num_utterances: of a pruned trial, the utterances scored and those there were.
        retry_of: the interrupted trial whose parameters this one tries again.
    """

    number: int
    status: TrialStatus
    params: Mapping[str, Any]
    preset: str | None = None
    neighbour_of: int | None = None
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    against_baseline: Mapping[str, Difference] = field(default_factory=dict)
    size_bytes: int = 0
    plan_digest: str = ""
    violations: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str | None = None
    duplicate_of: int | None = None
    num_scored: int = 0
    num_utterances: int = 0
    retry_of: int | None = None
    started: datetime | None = None
    ended: datetime | None = None
    stored_plan: Mapping[str, Any] | None = None

    @property
    def is_scored(self) -> bool:
        """Whether it has values: its own, or those of an equal plan."""
        return self.status in (TrialStatus.SCORED, TrialStatus.DUPLICATE)

    @property
    def origin(self) -> str:
        """Where it comes from, in words: its preset, `neighbour of trial N`, or `sampled`."""
        if self.neighbour_of is not None:
            return f"neighbour of trial {self.neighbour_of}"
        return self.preset or "sampled"

    @property
    def is_spent(self) -> bool:
        """Whether it took from the budget: a plan was scored for it, to the end or not. Duplicates are free."""
        if self.duplicate_of is not None:
            return False
        return self.status in (TrialStatus.SCORED, TrialStatus.PRUNED, TrialStatus.FAILED)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status not in (TrialStatus.RUNNING, TrialStatus.WAITING)

    @property
    def wall_seconds(self) -> float | None:
        """From start to end; None where it has not ended, or was interrupted at an unknown time."""
        if self.started is None or self.ended is None or self.status is TrialStatus.INTERRUPTED:
            return None
        return (self.ended - self.started).total_seconds()

    @cached_property
    def plan(self) -> PruningPlan | None:
        """The exact edit; None where the trial ended before it had one."""
        if self.stored_plan is None:
            return None
        return plan_from_dict(self.stored_plan, where=f"trial {self.number}")

    def as_dict(self) -> dict[str, Any]:
        """As `pareto --json` prints it."""
        document = {
            "trial": self.number,
            "params": self.params,
            "metrics": metrics_as_dict(self.metrics),
            "size_bytes": self.size_bytes,
            "against_baseline": differences_as_dict(self.against_baseline),
        }
        if self.violations:
            document["broken"] = self.violations
        return document


@dataclass(frozen=True)
class HeldOutTrial:
    """One member of the front on the report split.

    Attributes:
        against_baseline: by metric, the difference to the unpruned model, paired over the utterances.
        tied_with: members without a significant difference in any objective.
    """

    metrics: Mapping[str, Metric]
    against_baseline: Mapping[str, Difference]
    tied_with: Sequence[int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "metrics": metrics_as_dict(self.metrics),
            "against_baseline": differences_as_dict(self.against_baseline),
            "tied_with": list(self.tied_with),
        }


@dataclass(frozen=True)
class HeldOutScores:
    """The front and the unpruned model on the report split, which the search has never seen.

    Attributes:
        digest: of the split's rows, media and prompts.
        missing: objectives that the report split does not measure.
    """

    digest: str
    baseline: Mapping[str, Metric]
    trials: Mapping[int, HeldOutTrial]
    missing: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; docs/files.md describes the keys."""
        return {
            "split": "report",
            "evals": self.digest,
            "baseline": {"metrics": metrics_as_dict(self.baseline)},
            "trials": {str(number): trial.as_dict() for number, trial in self.trials.items()},
            "missing": list(self.missing),
        }


@dataclass(frozen=True)
class ScoringSetup:
    """How a study's trials were scored: evals file, batch size, device and type; the space, for its calibration set."""

    evals: str
    batch_size: int
    where: str
    space: str = ""


@dataclass(frozen=True)
class StudyRecord:
    """A study as it is now.

    Attributes:
        margins: the losses that the space states as the largest that count as none, by metric, as fractions.
        shipped: the trial whose checkpoint the search wrote.
        num_untried: one-step neighbours of the front that were not tried; 0: the front is locally complete; None: no
            search has ended yet.
    """

    name: str
    objectives: Mapping[str, str]
    constraints: Sequence[str]
    margins: Mapping[str, float]
    baseline: ScoredModel
    controls: Mapping[str, ScoredModel]
    trials: Sequence[TrialRecord]
    held_out: HeldOutScores | None
    scoring: ScoringSetup | None
    num_untried: int | None
    shipped: int | None
    first_trials: Sequence[int]
    model_fingerprint: str
    evals_digest: str

    @cached_property
    def points(self) -> list[TrialRecord]:
        """The trials with values, duplicates among them, in order."""
        return [trial for trial in self.trials if trial.is_scored]

    @property
    def base_model(self) -> BaseModel | None:
        """The model that was searched; None where no trial has a plan that names it."""
        for trial in self.trials:
            if trial.plan is not None:
                return trial.plan.base_model
        return None

    def held_out_of(self, number: int) -> HeldOutTrial | None:
        """What the report split says of trial `number`; None where it was not scored there."""
        if self.held_out is None:
            return None
        return self.held_out.trials.get(number)

    def trial(self, number: int) -> TrialRecord:
        """Trial `number`; `InputError` if there is none."""
        for trial in self.trials:
            if trial.number == number:
                return trial
        fix = f"`autoreap show {self.name}` lists them"
        raise InputError(f"has no trial {number}", where=f"study {self.name}", fix=fix)

    def scored_trial(self, number: int) -> TrialRecord:
        """Trial `number`; `InputError` if there is none, or if it was not scored."""
        trial = self.trial(number)
        if trial.is_scored:
            return trial
        fix = f"`autoreap pareto {self.name}` lists the best of those that were"
        reason = trial.reason or trial.status
        raise InputError(f"trial {number} was not scored: {reason}", where=f"study {self.name}", fix=fix)

    def plan(self, number: int) -> PruningPlan:
        """The exact plan that trial `number` scored; raises as `scored_trial` does."""
        plan = self.scored_trial(number).plan
        assert plan is not None  # it is stored before anything is scored
        return plan

    def unhealed(self, trial: TrialRecord) -> TrialRecord | None:
        """The trial that scored the plan of a healed `trial` without healing it, if there is one."""
        if not trial.is_scored or trial.plan is None or trial.plan.heal is None:
            return None
        digest = trial.plan.unhealed().digest()
        for other in self.points:
            if other.plan_digest == digest:
                return other
        return None

    def outcomes_path(self, number: int | None, root: Path) -> Path:
        """Where the outcomes of trial `number` are, or of the one whose plan it repeats; None: of the baseline.

        Raises:
            InputError: there is no such trial, or it was not scored.
        """
        folder = trials_folder(self.name, root)
        if number is None:
            return folder / BASELINE / OUTCOMES_NAME
        trial = self.scored_trial(number)
        scored = number if trial.duplicate_of is None else trial.duplicate_of
        return folder / str(scored) / OUTCOMES_NAME


def trials_folder(study: str, root: Path) -> Path:
    """Where the files of each trial of `study` are, in a folder of its number; those of the baseline in `baseline`."""
    return root / "trials" / study


def read_study(study: optuna.Study) -> StudyRecord:
    """All that `study` holds; `InputError` if it is not one of this version, or has no baseline yet."""
    stored = study.user_attrs
    check_format(study)
    baseline = read_baseline(study)
    if baseline is None:
        problem = "has no baseline yet: its search ended before the unpruned model was scored"
        raise InputError(problem, where=f"study {study.study_name}", fix="resume it with the same `autoreap search`")
    objectives: dict[str, str] = stored[_OBJECTIVES]
    scoring = None
    if _SCORING in stored:
        scoring = ScoringSetup(**stored[_SCORING])
    return StudyRecord(
        name=study.study_name,
        objectives=objectives,
        constraints=stored.get(_CONSTRAINTS, []),
        margins=stored.get(_MARGINS, {}),
        baseline=baseline,
        controls=read_controls(study),
        trials=[read_trial(trial, list(objectives)) for trial in study.get_trials(deepcopy=False)],
        held_out=read_held_out(study),
        scoring=scoring,
        num_untried=stored.get(_NUM_UNTRIED),
        shipped=stored.get(_SHIPPED),
        first_trials=[session["first_trial"] for session in stored.get(_SESSIONS, [])],
        model_fingerprint=stored.get("model", ""),
        evals_digest=stored.get("evals", ""),
    )


def read_whole(study: optuna.Study) -> StudyRecord:
    """`read_study`, with the plans, which are otherwise read when they are first asked for."""
    record = read_study(study)
    for trial in record.trials:
        _ = trial.plan
    return record


def check_format(study: optuna.Study) -> None:
    """Raise `InputError` unless `study` was written by `autoreap search` of this version's format."""
    where = f"study {study.study_name}"
    if _OBJECTIVES not in study.user_attrs:
        problem = "is not an autoreap study: it records no objectives"
        raise InputError(problem, where=where, fix="name a study of `autoreap search`")
    found = study.user_attrs.get(_FORMAT, 1)
    if found != FORMAT:
        problem = f"was written by another version of autoreap (format {found}, not {FORMAT})"
        raise InputError(problem, where=where, fix="open it with that version, or start another study with --study")
    # Values are paired with objectives by their order.
    if len(study.directions) != len(study.user_attrs[_OBJECTIVES]):
        raise InputError("has not a direction for each objective: is the database damaged?", where=where)


def read_trial(trial: FrozenTrial, objectives: Sequence[str]) -> TrialRecord:
    """What is known of one trial. Its state decides: an attribute may have been set just before a kill."""
    stored = trial.user_attrs
    status, reason, details = _status_of(trial)
    values = {}
    if trial.state == TrialState.COMPLETE:
        values = dict(zip(objectives, trial.values, strict=True))
    return TrialRecord(
        number=trial.number,
        status=status,
        params=trial.params,
        preset=stored.get(_PRESET),
        neighbour_of=stored.get(_NEIGHBOUR_OF),
        distributions=trial.distributions,
        values=values,
        metrics=metrics_from_dict(details.get("metrics", {})),
        against_baseline=differences_from_dict(details.get("against_baseline", {})),
        size_bytes=details.get("size_bytes", 0),
        plan_digest=stored.get(_DIGEST, ""),
        violations={text: violation for text, violation in trial.constraints.items() if violation > 0},
        seconds=details.get("seconds", 0.0),
        reason=reason,
        duplicate_of=details.get("duplicate_of"),
        num_scored=details.get("num_scored", 0),
        num_utterances=details.get("num_utterances", 0),
        retry_of=stored.get(_RETRY_OF),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        stored_plan=stored.get(_PLAN),
    )


def _status_of(trial: FrozenTrial) -> tuple[TrialStatus, str | None, Mapping[str, Any]]:
    """Status, reason, and the stored details of that end."""
    stored = trial.user_attrs
    match trial.state:
        case TrialState.COMPLETE:
            is_duplicate = stored[_RESULT].get("duplicate_of") is not None
            status = TrialStatus.DUPLICATE if is_duplicate else TrialStatus.SCORED
            return status, None, stored[_RESULT]
        # Optuna has no state for a trial that was never run because of its plan, so both are "pruned" there.
        case TrialState.PRUNED if _INFEASIBLE in stored:
            return TrialStatus.INFEASIBLE, stored[_INFEASIBLE], {}
        case TrialState.PRUNED:
            return TrialStatus.PRUNED, stored[_PRUNED]["reason"], stored[_PRUNED]
        # Nobody stored a reason: a kill or a signal ended it.
        case TrialState.FAIL if _ERROR not in stored:
            return TrialStatus.INTERRUPTED, None, {}
        case TrialState.FAIL:
            return TrialStatus.FAILED, stored[_ERROR], {}
        case TrialState.RUNNING:
            return TrialStatus.RUNNING, None, {}
    return TrialStatus.WAITING, None, {}


def read_baseline(study: optuna.Study) -> ScoredModel | None:
    """The unpruned model's scores, where they are known."""
    stored = study.user_attrs.get(BASELINE)
    if stored is None:
        return None
    return _scored_model(stored)


def read_controls(study: optuna.Study) -> dict[str, ScoredModel]:
    """The controls that are scored, by name."""
    return {name: _scored_model(stored) for name, stored in study.user_attrs.get(_CONTROLS, {}).items()}


def read_held_out(study: optuna.Study) -> HeldOutScores | None:
    """What the report split says of the front, where it was scored."""
    stored = study.user_attrs.get(_HELD_OUT)
    if stored is None:
        return None
    trials = {}
    for number, trial in stored["trials"].items():
        differences = differences_from_dict(trial["against_baseline"])
        trials[int(number)] = HeldOutTrial(metrics_from_dict(trial["metrics"]), differences, trial["tied_with"])
    baseline = metrics_from_dict(stored["baseline"]["metrics"])
    return HeldOutScores(stored["evals"], baseline, trials, stored["missing"])


def _scored_model(stored: Mapping[str, Any]) -> ScoredModel:
    return ScoredModel(metrics_from_dict(stored["metrics"]), stored["size_bytes"])


# Written by the leader.


def record_plan(trial: Trial, plan: PruningPlan, digest: str) -> None:
    """The exact edit that the trial stands for, with its digest beside it."""
    trial.set_user_attr(_PLAN, plan.as_dict())
    trial.set_user_attr(_DIGEST, digest)


def record_result(
    study: optuna.Study,
    trial: Trial,
    values: Sequence[float],
    scored: ScoredModel,
    against_baseline: Mapping[str, Difference],
    *,
    seconds: float = 0.0,
    duplicate_of: int | None = None,
) -> None:
    """The trial is scored, or its plan is that of the scored trial `duplicate_of`."""
    differences = differences_as_dict(against_baseline)
    result: dict[str, Any] = {**scored.as_dict(), "against_baseline": differences, "seconds": seconds}
    if duplicate_of is not None:
        result["duplicate_of"] = duplicate_of
    # The result before the state: `stored_result` finds it again if a kill comes between the two.
    trial.set_user_attr(_RESULT, result)
    study.tell(trial, list(values))


def record_pruned(
    study: optuna.Study, trial: Trial, details: Mapping[str, Any], *, duplicate_of: int | None = None
) -> None:
    """The trial was stopped, or its plan is that of the stopped trial `duplicate_of`.

    Without values: what was counted so far is a bound, which must not rank among scores.
    """
    stored = {**details}
    if duplicate_of is not None:
        stored |= {"duplicate_of": duplicate_of, "seconds": 0.0, "num_scored": 0}
    trial.set_user_attr(_PRUNED, stored)
    study.tell(trial, state=TrialState.PRUNED)


def record_infeasible(study: optuna.Study, trial: Trial, reason: str) -> None:
    """The trial breaks a constraint that follows from its plan alone, so it is not scored."""
    trial.set_user_attr(_INFEASIBLE, reason)
    study.tell(trial, state=TrialState.PRUNED)


def record_failure(study: optuna.Study, trial: Trial, reason: str) -> None:
    """The trial failed; `reason` is `Kind: message`."""
    trial.set_user_attr(_ERROR, reason)
    study.tell(trial, state=TrialState.FAIL)


def record_baseline(study: optuna.Study, scored: ScoredModel) -> None:
    """The unpruned model's scores."""
    study.set_user_attr(BASELINE, scored.as_dict())


def record_control(study: optuna.Study, name: str, scored: ScoredModel) -> None:
    """The scores of a control."""
    study.set_user_attr(_CONTROLS, {**study.user_attrs.get(_CONTROLS, {}), name: scored.as_dict()})


def record_held_out(study: optuna.Study, scores: HeldOutScores) -> None:
    """What the report split says of the front."""
    study.set_user_attr(_HELD_OUT, scores.as_dict())


def record_scoring(study: optuna.Study, setup: ScoringSetup) -> None:
    """How the trials are scored."""
    study.set_user_attr(_SCORING, asdict(setup))


def record_margins(study: optuna.Study, margins: Mapping[str, float]) -> None:
    """What the space states now: margins judge what was scored, and change none of it."""
    study.set_user_attr(_MARGINS, dict(margins))


def record_untried(study: optuna.Study, number: int) -> None:
    """How many one-step neighbours of the front were not tried when the search ended."""
    study.set_user_attr(_NUM_UNTRIED, number)


def record_shipped(study: optuna.Study, number: int) -> None:
    """The checkpoint of trial `number` is written and verified."""
    study.set_user_attr(_SHIPPED, number)


def record_session(study: optuna.Study, first_trial: int, seed: int, sampler: str) -> None:
    """A run of the search begins; with the same record the same values are drawn."""
    stored = study.user_attrs
    session = {"first_trial": first_trial, "seed": seed, "sampler": sampler, "code": stored.get("code")}
    study.set_user_attr(_SESSIONS, [*stored.get(_SESSIONS, []), session])


def record_identity(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    """What all runs of the study share."""
    study.set_user_attr(_FORMAT, FORMAT)
    for name, value in facts.items():
        study.set_user_attr(name, value)


def read_identity(study: optuna.Study) -> dict[str, Any] | None:
    """What all runs of the study share; None where no search has begun yet."""
    stored = study.user_attrs
    if _OBJECTIVES not in stored:
        return None
    return {_CONSTRAINTS: [], **stored}


def enqueue_preset(study: optuna.Study, name: str, params: Mapping[str, Any]) -> None:
    """Have the preset `name` tried, once."""
    study.enqueue_trial(dict(params), user_attrs={_PRESET: name}, skip_if_exists=True)


def enqueue_neighbour(study: optuna.Study, params: Mapping[str, Any], number: int) -> None:
    """Have a neighbour of trial `number` tried next."""
    study.enqueue_trial(dict(params), user_attrs={_NEIGHBOUR_OF: number})


def has_waiting(study: optuna.Study) -> bool:
    """Whether a trial is queued."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def is_preset(trial: Trial) -> bool:
    """Whether the trial tries a preset."""
    return _PRESET in trial.user_attrs


def stored_result(trial: FrozenTrial) -> ScoredModel | None:
    """The scores of a trial that a kill left between its result and its state."""
    stored = trial.user_attrs.get(_RESULT)
    if stored is None:
        return None
    return _scored_model(stored)


def enqueue_retries(study: optuna.Study, spared: Collection[int] = ()) -> list[int]:
    """Have the parameters of each interrupted trial tried again, once; the numbers of these trials.

    Which of them have been tried again is read from the study, so a kill at any moment neither loses nor doubles one.

    Args:
        spared: trials whose process ended by itself, which is no fault of theirs.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
    enqueued = []
    for trial in trials:
        is_interrupted = trial.state == TrialState.FAIL and _ERROR not in trial.user_attrs
        # A queued trial that was not yet sampled has its values in `fixed_params` alone, where Optuna puts them.
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if not is_interrupted or trial.number in retried or not params:
            continue
        deaths = trial.user_attrs.get(_DEATHS, 0)
        if trial.number not in spared:
            deaths += 1
        # What kills its process each time would end every night.
        if deaths >= MAX_DEATHS:
            continue
        attributes = {_RETRY_OF: trial.number, _DEATHS: deaths}
        for origin in (_PRESET, _NEIGHBOUR_OF):
            if origin in trial.user_attrs:
                attributes[origin] = trial.user_attrs[origin]
        study.enqueue_trial(params, user_attrs=attributes)
        enqueued.append(trial.number)
    return enqueued
