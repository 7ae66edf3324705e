"""What the search makes of a scoring budget, against other ways of spending it: the figures of docs/benchmarks.md.

    OMP_NUM_THREADS=1 python benchmarks/search_quality.py [--seeds 10] [--budget 25]

The embedded model and its space. The budget is counted in full scores; a trial that was raced costs the answers it
took, a screen what benchmarks/screening.py says, a repeated plan nothing to us and a full score to the others.
A plan that one arm has scored is not run again for another: its answers are replayed, in the order in which they came.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from autoreap.config.evals import load_evals
from autoreap.config.space import SpaceConfig, load_space
from autoreap.described import Loaded, describe, load
from autoreap.evaluate import Evaluator, Watch
from autoreap.jobs import calibrated, read_calibration
from autoreap.objective import Objective, Scored
from autoreap.outcomes import Evaluation, Outcome
from autoreap.plan import PruningPlan, plan_from_dict
from autoreap.search import Search
from autoreap.study.group import seat_of
from autoreap.study.identity import Identity
from autoreap.study.racing import Race, Rival
from autoreap.study.sampling import sample
from autoreap.study.trials import PLAN, RACED, SCREENED, points_of
from autoreap.terminal.signals import Signals
from autoreap.tracking import Tracker

ROOT = Path(__file__).parent.parent
SCREEN_COST = 0.053  # of a full score
FLOOR = 0.01  # WER; what lies below is one to the volume

Found = tuple[float, float, float]  # full scores spent so far, size over the unpruned model's, WER


class Spent(KeyboardInterrupt):
    """The budget is; a search takes it for a signal and ends."""


@dataclass
class Ledger:
    """What one arm has spent."""

    budget: float
    spent: float = 0.0

    def pay(self, full_scores: float) -> None:
        """Raise `Spent` once nothing is left."""
        if self.spent >= self.budget:
            raise Spent
        self.spent += full_scores


class Replayed(Objective):
    """An objective that runs the model once for a plan, whoever asks."""

    ledger: Ledger

    def __init__(self, loaded: Loaded, space: SpaceConfig) -> None:
        saliency = calibrated(loaded, read_calibration(space.calibration))
        evaluator = Evaluator(loaded.model, loaded.inputs, load_evals(space.evals), batch_size=space.batch_size)
        super().__init__(loaded.described, saliency, evaluator, space.objectives)
        self._answers: dict[str, tuple[Scored, list[tuple[str, Outcome]]]] = {}
        self._screens: dict[str, dict[str, float]] = {}
        self.baseline = self.score_baseline()

    def score(self, plan: PruningPlan, watch: Watch | None = None, rivals: Sequence[Rival] = ()) -> Scored:
        """As `Objective.score`; what it would have taken is paid."""
        if plan.digest() not in self._answers:
            order: list[tuple[str, Outcome]] = []
            scored = super().score(plan, lambda metric, outcome: order.append((metric, outcome)))
            self._answers[plan.digest()] = scored, order
        scored, order = self._answers[plan.digest()]
        race = Race(self._objectives, self.exact(plan), rivals)
        answered = 0
        try:
            race.check()
            for metric, outcome in order:
                answered += 1
                race.watch(metric, outcome)
        finally:
            self.ledger.pay(answered / len(order))
        return scored

    def screen(self, plan: PruningPlan) -> dict[str, float]:
        """As `Objective.screen`."""
        self.ledger.pay(SCREEN_COST)
        if plan.digest() not in self._screens:
            self._screens[plan.digest()] = super().screen(plan)
        return self._screens[plan.digest()]

    def score_baseline(self, watch: Watch | None = None) -> Evaluation:
        """Once; it is no part of the budget."""
        if not hasattr(self, "baseline"):
            return super().score_baseline(watch)
        return self.baseline


class Unlogged(Tracker):
    """Nothing of a benchmark is for MLflow."""

    def _flush(self) -> None:
        self._waiting.clear()


def plain(objective: Replayed, space: SpaceConfig, sampler: BaseSampler) -> list[Found]:
    """A sampler alone: no presets, every trial scored in full, a repeated plan once more."""
    directions: list[Any] = list(space.objectives.values())
    study = optuna.create_study(directions=directions, sampler=sampler)
    found: list[Found] = []
    while objective.ledger.spent < objective.ledger.budget:
        trial = study.ask()
        scored = objective.score(objective.plan(sample(trial, space, objective.shape)))
        study.tell(trial, scored.values)
        found.append((objective.ledger.spent, *_point(objective, scored.values)))
    return found


def ours(objective: Replayed, space: SpaceConfig, lost: list[int] | None = None) -> list[Found]:
    """The search itself. `lost` takes how many trials were screened out, and how many of these the front misses."""
    spent: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        seat = seat_of(f"sqlite:///{folder}/s.db", "s", Path(folder) / "locks", None)
        search = Search(replace(space, trials=10**6), objective, seat, Identity({}), Path(folder))
        tell = search.study.tell

        def told(trial: optuna.Trial | int, *args: object, **kwargs: object) -> object:
            spent[trial if isinstance(trial, int) else trial.number] = objective.ledger.spent
            return tell(trial, *args, **kwargs)  # type: ignore[arg-type]

        search.study.tell = told  # type: ignore[method-assign, assignment]
        with suppress(Spent):
            search.run(Unlogged(Path(folder), "s"), Signals(), trials=10**6, deadline=math.inf)
        found = [(spent[p.trial], *_point(objective, tuple(p.values.values()))) for p in points_of(search.study)]
        if lost is not None:
            lost[:] = [len(search.study.trials), *_screened_out(objective, search.study, found)]
    return found


def _screened_out(objective: Replayed, study: optuna.Study, found: Sequence[Found]) -> tuple[int, int, int]:
    """Trials that were raced, those that were screened out, and how many of these belong on the front."""
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    screened = [trial for trial in pruned if "reason" in trial.user_attrs.get(SCREENED, {})]
    objective.ledger = Ledger(math.inf)
    missed = 0
    for trial in screened:
        values = objective.score(plan_from_dict(trial.user_attrs[PLAN], where="trial")).values
        size, wer = _point(objective, values)
        missed += not any(s <= size and w <= wer for _, s, w in found)
    return sum(RACED in trial.user_attrs for trial in pruned), len(screened), missed


def _point(objective: Replayed, values: Sequence[float]) -> tuple[float, float]:
    return values[0] / objective.baseline_size_bytes, values[1]


def volume(found: Sequence[tuple[float, float]]) -> float:
    """The share of the square of sizes (0 to 1) and of logarithms of WER (`FLOOR` to 100%) that is beaten."""
    corners = sorted((size, math.log(min(max(wer, FLOOR), 1)) / math.log(FLOOR)) for size, wer in found)
    total, best = 0.0, 0.0
    for number, (size, gain) in enumerate(corners):
        best = max(best, gain)
        right = corners[number + 1][0] if number + 1 < len(corners) else 1.0
        total += max(0.0, min(right, 1.0) - size) * best
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=25, help="full scores an arm may spend")
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = load_space(ROOT / "search_spaces" / "tiny.yaml")
    objective = Replayed(load(describe("tiny")), space)
    losses: dict[str, list[list[int]]] = {}

    def with_ours(name: str, **changes: bool) -> Callable[[int], list[Found]]:
        def run(seed: int) -> list[Found]:
            lost: list[int] = []
            found = ours(objective, replace(space, seed=seed, **changes), lost)  # type: ignore[arg-type]
            losses.setdefault(name, []).append(lost)
            return found

        return run

    names = ("autoreap", "without screening", "without screening and racing")
    arms: Mapping[str, Callable[[int], list[Found]]] = {
        "random": lambda seed: plain(objective, space, RandomSampler(seed=seed)),
        "NSGA-II": lambda seed: plain(objective, space, NSGAIISampler(seed=seed, population_size=20)),
        "TPE alone": lambda seed: plain(objective, space, TPESampler(seed=seed)),
        names[2]: with_ours(names[2], screening=False, racing=False),
        names[1]: with_ours(names[1], screening=False),
        names[0]: with_ours(names[0]),
    }
    results: dict[str, list[list[Found]]] = {name: [] for name in arms}
    for seed in range(options.seeds):
        for name, arm in arms.items():
            objective.ledger = Ledger(options.budget)
            results[name].append(arm(seed))
            print(f"seed {seed}, {name}: {volume([f[1:] for f in results[name][-1]]):.4f}", flush=True)
    best = volume([found[1:] for runs in results.values() for run in runs for found in run])
    budgets = [options.budget * share for share in (0.4, 0.7, 1)]
    print(
        f"\nhypervolume as a share of the best known ({best:.4f}), mean over {options.seeds} seeds (standard error)\n"
    )
    print(
        "| arm | "
        + " | ".join(f"{budget:g} full scores" for budget in budgets)
        + " | trials | raced | screened out | lost |"
    )
    print("|---|" + "---|" * (len(budgets) + 4))
    for name, runs in results.items():
        cells = []
        for budget in budgets:
            shares = [volume([f[1:] for f in run if f[0] <= budget + 1e-9]) / best for run in runs]
            error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
            cells.append(f"{np.mean(shares):.3f} ({error:.3f})")
        counts = (
            [f"{np.mean(column):.1f}" for column in zip(*losses[name], strict=True)] if name in losses else [""] * 4
        )
        if name not in losses:
            counts[0] = f"{np.mean([len(run) for run in runs]):.1f}"
        print(f"| {name} | {' | '.join(cells)} | {' | '.join(counts)} |")


if __name__ == "__main__":
    main()
