"""Small studies as a search leaves them: every kind of end, with answers on disk where they are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from builders import SHAPE, saliency_of
from optuna.trial import TrialState

from autoreap.candidate import Candidate
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.plan import BaseModel, ModelShape, PruningPlan
from autoreap.planning import make_plan
from autoreap.scores import NO_DIFFERENCE, Counts, Difference, Metric
from autoreap.search import records
from autoreap.search.non_inferiority import quality_task
from autoreap.search.records import ScoredModel, StudyRecord, read_study

BASELINE_BYTES = 70 * 10**9
GONE = BaseModel("test/model", "0123456789abcdef")
OBJECTIVES = {"size_bytes": "minimize", "wer": "minimize"}


def new_study(
    objectives: Mapping[str, str] | None = None,
    name: str = "night",
    *,
    storage: str | None = None,
    baseline: Mapping[str, Metric] | None = None,
    constraints: Sequence[str] = (),
) -> optuna.Study:
    """A study with a baseline of 10% and no trial."""
    objectives = objectives or OBJECTIVES
    directions: list[Any] = list(objectives.values())
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, sampler=sampler)
    records.record_identity(study, {"objectives": dict(objectives), "constraints": list(constraints)})
    metrics = {metric: rate(0.1) for metric in objectives if metric != "size_bytes"}
    metrics["size_4bit_bytes"] = Metric.static(BASELINE_BYTES // 3)
    records.record_baseline(study, ScoredModel(baseline or metrics, BASELINE_BYTES))
    return study


def rate(value: float) -> Metric:
    """A measured rate of 1,000 words, with an interval of a point on either side."""
    low, high = max(value - 0.01, 0.0), value + 0.01
    return Metric(value, low, high, round(1000 * value), 1000, num_samples=100, num_failed=0)


def plan_of(seed: int, shape: ModelShape = SHAPE, base: BaseModel = GONE) -> PruningPlan:
    """Half of the experts, drawn by `seed`."""
    candidate = Candidate(retention=0.5, layers_cut=1, saliency="random", seed=seed)
    return make_plan(candidate, saliency_of(shape, fingerprint=base.fingerprint), shape, base)


def add_trial(  # noqa: PLR0913  # a test states what is special about its trial, and nothing else
    study: optuna.Study,
    values: Sequence[float],
    *,
    plan: PruningPlan | None = None,
    preset: str | None = None,
    metrics: Mapping[str, Metric] | None = None,
    violations: Mapping[str, float] | None = None,
    against_baseline: Mapping[str, Difference] | None = None,
    duplicate_of: int | None = None,
) -> int:
    """A scored trial; `values` are those of the objectives, sizes in GB."""
    if preset:
        study.enqueue_trial({}, user_attrs={"preset": preset})
    trial = study.ask()
    retention = trial.suggest_float("retention", 0, 1)
    trial.suggest_float("beta", 0, 2)
    plan = plan or plan_of(trial.number)
    names = list(objectives_of(study))
    known = dict(zip(names, values, strict=True))
    if "size_bytes" in known:
        known["size_bytes"] *= 1e9
    measured = {name: rate(value) for name, value in known.items() if name != "size_bytes"}
    measured["size_4bit_bytes"] = Metric.static(round(known.get("size_bytes", 1e9 * retention) / 3))
    records.record_plan(trial, plan, plan.digest())
    for text, violation in (violations or {}).items():
        trial.set_constraint(text, violation)
    scored = ScoredModel(metrics or measured, round(known.get("size_bytes", 1e9)))
    values = list(known.values())
    if against_baseline is None:
        against_baseline = differences(study, scored.metrics)
    records.record_result(study, trial, values, scored, against_baseline, seconds=60.0, duplicate_of=duplicate_of)
    return trial.number


def differences(study: optuna.Study, metrics: Mapping[str, Metric]) -> dict[str, Difference]:
    """To the baseline, with an interval of half a point on either side."""
    baseline = records.read_baseline(study)
    assert baseline is not None
    found = {}
    for name, metric in metrics.items():
        if quality_task(name) and name in baseline.metrics:
            value = metric.value - baseline.metrics[name].value
            found[name] = Difference(value, value - 0.005, value + 0.005, NO_DIFFERENCE)
    return found


def objectives_of(study: optuna.Study) -> dict[str, str]:
    identity = records.read_identity(study)
    assert identity is not None
    objectives: dict[str, str] = identity["objectives"]
    return objectives


def add_ends(study: optuna.Study) -> dict[str, int]:
    """A trial of each kind that has no score, by its status."""
    pruned = {
        "incumbent": 0,
        "reason": "dominated by trial 0",
        "num_scored": 40,
        "num_utterances": 100,
        "seconds": 7.5,
        "counts": {},
    }
    numbers = {}
    for status in ("pruned", "infeasible", "failed", "interrupted"):
        trial = study.ask()
        trial.suggest_float("retention", 0, 1)
        numbers[status] = trial.number
        if status == "pruned":
            records.record_plan(trial, plan_of(trial.number), plan_of(trial.number).digest())
            records.record_pruned(study, trial, pruned)
        elif status == "infeasible":
            trial.set_constraint("size <= 20 GB", 0.5)
            records.record_infeasible(study, trial, "size <= 20 GB (it is 30.00 GB)")
        elif status == "failed":
            records.record_failure(study, trial, "ScoringError: <b>nothing</b> was scored")
        else:
            study.tell(trial, state=TrialState.FAIL)
    return numbers


def read(study: optuna.Study) -> StudyRecord:
    """What a reader makes of it."""
    return read_study(study)


def save_answers(folder: Path, answers: Mapping[str, str], reference: str, file: str = "outcomes.jsonl") -> None:
    """Transcripts by id, all of one reference; as many errors as words differ in place."""
    said = reference.split()
    outcomes = []
    for name, output in answers.items():
        errors = sum(a != b for a, b in zip(said, output.split(), strict=True))
        outcomes.append(Outcome(name, output, reference, Counts(errors, len(said)), failed=False, language="en"))
    Evaluation({"wer": tuple(outcomes)}, 0.0).save_outcomes(folder / file)
