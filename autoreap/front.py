"""Reading a study: its points and the Pareto front. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoreap.constraints import EXACT
from autoreap.errors import InputError
from autoreap.plan import PruningPlan, plan_from_dict
from autoreap.scores import exact
from autoreap.storage import cannot_open, open_storage, shown
from autoreap.wording import metric_text

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
    return optuna.load_study(study_name=name, storage=open_storage(url))


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


def pareto(points: Sequence[Point], objectives: Mapping[str, str]) -> list[Point]:
    """The points that no other one matches in every objective and beats in one, smallest first.

    Only points that keep every constraint count. Of points with equal plans the first counts; a value that is not
    finite never gets here.
    """
    distinct = [
        point for point in _distinct(points) if not point.broken and all(map(math.isfinite, point.values.values()))
    ]
    costs = {point.trial: _costs(point, objectives) for point in distinct}

    def dominated(point: Point) -> bool:
        own = costs[point.trial]
        return any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in costs.values())

    front = [point for point in distinct if not dominated(point)]
    return sorted(front, key=lambda point: (point.size_bytes, point.trial))


def best_so_far(points: Sequence[Point], objectives: Mapping[str, str]) -> str:
    """The front in a few words: `front 6, best wer 2.31%`."""
    words = [f"front {len(pareto(points, objectives))}"]
    for name, direction in objectives.items():
        kept = [point for point in points if not point.broken]
        if kept and name not in EXACT:
            values = [point.values[name] for point in kept]
            best = exact(min(values) if direction == "minimize" else max(values))
            words.append(f"best {name} {metric_text(name, best)}")
    return ", ".join(words)


def nearest(points: Sequence[Point], number: int = 5) -> list[Point]:
    """The `number` points that are least far beyond the constraints, nearest first."""
    return sorted(_distinct(points), key=lambda point: (sum(point.broken.values()), point.trial))[:number]


def _distinct(points: Sequence[Point]) -> list[Point]:
    """The first point of each plan."""
    first = {point.plan_digest: point.trial for point in reversed(points)}
    return [point for point in points if first[point.plan_digest] == point.trial]


def empty_front(study: optuna.Study) -> str:
    """Why the front of `study` is empty, in words."""
    closest = nearest(points_of(study), 1)
    if closest:
        broken = broken_text(closest[0])
        return f"no trial keeps every constraint; nearest is trial {closest[0].trial}, which breaks {broken}"
    reasons = [
        f"; trial {trial.number} breaks {trial.user_attrs[INFEASIBLE]}"
        for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        if INFEASIBLE in trial.user_attrs
    ]
    return f"has no finished trial yet{reasons[-1] if reasons else ''}"


def broken_text(point: Point) -> str:
    """The constraints that `point` breaks, and by how much."""
    return " and ".join(f"{text} by {violation:.0%} of the bound" for text, violation in point.broken.items())


def _costs(point: Point, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The objective values, all to be minimised."""
    return tuple(
        point.values[name] if direction == "minimize" else -point.values[name] for name, direction in objectives.items()
    )


def drawn_metric(study: optuna.Study) -> str:
    """What a picture shows against size: the WER if there is one, else the first objective that is another score."""
    measured = study.user_attrs["baseline"]["metrics"]
    objectives = [name for name in objectives_of(study) if name in measured]
    return "wer" if "wer" in measured else [*objectives, *measured][0]


def log_costs(point: Point, objectives: Mapping[str, str]) -> list[float]:
    """Logarithms of the objectives, of 1 - value where more is better; an error of zero counts as half of one.

    Sizes, times and error rates are compared by ratio. On a linear scale one candidate that babbles, at a WER of 200%,
    would make 26% look as good as 2%.
    """
    costs: list[float] = []
    for name, direction in objectives.items():
        value = point.values[name] if direction == "minimize" else 1 - point.values[name]
        costs.append(math.log(max(value, least_error(point.metrics.get(name, {})))))
    return costs


def least_error(measured: Mapping[str, Any]) -> float:
    """Half of one error of all that were counted, which stands for none at all where errors are compared by ratio."""
    return 0.5 / float(measured.get("denominator", 1e9))


def reason_of(trial: FrozenTrial) -> str | None:
    """Why `trial` was not scored, as its user attributes say; None where they don't."""
    known = trial.user_attrs
    stopped = {**known.get(SCREENED, {}), **known.get(RACED, {})}
    reason: str | None = known.get(ERROR, known.get(INFEASIBLE, stopped.get("reason")))
    return reason


def plan_of(study: optuna.Study, number: int) -> PruningPlan:
    """The exact plan that trial `number` scored."""
    for trial in study.get_trials(deepcopy=False):
        if trial.number == number:
            if trial.state != TrialState.COMPLETE:  # a plan is also kept of a trial that failed
                reason = reason_of(trial) or trial.state.name.lower()
                raise InputError(f"trial {number} was not scored: {reason}", where=f"study {study.study_name}")
            return plan_from_dict(trial.user_attrs[PLAN], where=f"trial {number}")
    raise InputError(f"has no trial {number}", where=f"study {study.study_name}")


def outcomes_path(study: optuna.Study, number: int | None, root: Path = DEFAULT_ROOT) -> Path:
    """Where the outcomes of trial `number` lie, or of the one that had scored the same plan; None: of the baseline.

    Raises:
        InputError: there is no such trial, or it was not scored.
    """
    folder = root / "trials" / study.study_name
    if number is None:
        return folder / "baseline" / "outcomes.jsonl"
    plan_of(study, number)
    result = study.get_trials(deepcopy=False)[number].user_attrs[RESULT]
    return folder / str(result.get("duplicate_of", number)) / "outcomes.jsonl"
