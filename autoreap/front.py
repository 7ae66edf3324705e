"""Reading a study: its points, the Pareto front, and the rules that pick one point. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoreap.errors import InputError
from autoreap.plan import PruningPlan, plan_from_dict
from autoreap.storage import cannot_open, shown
from autoreap.wording import size_text

RESULT = "autoreap.result"  # user attribute of a finished trial: metrics, size, digest, seconds
PLAN = "autoreap.plan"
ERROR = "autoreap.error"
DEFAULT_ROOT = Path("mlruns")
SCORING = "scoring"  # of a study: the evals file and the batch size, by which a checkpoint is compared


@dataclass(frozen=True)
class Point:
    """One scored trial. `values` are the objectives by name; `metrics` hold every score with its interval."""

    trial: int
    params: Mapping[str, Any]
    values: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Any]]
    size_bytes: int
    plan_digest: str
    duplicate_of: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `autoreap pareto --json` prints it."""
        return {"trial": self.trial, "params": self.params, "metrics": self.metrics, "size_bytes": self.size_bytes}


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
    return optuna.load_study(study_name=name, storage=url)


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
    )


def pareto(points: Sequence[Point], objectives: Mapping[str, str]) -> list[Point]:
    """The points that no other one matches in every objective and beats in one, smallest first.

    Of points with equal plans the first counts; a value that is not finite never gets here.
    """
    first = {point.plan_digest: point.trial for point in reversed(points)}
    distinct = [
        point
        for point in points
        if first[point.plan_digest] == point.trial and all(map(math.isfinite, point.values.values()))
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
        if points and name != "size_bytes":
            values = [point.values[name] for point in points]
            words.append(f"best {name} {min(values) if direction == 'minimize' else max(values):.2%}")
    return ", ".join(words)


def _costs(point: Point, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The objective values, all to be minimised."""
    return tuple(
        point.values[name] if direction == "minimize" else -point.values[name] for name, direction in objectives.items()
    )


def select(
    study: optuna.Study, rule: str, *, max_wer_increase: float | None = None, max_size_bytes: float | None = None
) -> tuple[Point, str]:
    """The front's point that `rule` picks, and why in words.

    Args:
        rule: `knee` (nearest to the ideal corner, on log scales, each scaled to the front's range), `smallest` (the
            smallest with a WER of at most the baseline's plus `max_wer_increase`, in points), or `best` (the lowest WER
            of at most `max_size_bytes`).
    """
    objectives = objectives_of(study)
    front = pareto(points_of(study), objectives)
    if not front:
        raise InputError("has no finished trial to select", where=f"study {study.study_name}", fix="search longer")
    if rule == "knee":
        point = min(front, key=lambda candidate: _distance_to_ideal(candidate, front, objectives))
        return point, f"nearest to the ideal corner of {' and '.join(objectives)} on log scales"
    if rule == "smallest":
        if max_wer_increase is None:
            raise InputError("needs --max-wer-increase", where="--rule smallest", fix="for example 0.5 (points)")
        baseline = study.user_attrs["baseline"]["metrics"]["wer"]["value"]
        bound = baseline + max_wer_increase / 100
        return _first(
            [point for point in front if _wer(point) <= bound],
            f"smallest with a WER of at most {bound:.2%} (baseline {baseline:.2%} + {max_wer_increase:g} points)",
        )
    if rule == "best":
        if max_size_bytes is None:
            raise InputError("needs --max-size", where="--rule best", fix="for example 20GB")
        small_enough = sorted((p for p in front if p.size_bytes <= max_size_bytes), key=_wer)
        return _first(small_enough, f"lowest WER of at most {size_text(max_size_bytes)}")
    raise InputError(f"unknown rule {rule!r}", where="--rule", fix="knee, smallest or best")


def _first(fitting: Sequence[Point], reason: str) -> tuple[Point, str]:
    if not fitting:
        raise InputError(f"no point of the front is: {reason}", where="select", fix="relax the bound, or search longer")
    return fitting[0], reason


def _wer(point: Point) -> float:
    if "wer" not in point.metrics:
        raise InputError("this study did not measure wer", where="--rule", fix="select the knee")
    return float(point.metrics["wer"]["value"])


def _distance_to_ideal(point: Point, front: Sequence[Point], objectives: Mapping[str, str]) -> float:
    columns = list(zip(*(_log_costs(other, objectives) for other in front), strict=True))
    scaled = [
        (cost - min(column)) / (max(column) - min(column)) if max(column) > min(column) else 0.0
        for cost, column in zip(_log_costs(point, objectives), columns, strict=True)
    ]
    return math.hypot(*scaled)


def _log_costs(point: Point, objectives: Mapping[str, str]) -> list[float]:
    """Logarithms of the objectives, of 1 - value where more is better; an error of zero counts as half of one.

    Sizes, times and error rates are compared by ratio. On a linear scale one candidate that babbles, at a WER of 200%,
    would make 26% look as good as 2%.
    """
    costs: list[float] = []
    for name, direction in objectives.items():
        value = point.values[name] if direction == "minimize" else 1 - point.values[name]
        denominator = point.metrics[name]["denominator"] if name in point.metrics else 1e9
        costs.append(math.log(max(value, 0.5 / denominator)))
    return costs


def plan_of(study: optuna.Study, number: int) -> PruningPlan:
    """The exact plan that trial `number` scored."""
    for trial in study.get_trials(deepcopy=False):
        if trial.number == number:
            if trial.state != TrialState.COMPLETE:  # a plan is also kept of a trial that failed
                reason = trial.user_attrs.get(ERROR, trial.state.name.lower())
                raise InputError(f"trial {number} was not scored: {reason}", where=f"study {study.study_name}")
            return plan_from_dict(trial.user_attrs[PLAN], where=f"trial {number}")
    raise InputError(f"has no trial {number}", where=f"study {study.study_name}")
