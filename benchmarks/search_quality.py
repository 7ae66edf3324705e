"""What the search makes of a scoring budget, against other ways of spending it: the figures of docs/benchmarks.md.

    OMP_NUM_THREADS=1 python benchmarks/search_quality.py [--seeds 10] [--budget 25] [--trials 40] [--grid FILE]

The embedded model and its space, in two tables.

The first has the hypervolume that a budget of full scores buys. A pruned trial costs the answers it took; a duplicate
costs nothing to autoreap and a full score to the others.

The second says how often the smallest plan that is non-inferior to the unpruned model is found within so many scored
plans; a duplicate costs nothing to anybody. What that plan is, is known from the whole grid of the space, lambda and
beta in 9 steps each: smallest plans first, each scored until its errors exceed a margin. That is stored in FILE.

A plan that one arm has scored is not run again for another: its answers are replayed, in the order they came.
"""

import argparse
import itertools
import json
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
from optuna.trial import FixedTrial

from autoreap.calibration.measure import measure_saliency, read_calibration
from autoreap.data.eval_set import open_evals
from autoreap.evaluation.comparison import compare_outcomes
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.models.loading import load, open_model
from autoreap.plan import PruningPlan
from autoreap.search.candidates import PlannedCandidate, Planner, objective_values
from autoreap.search.leader import Leader
from autoreap.search.non_inferiority import all_hold, check_margins, margin_limits, non_inferior_points
from autoreap.search.parameters import Range
from autoreap.search.racing import CandidatePruned, Incumbent, Race
from autoreap.search.records import TrialRecord, TrialStatus, read_study
from autoreap.search.sampling import sample
from autoreap.search.scorers import Drafts, Job, JobResult
from autoreap.search.search_log import SearchLog
from autoreap.search.signals import Signals
from autoreap.search.space import SpaceConfig, load_space
from autoreap.search.storage import open_storage
from autoreap.search.study import Identity, open_or_create_study
from autoreap.search.tracking import Tracker

ROOT = Path(__file__).parent.parent
FLOOR = 0.01  # WER; what lies below is one to the volume

NUM_STEPS = 9  # of lambda and of beta in the grid

Found = tuple[float, float, float]  # full scores spent so far, size over the unpruned model's, WER


@dataclass
class Run:
    """What one arm found with one seed.

    Attributes:
        smallest: size in bytes of the smallest non-inferior plan after so many scored ones; none found: infinite.
    """

    found: list[Found]
    smallest: float = math.inf
    num_trials: int = 0
    num_pruned: int | None = None


@dataclass
class Ledger:
    """What one arm has spent, in full scores, and what the first table counts of it."""

    budget: float
    spent: float = 0.0


class Replay:
    """Runs the model once for a plan, whoever asks; what it would have taken is paid from the ledger."""

    def __init__(self, space: SpaceConfig) -> None:
        loaded = load(open_model("tiny"))
        saliency = measure_saliency(loaded, read_calibration(space.calibration))
        evals = open_evals(space.evals).search
        self.evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=space.batch_size)
        self.planner = Planner(loaded.model_info, saliency)
        self.objectives = space.objectives
        self.ledger = Ledger(math.inf)
        self._answers: dict[str, tuple[Evaluation, list[tuple[str, Outcome]]]] = {}
        self.baseline = self.evaluator.run()
        self.unpruned_bytes = self.planner.unpruned()[0]
        self.margins = space.margins
        self.limits = margin_limits(self.baseline.metrics(), space.margins)

    def score(self, plan: PruningPlan, race: Race) -> Evaluation:
        """The evaluation of `plan`; raises `CandidatePruned` where `race` ends it."""
        if plan.digest() not in self._answers:
            order: list[tuple[str, Outcome]] = []

            def remember(metric: str, outcome: Outcome) -> None:
                order.append((metric, outcome))

            self._answers[plan.digest()] = self.evaluator.run(plan, remember, first=self.objectives), order
        evaluation, order = self._answers[plan.digest()]
        answered = 0
        try:
            race.check()
            for metric, outcome in order:
                answered += 1
                race.count(metric, outcome)
        finally:
            self.ledger.spent += answered / len(order)
        return evaluation

    def is_non_inferior(self, evaluation: Evaluation) -> bool:
        """Whether the candidate is non-inferior to the unpruned model on the search split."""
        compared = compare_outcomes(self.baseline.outcomes, evaluation.outcomes).metrics
        differences = {name: measured.difference for name, measured in compared.items()}
        return all_hold(check_margins(evaluation.metrics(), differences, self.margins))

    def smallest_of_grid(self, space: SpaceConfig) -> tuple[int, int]:
        """Size in bytes of the smallest non-inferior plan of the grid, and how many plans the grid has."""
        planned = self._grid(space)
        for candidate in sorted(planned.values(), key=lambda each: each.size_bytes):
            # A stand-in that beats every candidate: only the limits decide how far each is scored.
            ideal = Incumbent(-1, {"size_bytes": 0, "wer": -1.0}, self.baseline.metrics(), {})
            race = Race(self.objectives, candidate.static_values, [ideal], self.limits)
            with suppress(CandidatePruned):
                if self.is_non_inferior(self.evaluator.run(candidate.plan, race.count, first=self.objectives)):
                    return candidate.size_bytes, len(planned)
        raise AssertionError("no plan of the grid is non-inferior, not even the unpruned one")

    def _grid(self, space: SpaceConfig) -> dict[str, PlannedCandidate]:
        values = []
        for spec in space.parameters.values():
            assert not isinstance(spec, tuple)
            if not isinstance(spec, Range):
                continue
            num_values = NUM_STEPS if spec.step is None else round((spec.high - spec.low) / spec.step) + 1
            values.append([float(each) for each in np.linspace(spec.low, spec.high, num_values)])
        names = [name for name, spec in space.parameters.items() if isinstance(spec, Range)]
        planned = {}
        for combination in itertools.product(*values):
            params: dict[str, Any] = dict(zip(names, combination, strict=True))
            params["layers_cut"] = round(params["layers_cut"])
            candidate = self.planner.plan(sample(FixedTrial(params), space, self.planner.shape))
            planned[candidate.digest] = candidate
        return planned


class ReplayPool:
    """The scorer of a search."""

    where, batch_size = "cpu, float32", 64

    def __init__(self, replay: Replay) -> None:
        self.num_answers = replay.evaluator.num_answers
        self._replay = replay
        self._job: Job | None = None

    @property
    def has_idle(self) -> bool:
        """As `ScorerPool`."""
        return self._job is None

    def start(self, job: Job) -> None:
        """As `ScorerPool`."""
        self._job = job

    def wait(self) -> tuple[Job, JobResult]:
        """As `ScorerPool`; the baseline is no part of the budget."""
        assert self._job is not None
        job, self._job = self._job, None
        if job.plan is None:
            return job, JobResult(evaluation=self._replay.baseline)
        try:
            race = Race(self._replay.objectives, job.static, job.incumbents, job.limits)
            return job, JobResult(evaluation=self._replay.score(job.plan, race))
        except CandidatePruned as pruned:
            return job, JobResult(pruned=pruned.domination)

    def draft_from(self, drafts: Drafts) -> None:
        """The answers are there already."""

    def close(self) -> None:
        """It holds nothing of its own."""


class Unlogged(Tracker):
    """Nothing of a benchmark is for MLflow."""

    def _flush(self) -> None:
        self._waiting.clear()


class Timed(Leader):
    """Remembers what was spent when each trial ended."""

    def __init__(self, replay: Replay, *parts: Any) -> None:
        super().__init__(*parts)
        self._replay = replay
        self.spent: dict[int, float] = {}

    def _note(self, frozen: optuna.trial.FrozenTrial) -> TrialRecord:
        self.spent.setdefault(frozen.number, self._replay.ledger.spent)
        return super()._note(frozen)


def plain(replay: Replay, space: SpaceConfig, sampler: BaseSampler, num_plans: int) -> Run:
    """A sampler alone: no presets, every trial scored in full, a duplicate once more."""
    directions: list[Any] = list(space.objectives.values())
    study = optuna.create_study(directions=directions, sampler=sampler)
    run = Run([])
    scored: set[str] = set()
    while replay.ledger.spent < replay.ledger.budget or len(scored) < num_plans:
        trial = study.ask()
        planned = replay.planner.plan(sample(trial, space, replay.planner.shape))
        evaluation = replay.score(planned.plan, Race(replay.objectives, {}, []))
        values = objective_values(replay.objectives, planned.size_bytes, evaluation.metrics())
        study.tell(trial, values)
        run.num_trials += 1
        run.found.append((replay.ledger.spent, values[0] / replay.unpruned_bytes, values[1]))
        scored.add(planned.digest)
        if len(scored) <= num_plans and replay.is_non_inferior(evaluation):
            run.smallest = min(run.smallest, planned.size_bytes)
    return run


def ours(replay: Replay, space: SpaceConfig, num_plans: int) -> Run:
    """The search itself."""
    with tempfile.TemporaryDirectory() as folder:
        study = open_or_create_study(space, open_storage(f"sqlite:///{folder}/s.db"), "s", Identity({}))
        pool = ReplayPool(replay)
        log = SearchLog(num_plans, math.inf, pool.num_answers)
        leader = Timed(replay, space, study, replay.planner, pool, Path(folder), log)
        leader.run(Unlogged(Path(folder), "s"), Signals(), num_trials=num_plans, deadline=math.inf)
        record = read_study(study)
    run = Run([], num_trials=len(record.trials))
    num_pruned = 0
    for trial in record.trials:
        if trial.is_scored:
            size, wer = trial.values.values()
            run.found.append((leader.spent[trial.number], size / replay.unpruned_bytes, wer))
        elif trial.status is TrialStatus.PRUNED and trial.is_spent:
            num_pruned += 1
    run.num_pruned = num_pruned
    for point in non_inferior_points(record.points, space.margins)[:1]:
        run.smallest = point.size_bytes
    return run


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
    parser.add_argument("--budget", type=float, default=25, help="full scores, of the first table")
    parser.add_argument("--trials", type=int, default=40, help="scored plans, of the second table")
    parser.add_argument("--grid", type=Path, default=Path("grid.json"), help="what the whole grid holds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = load_space(ROOT / "search_spaces" / "tiny.yaml")
    replay = Replay(space)
    smallest, num_plans = read_or_search_grid(replay, space, options.grid)
    arms: Mapping[str, Callable[[int], Run]] = {
        "random": lambda seed: plain(replay, space, RandomSampler(seed=seed), options.trials),
        "NSGA-II": lambda seed: plain(replay, space, NSGAIISampler(seed=seed, population_size=20), options.trials),
        "TPE alone": lambda seed: plain(replay, space, TPESampler(seed=seed), options.trials),
        "without racing": lambda seed: ours(replay, replace(space, seed=seed, racing=False), options.trials),
        "autoreap": lambda seed: ours(replay, replace(space, seed=seed), options.trials),
    }
    results: dict[str, list[Run]] = {name: [] for name in arms}
    for seed in range(options.seeds):
        for name, arm in arms.items():
            replay.ledger = Ledger(options.budget)
            run = arm(seed)
            results[name].append(run)
            print(f"seed {seed}, {name}: {volume(within(run, options.budget)):.4f}, {run.smallest:,.0f}", flush=True)
    print_volumes(results, options.budget, options.seeds)
    print(f"\nsmallest non-inferior plan of the grid ({num_plans} plans): {smallest:,} bytes\n")
    print(f"| arm | found within {options.trials} scored plans | mean excess in size |")
    print("|---|---|---|")
    for name, runs in results.items():
        num_found = sum(run.smallest <= smallest for run in runs)
        excess = [run.smallest / smallest - 1 for run in runs if run.smallest < math.inf]
        mean = f"{np.mean(excess):.1%}" if excess else "none found"
        print(f"| {name} | {num_found} of {len(runs)} | {mean} |")


def read_or_search_grid(replay: Replay, space: SpaceConfig, path: Path) -> tuple[int, int]:
    """Size of the smallest non-inferior plan and the number of plans, from `path` if an earlier run wrote it."""
    if path.is_file():
        document = json.loads(path.read_text())
        return document["smallest_bytes"], document["num_plans"]
    smallest, num_plans = replay.smallest_of_grid(space)
    path.write_text(json.dumps({"smallest_bytes": smallest, "num_plans": num_plans}))
    return smallest, num_plans


def within(run: Run, budget: float) -> list[tuple[float, float]]:
    """What was found for at most `budget` full scores."""
    return [found[1:] for found in run.found if found[0] <= budget + 1e-9]


def print_volumes(results: Mapping[str, Sequence[Run]], budget: float, num_seeds: int) -> None:
    """The first table."""
    everything = [found[1:] for runs in results.values() for run in runs for found in run.found]
    best = volume(everything)
    budgets = [budget * share for share in (0.4, 0.7, 1)]
    print(f"\nhypervolume as a share of the best known ({best:.4f}), mean over {num_seeds} seeds (standard error)\n")
    headings = " | ".join(f"{each:g} full scores" for each in budgets)
    print(f"| arm | {headings} | trials | pruned |")
    print("|---|" + "---|" * (len(budgets) + 2))
    for name, runs in results.items():
        cells = []
        for each in budgets:
            shares = [volume(within(run, each)) / best for run in runs]
            error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
            cells.append(f"{np.mean(shares):.3f} ({error:.3f})")
        cells.append(f"{np.mean([run.num_trials for run in runs]):.1f}")
        pruned = [run.num_pruned for run in runs if run.num_pruned is not None]
        cells.append(f"{np.mean(pruned):.1f}" if pruned else "")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
