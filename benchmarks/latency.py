"""How fast the embedded model answers under some plans, how repeatable that is, and whether a mask is timed truly.

    OMP_NUM_THREADS=1 python benchmarks/latency.py [--repeats 3]

Each plan is timed twice, in turns with the unpruned model, on 16 utterances of evals/tiny.yaml: the second ratio says
how repeatable the first is. Then its checkpoint is written and loaded by the stock class, and it and the mask are timed
in turns. Wall-clock time on one thread; about two minutes on an idle core.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoreap.data.eval_set import open_evals
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.latency import NUM_UTTERANCES, Stopwatch, paired_ratio
from autoreap.formatting import metric_text
from autoreap.masking import masked
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import ComponentPlan, PruningPlan
from autoreap.writing.footprint import Footprint
from autoreap.writing.materialiser import materialise

EVALS = Path(__file__).parent.parent / "evals" / "tiny.yaml"
COLUMNS = ("first_token_seconds", "first_token_ratio", "real_time_factor", "real_time_factor_ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each utterance by either side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load(open_model("tiny"))
    evaluator = Evaluator(loaded.model, loaded.inputs, open_evals(EVALS).search)
    stopwatch = Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(NUM_UTTERANCES), num_repeats=options.repeats)
    print(f"torch {torch.__version__}, 16 utterances, {options.repeats} repeats\n")
    print(f"| | {' | '.join(COLUMNS)} | first_token_ratio again | mask / checkpoint |\n{'|---' * 7}|", flush=True)
    for name, plan in plans(loaded).items():
        first, again = (
            stopwatch.measure(plan, Footprint.of(loaded.model_info.checkpoint, plan).size_bytes()) for _ in "12"
        )
        cells = [metric_text(column, first[column]) for column in COLUMNS]
        cells.append(metric_text("first_token_ratio", again["first_token_ratio"]))
        cells.append(
            "" if plan is None else mask_against_checkpoint(loaded, evaluator, stopwatch, plan, options.repeats)
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def plans(loaded: Loaded) -> dict[str, PruningPlan | None]:
    """Of the first experts and of chosen layers: time does not depend on which."""
    whole = ComponentPlan.identity(loaded.model_info.shape.components["thinker"])
    half = tuple(kept[: len(kept) // 2] for kept in whole.experts)

    def plan(thinker: ComponentPlan) -> PruningPlan:
        return PruningPlan(loaded.model_info.base_model, True, thinker)

    return {
        "unpruned": None,
        "half of the experts": plan(ComponentPlan(half, whole.layers)),
        "one active expert of two": replace(plan(whole), active_experts=1),
        "one of eight layers cut": plan(ComponentPlan(whole.experts, (0, 1, 2, 3, 5, 6, 7))),
        "two cut": plan(ComponentPlan(whole.experts, (0, 1, 3, 5, 6, 7))),
        "four cut": plan(ComponentPlan(whole.experts, (0, 1, 6, 7))),
    }


def mask_against_checkpoint(
    loaded: Loaded, evaluator: Evaluator, stopwatch: Stopwatch, plan: PruningPlan, repeats: int
) -> str:
    """First token under the mask over that of the checkpoint written from the plan, in turns; answers must be equal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned"
        materialise(loaded.model_info.checkpoint.path, plan, path)
        pruned = load(open_model(str(path)))
        other = Stopwatch(pruned.model, pruned.inputs, evaluator.prompts(NUM_UTTERANCES), num_repeats=repeats)
        seconds: dict[str, list[float]] = {"mask": [], "checkpoint": []}
        for repeat in range(repeats + 1):
            for encoded, bound in other.utterances:
                written: Any = other.answer(encoded, bound)
                with masked(loaded.model, plan):
                    under_mask = stopwatch.answer(encoded, bound)
                assert under_mask.tokens == written.tokens
                if repeat:  # the first round warms up
                    seconds["mask"].append(under_mask.first_token_seconds)
                    seconds["checkpoint"].append(written.first_token_seconds)
    ratio = paired_ratio(np.array(seconds["mask"]), np.array(seconds["checkpoint"]))
    return metric_text("first_token_ratio", ratio)


if __name__ == "__main__":
    main()
