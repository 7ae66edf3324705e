"""Write the checkpoint that a search ends with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from autoreap.comparison.comparison import compare_outcomes
from autoreap.described import Described
from autoreap.jobs.answers import answers_of_trial
from autoreap.materialise import materialise
from autoreap.outcomes import load_outcomes
from autoreap.plan import PruningPlan, load_plan
from autoreap.scores import Difference
from autoreap.study.selection import select
from autoreap.study.trials import outcomes_path, plan_of
from autoreap.writing.behaviour import check_behaviour
from autoreap.writing.verification import Verified


@dataclass(frozen=True)
class Shipped:
    """A trial's checkpoint.

    Attributes:
        trial, reason: which one, and why.
        verified: how its answers compare with the trial's.
        metrics: its scores as plain values.
        against_baseline: for each metric how it fares against the unpruned model, paired over the utterances.
    """

    trial: int
    reason: str
    path: Path
    verified: Verified
    metrics: Mapping[str, Mapping[str, Any]]
    against_baseline: Mapping[str, Difference]


def ship(study: optuna.Study, rule: str, described: Described, root: Path) -> Shipped:
    """Materialise the trial that `rule` selects; loaded by the stock class it must answer as the trial did.

    Raises:
        VerificationError: the checkpoint answers one utterance otherwise than the trial did.
    """
    point, reason = select(study, rule)
    plan = plan_of(study, point.trial)
    path = root / "checkpoints" / f"{study.study_name}-trial-{point.trial}"
    expected = answers_of_trial(study, point.trial, root)
    if _holds(path, plan):
        verified = check_behaviour(path, expected, carried=0)
    else:
        facts = {"metrics": point.metrics, "trial": f"{study.study_name}/{point.trial}"}
        behaviour = partial(check_behaviour, expected=expected)
        written = materialise(described.checkpoint.path, plan, path, facts=facts, behaviour=behaviour)
        verified = written.record.behaviour
    baseline = load_outcomes(outcomes_path(study, None, root))
    against_baseline = {
        metric: measured.difference
        for metric, measured in compare_outcomes(baseline, expected.outcomes).metrics.items()
    }
    return Shipped(point.trial, reason, path, verified, point.metrics, against_baseline)


def _holds(path: Path, plan: PruningPlan) -> bool:
    """Whether a search that was resumed has shipped this very plan before."""
    return (path / "plan.json").is_file() and load_plan(path / "plan.json").digest() == plan.digest()
