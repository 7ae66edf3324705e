"""Reading a study: its trials, what became of each, and where their files are. Needs no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoreap.errors import InputError
from autoreap.outcomes import OUTCOMES_NAME
from autoreap.plan import PruningPlan, plan_from_dict
from autoreap.study.storage import cannot_open, open_storage, shown

RESULT = "autoreap.result"  # user attribute of a finished trial: metrics, size, digest, seconds
RACED = "autoreap.raced"  # user attribute of a trial that was stopped: `racing.Verdict`, and the plan's digest
SCREENED = "autoreap.screened"  # user attribute: the surprises of a screen; with a reason, where it ended the trial
PLAN = "autoreap.plan"
ERROR = "autoreap.error"
INFEASIBLE = "autoreap.infeasible"  # of a trial that was not scored: the constraints it breaks, in words
DEFAULT_ROOT = Path("mlruns")
CONTROLS = "controls"  # of a study: name -> metrics and size of a candidate outside the space, to compare with
SCORING = "scoring"  # of a study: the evals file and the batch size, by which a checkpoint is compared


@dataclass(frozen=True)
class Point:
    """One scored trial.

    Attributes:
        values: the objectives by name.
        metrics: every score with its interval.
        broken: the constraints that it breaks, each with how far it is beyond the bound, as a share of it.
    """

    trial: int
    params: Mapping[str, Any]
    values: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Any]]
    size_bytes: int
    plan_digest: str
    duplicate_of: int | None = None
    broken: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As `autoreap pareto --json` prints it."""
        plain = {"trial": self.trial, "params": self.params, "metrics": self.metrics, "size_bytes": self.size_bytes}
        return plain | ({"broken": self.broken} if self.broken else {})


def default_storage(root: Path = DEFAULT_ROOT) -> str:
    """Where studies live unless told otherwise."""
    return f"sqlite:///{root / 'studies.db'}"


def open_study(name: str, storage: str | None = None) -> optuna.Study:
    """The study of that name; `InputError` lists the known ones."""
    url = storage or default_storage()
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        raise InputError("no studies here", where=url, fix="run `autoreap search` first, or from its folder")
    known = study_names(url)
    if name not in known:
        raise InputError(f"no study {name!r}", where=shown(url), fix=f"known: {', '.join(known) or 'none'}")
    study = optuna.load_study(study_name=name, storage=open_storage(url))
    if "objectives" not in study.user_attrs:  # all else that is read here is checked before it is stored
        problem = "has no objectives: another program has made it, or its search ended before it began"
        raise InputError(problem, where=f"study {name}", fix="name a study of `autoreap search`")
    return study


def study_names(storage: str) -> list[str]:
    """All studies in a storage; `InputError` if it can't be opened."""
    try:
        return list(optuna.get_all_study_names(storage))
    except Exception as error:  # whatever the database's driver raises
        raise cannot_open(storage, error) from None


def objectives_of(study: optuna.Study) -> dict[str, str]:
    """Objective names and directions, in the order of a trial's values."""
    names: dict[str, str] = study.user_attrs["objectives"]
    return names


def points_of(study: optuna.Study) -> list[Point]:
    """Every completed trial, in order."""
    names = list(objectives_of(study))
    return [_point(trial, names) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


def _point(trial: FrozenTrial, names: Sequence[str]) -> Point:
    result = trial.user_attrs[RESULT]
    return Point(
        trial=trial.number,
        params=trial.params,
        values=dict(zip(names, trial.values, strict=True)),
        metrics=result["metrics"],
        size_bytes=result["size_bytes"],
        plan_digest=result["plan_digest"],
        duplicate_of=result.get("duplicate_of"),
        broken=broken_of(trial.constraints),
    )


def broken_of(constraints: Mapping[str, float]) -> dict[str, float]:
    """Those of a trial's constraints that it breaks."""
    return {text: violation for text, violation in constraints.items() if violation > 0}


class Became(StrEnum):
    """What can become of a trial; `REPEAT` has a plan that was scored before."""

    SCORED = "scored"
    REPEAT = "repeat"
    INFEASIBLE = "infeasible"
    RACED = "raced"
    SCREENED = "screened"
    FAILED = "failed"
    CUT_OFF = "cut off"
    RUNNING = "running"
    WAITING = "waiting"


@dataclass(frozen=True)
class Fate:
    """What became of a trial, why where that is not plain, and the trial whose plan it repeats."""

    became: Became
    reason: str | None = None
    twin: int | None = None


def is_cut_off(trial: FrozenTrial) -> bool:
    """Whether it failed without a reason: a kill, a signal or a dead machine ended it."""
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


def fate_of(trial: FrozenTrial) -> Fate:
    """What became of `trial`. Its state decides: attributes may have been set just before a kill."""
    known = trial.user_attrs
    match trial.state:
        case TrialState.COMPLETE:
            twin = known[RESULT].get("duplicate_of")
            return Fate(Became.SCORED if twin is None else Became.REPEAT, twin=twin)
        case TrialState.PRUNED if INFEASIBLE in known:
            return Fate(Became.INFEASIBLE, known[INFEASIBLE])
        case TrialState.PRUNED:
            became, verdict = (Became.RACED, known[RACED]) if RACED in known else (Became.SCREENED, known[SCREENED])
            return Fate(became, verdict["reason"], verdict.get("duplicate_of"))
        case TrialState.FAIL:
            return Fate(Became.CUT_OFF) if is_cut_off(trial) else Fate(Became.FAILED, known[ERROR])
        case TrialState.RUNNING:
            return Fate(Became.RUNNING)
    return Fate(Became.WAITING)


def plan_of(study: optuna.Study, number: int) -> PruningPlan:
    """The exact plan that trial `number` scored."""
    for trial in study.get_trials(deepcopy=False):
        if trial.number == number:
            if trial.state != TrialState.COMPLETE:  # a plan is also kept of a trial that failed
                fate = fate_of(trial)
                reason = fate.reason or fate.became
                fix = f"`autoreap pareto {study.study_name}` lists those that were, and are best"
                raise InputError(f"trial {number} was not scored: {reason}", where=f"study {study.study_name}", fix=fix)
            return plan_from_dict(trial.user_attrs[PLAN], where=f"trial {number}")
    fix = f"`autoreap show {study.study_name}` lists them"
    raise InputError(f"has no trial {number}", where=f"study {study.study_name}", fix=fix)


def trials_folder(study: str, root: Path = DEFAULT_ROOT) -> Path:
    """Where the files of each trial of `study` are, in a folder of its number; those of the baseline in `baseline`."""
    return root / "trials" / study


def outcomes_path(study: optuna.Study, number: int | None, root: Path = DEFAULT_ROOT) -> Path:
    """Where the outcomes of trial `number` lie, or of the one that had scored the same plan; None: of the baseline.

    Raises:
        InputError: there is no such trial, or it was not scored.
    """
    folder = trials_folder(study.study_name, root)
    if number is None:
        return folder / "baseline" / OUTCOMES_NAME
    plan_of(study, number)
    result = study.get_trials(deepcopy=False)[number].user_attrs[RESULT]
    return folder / str(result.get("duplicate_of", number)) / OUTCOMES_NAME
