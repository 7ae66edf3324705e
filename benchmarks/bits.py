"""What few bits cost, alone and with healing, and what a packed checkpoint of it weighs.

    OMP_NUM_THREADS=1 python benchmarks/bits.py [--part scores|order|active|packed]

All of it scores plans of the embedded model (affinity, no vision) on the report split of evals/tiny.yaml. `scores`:
bits of experts and of the rest, healed and not; `order`: healed with the weights as they will be stored, or before they
are quantised; `active`: fewer experts for a token. `packed`: experts that stay packed in memory: what a score of the
embedded model takes, and what it takes to unpack one layer of a 30B beside what its experts compute.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from healing import EVALS, Bench

from autoreap.data.eval_set import open_evals
from autoreap.evaluation.evaluator import Evaluator
from autoreap.models.loading import load, open_model
from autoreap.models.packed_weights import unpacked
from autoreap.plan import PruningPlan
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing.footprint import Footprint
from autoreap.writing.materialiser import materialise

GROUP = 16  # divides the rows of the embedded talker's experts
NONE: dict[str, Any] = {}
STREAM: dict[str, Any] = {"heal": "stream", "heal_ridge": 0.001}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"scores": print_scores, "order": print_order, "active": print_active, "packed": print_packed}
    parser.add_argument("--part", choices=parts, help="one table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name, part in parts.items():
            if options.part in (None, name):
                part(bench)


def print_head(title: str) -> None:
    print(f"\n| {title} | MB | MB without voice | wer | wer.voices | wer.noisy | accuracy |\n|{'---|' * 7}", flush=True)


def print_row(bench: Bench, label: str, plan: PruningPlan | None) -> None:
    checkpoint = bench.loaded.model_info.checkpoint
    silent = replace(plan, drop_speech=True) if plan else None
    sizes = [Footprint.of(checkpoint, each).size_bytes() / 1e6 for each in (plan, silent)]
    scores = bench.scores(plan)
    cells = [f"{size:.2f}" for size in sizes]
    cells += [f"{scores[name]:.2f}" for name in ("wer", "wer.voices", "wer.noisy", "accuracy")]
    print(f"| {label} | {' | '.join(cells)} |", flush=True)


def print_scores(bench: Bench) -> None:
    print_head("experts, bits of experts / of the rest, healing")
    for num_experts in (16, 8, 6, 5, 4):
        values: dict[str, Any] = {"retention": num_experts / 16, "bits_group": GROUP}
        for bits, rest in ((16, 16), (8, 8), (4, 16), (4, 8), (4, 4)):
            for healing in (NONE, STREAM):
                plan = bench.plan(bits=bits, bits_rest=rest, **values, **healing)
                label = f"{num_experts}, {bits} / {rest}, {healing.get('heal', 'none')}"
                print_row(bench, label, plan)


def print_order(bench: Bench) -> None:
    print_head("experts, healing and bits (4 / 8)")
    for num_experts in (16, 8, 6, 4):
        plan = bench.plan(retention=num_experts / 16, bits=4, bits_rest=8, bits_group=GROUP, **STREAM)
        print_row(bench, f"{num_experts}, together", plan)
        if num_experts < 16:
            before = bench.fitted(replace(plan, bits=None))
            print_row(bench, f"{num_experts}, healed before", replace(before, bits=plan.bits))
        print_row(bench, f"{num_experts}, not healed", replace(plan, heal=None))


def print_active(bench: Bench) -> None:
    print_head("experts, active ones, healing")
    for num_experts in (16, 8, 6):
        for active in (2, 1):
            for healing in (NONE, STREAM):
                plan = bench.plan(retention=num_experts / 16, active_experts=active, **healing)
                print_row(bench, f"{num_experts}, {active}, {healing.get('heal', 'none')}", plan)


def print_packed(bench: Bench) -> None:
    """A score with experts kept packed, and unpacked when loaded; both twice, the faster one counts."""
    print("\n| bits | a score, unpacked when loaded | kept packed | unpacking a layer | its experts, 1,024 tokens |")
    print(f"|{'---|' * 5}")
    for bits in (8, 4):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "base"
            materialise(CHECKPOINT, bench.plan(bits=bits, bits_group=GROUP), target)
            seconds = [least_seconds(scorer_of(target, keep_packed)) for keep_packed in (False, True)]
        seconds += layer_seconds(bits)
        print(f"| {bits} | {' | '.join(f'{each:.2f} s' for each in seconds)} |", flush=True)


def scorer_of(model: Path, keep_packed: bool) -> Callable[[], Any]:
    loaded = load(open_model(str(model)), device="cpu", keep_packed=keep_packed)
    evaluator = Evaluator(loaded.model, loaded.inputs, open_evals(EVALS).search)
    evaluator.draft_from(evaluator.run().outcomes)
    return evaluator.run


def layer_seconds(bits: int) -> list[float]:
    """To unpack the experts of one layer of a 30B, and to compute with them in bfloat16; tokens spread evenly."""
    num_experts, hidden, inner, num_tokens, top_k = 128, 2048, 768, 1024, 8
    codes = torch.randint(-(2**31), 2**31 - 1, (num_experts * 3 * inner, hidden * bits // 32), dtype=torch.int32)
    scales = torch.rand(len(codes), hidden // 32).bfloat16()
    given = torch.rand(num_tokens * top_k // num_experts, hidden).bfloat16()
    weights = unpacked(codes, scales, hidden).view(num_experts, 3 * inner, hidden)

    def compute() -> None:
        for expert in weights:
            torch.nn.functional.linear(given, expert)

    return [least_seconds(partial(unpacked, codes, scales, hidden)), least_seconds(compute)]


def least_seconds(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
