"""What few bits cost, alone and with healing, and what a packed checkpoint of it weighs.

    OMP_NUM_THREADS=1 python benchmarks/bits.py [--part scores|order|active]

All of it scores plans of the embedded model (affinity, no vision) on the report split of evals/tiny.yaml. `scores`:
bits of experts and of the rest, healed and not; `order`: healed with the weights as they will be stored, or before they
are quantised; `active`: fewer experts for a token.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from healing import Bench

from autoreap.plan import PruningPlan
from autoreap.writing.footprint import Footprint

GROUP = 16  # divides the rows of the embedded talker's experts
NONE: dict[str, Any] = {}
STREAM: dict[str, Any] = {"heal": "stream", "heal_ridge": 0.001}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"scores": print_scores, "order": print_order, "active": print_active}
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


if __name__ == "__main__":
    main()
