"""Small studies as a search leaves them: every kind of end, with answers on disk where they are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from builders import SHAPE, saliency_of
from optuna.trial import TrialState

from autoreap.candidate import Candidate
from autoreap.outcomes import Evaluation, Outcome
from autoreap.plan import BaseModel, ModelShape, PruningPlan
from autoreap.planning import make_plan
from autoreap.scores import Counts, exact
from autoreap.study.trials import ERROR, INFEASIBLE, PLAN, RACED, RESULT, SCREENED

BASELINE_BYTES = 70 * 10**9
GONE = BaseModel("test/model", "0123456789abcdef")


def new_study(objectives: Mapping[str, str] | None = None, name: str = "night") -> optuna.Study:
    """A study with a baseline of 10% and no trial."""
    objectives = objectives or {"size_bytes": "minimize", "wer": "minimize"}
    directions: list[Any] = list(objectives.values())
    study = optuna.create_study(study_name=name, directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_user_attr("objectives", dict(objectives))
    metrics = {metric: rate(0.1) for metric in objectives if metric != "size_bytes"}
    metrics["size_4bit_bytes"] = exact(BASELINE_BYTES // 3)
    study.set_user_attr("baseline", {"metrics": metrics, "size_bytes": BASELINE_BYTES})
    return study


def rate(value: float) -> dict[str, Any]:
    """A measured rate of 1,000 words, with an interval of a point on either side."""
    counts = {"numerator": round(1000 * value), "denominator": 1000, "num_samples": 100, "num_failed": 0}
    return {"value": value, "low": max(value - 0.01, 0.0), "high": value + 0.01, **counts}


def plan_of(seed: int, shape: ModelShape = SHAPE, base: BaseModel = GONE) -> PruningPlan:
    """Half of the experts, drawn by `seed`."""
    candidate = Candidate(retention=0.5, layers_cut=1, saliency="random", seed=seed)
    return make_plan(candidate, saliency_of(shape, fingerprint=base.fingerprint), shape, base)


def add_trial(
    study: optuna.Study,
    values: Sequence[float],
    *,
    plan: PruningPlan | None = None,
    preset: str | None = None,
    **result: Any,
) -> int:
    """A scored trial; `values` are those of the objectives, sizes in GB."""
    trial = study.ask()
    if preset:
        trial.set_user_attr("preset", preset)
    retention = trial.suggest_float("retention", 0, 1)
    trial.suggest_float("beta", 0, 2)
    plan = plan or plan_of(trial.number)
    names: list[str] = list(study.user_attrs["objectives"])
    scaled = [value * (1e9 if name == "size_bytes" else 1) for name, value in zip(names, values, strict=True)]
    known = dict(zip(names, scaled, strict=True))
    metrics = {name: rate(value) for name, value in known.items() if name != "size_bytes"}
    metrics["size_4bit_bytes"] = exact(round(known.get("size_bytes", 1e9 * retention) / 3))
    trial.set_user_attr(PLAN, plan.as_dict())
    found = {"metrics": metrics, "size_bytes": round(known.get("size_bytes", 1e9)), "plan_digest": plan.digest()}
    trial.set_user_attr(RESULT, {**found, "seconds": 60.0, **result})
    study.tell(trial, scaled)
    return trial.number


def add_ends(study: optuna.Study) -> dict[str, int]:
    """A trial of each kind that has no score, by its state in the report."""
    raced = {"rival": 0, "reason": "trial 0 is better", "num_scored": 40, "num_utterances": 100, "seconds": 7.5}
    ends: list[tuple[str, str | None, Any]] = [
        ("raced", RACED, raced),
        ("screened", SCREENED, {"surprise": {"wer": 1.0}, "seconds": 1.5, "reason": "trial 0 is less surprised"}),
        ("infeasible", INFEASIBLE, "size <= 20 GB (it is 30.00 GB)"),
        ("failed", ERROR, "ScoringError: <b>nothing</b> was scored"),
        ("cut off", None, None),
    ]
    numbers = {}
    for state, attribute, value in ends:
        trial = study.ask()
        trial.suggest_float("retention", 0, 1)
        if attribute:
            trial.set_user_attr(attribute, value)
        if state == "infeasible":
            trial.set_constraint("size <= 20 GB", 0.5)
        study.tell(trial, state=TrialState.FAIL if state in ("failed", "cut off") else TrialState.PRUNED)
        numbers[state] = trial.number
    return numbers


def save_answers(folder: Path, answers: Mapping[str, str], reference: str, file: str = "outcomes.jsonl") -> None:
    """Transcripts by id, all of one reference; as many errors as words differ in place."""
    said = reference.split()
    outcomes = []
    for name, output in answers.items():
        errors = sum(a != b for a, b in zip(said, output.split(), strict=True))
        outcomes.append(Outcome(name, output, reference, Counts(errors, len(said)), failed=False, language="en"))
    Evaluation({"wer": tuple(outcomes)}, 0.0).save_outcomes(folder / file)
