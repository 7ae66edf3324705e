"""How a candidate that breaks a bound known beforehand should be told to Optuna.

    python benchmarks/constraints.py

A made-up model of size and word error rate over retention, layer cuts and lambda, of which a random draw keeps
`size <= 40% of baseline` three times in ten. Candidates that break it are not scored; they end as pruned trials with
their violation, or as failed ones without. 60 trials, 20 seeds; under a minute.
"""

import statistics
import warnings
from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

TRIALS, SEEDS = 60, 20
BOUND = 0.4
CORNER = (0.5, 0.5)  # of size, as a share of the unpruned model's, and WER: the hypervolume's reference


def size_and_wer(trial: Trial) -> tuple[float, float]:
    """Both as fractions; the best lambda is 1.5."""
    retention, cut = trial.suggest_float("retention", 0.1, 1), trial.suggest_int("layers_cut", 0, 12)
    excess = abs(trial.suggest_float("lambda", 0, 4) - 1.5)
    size = (0.15 + 0.85 * retention) * (1 - cut / 48)
    return size, 0.012 + 0.25 * (1 - retention) ** 3 * (1 + 0.3 * excess) + 0.0009 * cut**2


def searched(sampler: BaseSampler, *, pruned: bool) -> tuple[float, float]:
    """Hypervolume of what was scored, and the share of trials that kept the bound."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    scored = []
    for _ in range(TRIALS):
        trial = study.ask()
        size, wer = size_and_wer(trial)
        if pruned:
            trial.set_constraint("size", size / BOUND - 1)
        if size <= BOUND:
            study.tell(trial, [size, wer])
            scored.append((size, wer))
        else:
            study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
    return hypervolume(scored), len(scored) / TRIALS


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """The area between the front of `points` and `CORNER`."""
    area, least = 0.0, CORNER[1]
    for size, wer in sorted(points):
        if wer < least:
            area += (CORNER[0] - size) * (least - wer)
            least = wer
    return area


def main() -> None:
    """One line a sampler and way of telling: the means over the seeds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    print("sampler        broken ends as  keeps the bound  hypervolume")
    for made in (TPESampler, NSGAIISampler, RandomSampler):
        for pruned in (True, False):
            runs = [searched(made(seed=seed), pruned=pruned) for seed in range(SEEDS)]
            volume, share = (statistics.mean(column) for column in zip(*runs, strict=True))
            print(f"{made.__name__:14} {'pruned' if pruned else 'failed':14} {share:16.0%} {volume:12.4f}")


if __name__ == "__main__":
    main()
