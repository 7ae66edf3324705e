"""Does the likelihood of the references rank candidates as a full score does, and what does it cost?

    OMP_NUM_THREADS=1 python benchmarks/screening.py [--candidates 40] [--seed 0]

Candidates are drawn at random from search_spaces/tiny.yaml; every fourth keeps random experts instead of those with the
highest affinity. Each is scored in full on the search split of evals/tiny.yaml and screened on shares of it. A rank
correlation can't be higher than the full scores themselves allow: the last line says how one half of the utterances
ranks the candidates by the other half's WER. Five minutes on an idle core.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from scipy.stats import spearmanr

from autoreap.candidate import Candidate
from autoreap.config.evals import load_evals
from autoreap.config.parameters import Range
from autoreap.config.space import load_space
from autoreap.described import describe, load
from autoreap.evaluate import Evaluator
from autoreap.jobs import calibrated, read_calibration
from autoreap.media.samples import spread
from autoreap.outcomes import Outcome
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan

ROOT = Path(__file__).parent.parent
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
GOOD_WER = 0.1

T = TypeVar("T")


@dataclass
class Measured:
    """A candidate: its full scores, what screening said by (metric, share), and CPU seconds of each."""

    plan: PruningPlan
    errors: list[tuple[int, int]]
    scores: dict[str, float]
    screened: dict[tuple[str, float], float]
    seconds: dict[Any, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=40, help="different plans")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load(describe("tiny"))
    space = load_space(ROOT / "search_spaces" / "tiny.yaml")
    saliency = calibrated(loaded, read_calibration(space.calibration))
    evaluator = Evaluator(loaded.model, loaded.inputs, load_evals(ROOT / "evals" / "tiny.yaml"))
    evaluator.run()
    rng = random.Random(options.seed)
    plans: dict[str, PruningPlan] = {}
    while len(plans) < options.candidates:
        candidate = drawn(space.parameters, rng)
        if len(plans) % 4 == 3:
            candidate = replace(candidate, saliency="random", seed=rng.randrange(10**6))
        plan = make_plan(candidate, saliency, loaded.described.shape, loaded.described.base_model)
        plans.setdefault(plan.digest(), plan)
    candidates = [measured(evaluator, plan) for plan in plans.values()]
    lengths = [len(item.encoded.input_ids) for item in evaluator._tasks[0][2]]
    print_table("wer", candidates)
    print_table("accuracy", candidates)
    print_limits(candidates, lengths)
    more = statistics.median(one.seconds["with likelihoods"] / one.seconds["full"] for one in candidates)
    print(f"\nA full score with likelihoods of all references takes {more:.2f} times as long as without.")


def drawn(parameters: Any, rng: random.Random) -> Candidate:
    """One candidate of the space, every value as probable as another."""
    values = {}
    for name, spec in parameters.items():
        if not isinstance(spec, Range):
            values[name] = spec
        elif spec.step:
            values[name] = spec.low + spec.step * rng.randint(0, round((spec.high - spec.low) / spec.step))
        else:
            is_whole = isinstance(spec.low, int) and isinstance(spec.high, int)
            values[name] = rng.randint(int(spec.low), int(spec.high)) if is_whole else rng.uniform(spec.low, spec.high)
    return Candidate.from_parameters(values)


def measured(evaluator: Evaluator, plan: PruningPlan) -> Measured:
    """A full score, then screening on each share of each task's rows, and of all."""
    seconds: dict[Any, float] = {}

    def timed(name: Any, work: Callable[[], T]) -> T:
        started = time.process_time()
        result = work()
        seconds[name] = time.process_time() - started
        return result

    evaluation = timed("full", lambda: evaluator.run(plan))
    timed("with likelihoods", lambda: evaluator.run(plan, likelihoods=True))
    screened: dict[tuple[str, float], float] = {}
    for metric in evaluation.outcomes:
        for share in SHARES:
            scores = timed((metric, share), lambda m=metric, s=share: evaluator.screen(plan, s, [m]))  # type: ignore[misc]
            screened[metric, share] = scores[metric].value
    values = {metric: score.value for metric, score in evaluation.scores().items()}
    print(f"# {', '.join(f'{name} {value:.2%}' for name, value in values.items())}", flush=True)
    return Measured(plan, [counted(outcome) for outcome in evaluation.outcomes["wer"]], values, screened, seconds)


def counted(outcome: Outcome) -> tuple[int, int]:
    return outcome.counts.numerator, outcome.counts.denominator


def print_table(metric: str, candidates: Sequence[Measured]) -> None:
    """Rank correlation of screening on the rows of `metric` with its full score, and the cost."""
    sign = 1 if metric == "wer" else -1
    good = [one for one in candidates if one.scores["wer"] < GOOD_WER]
    print(f"\n| share of the rows of {metric} | {len(candidates)} candidates | {len(good)} under 10% WER | cost |")
    print("|---" * 4 + "|")
    for share in SHARES:
        cells = [
            correlation([one.screened[metric, share] for one in group], [sign * one.scores[metric] for one in group])
            for group in (candidates, good)
        ]
        cost = statistics.median(one.seconds[metric, share] / one.seconds["full"] for one in candidates)
        print(f"| {share:g} | {cells[0]:.3f} | {cells[1]:.3f} | {cost:.3f} |")


def print_limits(candidates: Sequence[Measured], lengths: Sequence[int]) -> None:
    """WER on a share of the rows in place of the likelihood, and one half of the rows against the other."""
    good = [one for one in candidates if one.scores["wer"] < GOOD_WER]
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    print(f"\n| WER on a share of the rows | {len(candidates)} candidates | {len(good)} under 10% WER |\n|---|---|---|")
    for share in SHARES[:-1]:
        rows = spread(lengths, round(share * len(lengths)))
        full = [correlation(part_wer(group, rows), part_wer(group, order)) for group in (candidates, good)]
        print(f"| {share:g} | {full[0]:.3f} | {full[1]:.3f} |")
    halves = [correlation(part_wer(group, order[::2]), part_wer(group, order[1::2])) for group in (candidates, good)]
    print(f"| one half against the other | {halves[0]:.3f} | {halves[1]:.3f} |")


def part_wer(group: Sequence[Measured], rows: Sequence[int]) -> list[float]:
    return [sum(one.errors[row][0] for row in rows) / sum(one.errors[row][1] for row in rows) for one in group]


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, ties sharing their ranks."""
    return float(spearmanr(first, second).statistic)


if __name__ == "__main__":
    main()
