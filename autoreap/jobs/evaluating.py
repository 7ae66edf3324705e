"""Score a model on an evals file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from autoreap.config.evals import load_evals
from autoreap.data.evals_data import read_task
from autoreap.described import Described, Loaded, load
from autoreap.evaluate import Evaluator
from autoreap.objective import costs
from autoreap.outcomes import Evaluation
from autoreap.plan import PruningPlan
from autoreap.scoring.latency import NUM_UTTERANCES, Stopwatch
from autoreap.sizing.footprint import Footprint


def evaluated(
    described: Described,
    evals: Path,
    plan: PruningPlan | None = None,
    *,
    latency: bool = False,
    likelihoods: bool = False,
    **options: Any,
) -> Evaluation:
    """Score the model, under `plan` if there is one.

    Args:
        described: the model.
        evals: an evals file.
        plan: what is masked.
        latency: time answers, too, in turns with the unpruned model.
        likelihoods: measure those of the references, too.
        options: of `evaluator_of`.
    """
    loaded, evaluator = evaluator_of(described, evals, **options)
    stopwatch = Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(NUM_UTTERANCES)) if latency else None
    evaluation = evaluator.run(plan, likelihoods=likelihoods)
    if stopwatch is None:
        return evaluation
    return replace(evaluation, costs=costs(Footprint.of(described.checkpoint, plan), plan, stopwatch))


def evaluator_of(
    described: Described,
    evals: Path,
    *,
    split: str = "search",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
) -> tuple[Loaded, Evaluator]:
    """The model in memory, with what scores it."""
    config = load_evals(evals)
    for task in config.splits[split]:
        read_task(task, evals.parent)  # a broken row is found before a model is loaded
    loaded = load(described, device=device, dtype=dtype)
    return loaded, Evaluator(loaded.model, loaded.inputs, config, split=split, batch_size=batch_size)
