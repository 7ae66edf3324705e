"""What a smaller top-k changes in a random thinker of 128 experts, and the time it saves; of the 30B the arithmetic.

    OMP_NUM_THREADS=1 python benchmarks/active_experts.py

The thinker of benchmarks/calibration.py, top-8, float32, random tokens. How much is lost follows from how evenly the
router weighs its eight experts, so two routers are tried, the second with logits twice as wide. "Kept" is the share of
the eight weights that the best k hold before they are renormalised, errors are of the last hidden states, KL is of the
next token's distribution, in nats, from top-8. Prefill is of 512 tokens, a step of one token after them. CPU time on
one thread, arms in turns, medians. What the embedded model answers: `benchmarks/bits.py --part active`.
"""

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from autoreap.dimensions.routing import choosing
from calibration import Bench

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))

from builders import write_sparse_checkpoint  # noqa: E402
from random_models import real_config  # noqa: E402

from autoreap.models.checkpoint import open_checkpoint  # noqa: E402
from autoreap.models.families import family_of  # noqa: E402
from autoreap.plan import BaseModel, ComponentPlan, PruningPlan  # noqa: E402
from autoreap.writing.footprint import Footprint  # noqa: E402

TOP_K = (8, 7, 6, 4, 2)
NUM_TOKENS, REPETITIONS = 512, 9


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bench = Bench(torch.float32, "grouped_mm")
    print(
        f"torch {torch.__version__}\n\n| router | top-k | kept | relative error | KL | same best token |\n|{'---|' * 6}"
    )
    tokens = torch.randint(0, 1000, (4, NUM_TOKENS))
    for width in (1, 2):
        print_errors(bench, tokens, f"{width} times")
        for layer in bench.layers:
            layer.mlp.gate.weight.data.mul_(2)
    print_times(bench, tokens[:1])
    print_arithmetic()


def top_k(bench: Bench, k: int) -> ExitStack:
    """Every layer routes a token to `k` experts while the context lasts."""
    stack = ExitStack()
    for layer in bench.layers:
        stack.enter_context(choosing(layer.mlp.gate, k))
    return stack


def print_errors(bench: Bench, tokens: torch.Tensor, router: str) -> None:
    scores: list[torch.Tensor] = []
    watch = [layer.mlp.gate.register_forward_hook(lambda _, __, out: scores.append(out[1])) for layer in bench.layers]
    reference = bench.thinker.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    for handle in watch:
        handle.remove()
    weights = torch.cat([score.sort(-1, descending=True).values for score in scores])
    expected = bench.thinker.lm_head(reference).log_softmax(-1)
    for k in TOP_K:
        with top_k(bench, k):
            hidden = bench.thinker.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        got = bench.thinker.lm_head(hidden).log_softmax(-1)
        error = (hidden - reference).norm() / reference.norm()
        divergence = (expected.exp() * (expected - got)).sum(-1).mean()
        same = (got.argmax(-1) == expected.argmax(-1)).float().mean()
        kept = weights[:, :k].sum(-1).mean()
        print(f"| {router} | {k} | {kept:.3f} | {error:.3f} | {divergence:.5f} | {same:.1%} |", flush=True)


def print_times(bench: Bench, tokens: torch.Tensor) -> None:
    seconds: dict[tuple[int, str], list[float]] = {}
    for repetition in range(REPETITIONS + 1):
        for k in TOP_K:
            with top_k(bench, k):
                started = time.process_time()
                cache: Any = bench.thinker.base_model(input_ids=tokens, use_cache=True).past_key_values
                filled = time.process_time()
                bench.thinker.base_model(input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)
                ended = time.process_time()
            if repetition:  # the first warms up
                seconds.setdefault((k, "prefill"), []).append(filled - started)
                seconds.setdefault((k, "step"), []).append(ended - filled)
    median = {arm: statistics.median(values) for arm, values in seconds.items()}
    print(f"\n| top-k | prefill, ms | over top-8 | step, ms | over top-8 |\n|{'---|' * 5}")
    for k in TOP_K:
        cells = [f"{1000 * median[k, arm]:.1f} | {median[k, arm] / median[8, arm]:.2f}" for arm in ("prefill", "step")]
        print(f"| {k} | {' | '.join(cells)} |", flush=True)


def print_arithmetic() -> None:
    config = real_config()
    layout = family_of(config).layout
    shape = layout.shape(config)
    print(f"\n| top-k at 30B | active parameters, billion | over top-8 |\n|{'---|' * 3}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_sparse_checkpoint(Path(folder), config, layout.expected_tensors(config)))
        whole = ComponentPlan.identity(shape.components["thinker"])
        plan = PruningPlan(BaseModel("30B", checkpoint.fingerprint), False, whole, drop_speech=True)
        all_of_them = Footprint.of(checkpoint, plan).active_parameters
        for k in TOP_K:
            fewer = PruningPlan(plan.base_model, False, whole, drop_speech=True, active_experts=k)
            active = Footprint.of(checkpoint, fewer).active_parameters
            print(f"| {k} | {active / 1e9:.2f} | {active / all_of_them:.2f} |")


if __name__ == "__main__":
    main()
