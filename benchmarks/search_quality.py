"""What the search makes of a scoring budget, against other ways of spending it: the figures of docs/benchmarks.md.

    OMP_NUM_THREADS=1 python benchmarks/search_quality.py [--seeds 10] [--budget 25]

The embedded model and its space. The budget is counted in full scores. A pruned trial costs the answers it took; a
duplicate costs nothing to autoreap and a full score to the others. A plan that one arm has scored is not run again for
another: its answers are replayed, in the order in which they came.
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

from autoreap.calibration.measure import measure_saliency, read_calibration
from autoreap.data.eval_set import open_evals
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.models.loading import describe, load
from autoreap.plan import PruningPlan
from autoreap.search.candidates import PlannedCandidate, Planner, objective_values
from autoreap.search.leader import Leader
from autoreap.search.racing import CandidatePruned, Race
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


class Replay:
    """Runs the model once for a plan, whoever asks; what it would have taken is paid from the ledger."""

    def __init__(self, space: SpaceConfig) -> None:
        loaded = load(describe("tiny"))
        saliency = measure_saliency(loaded, read_calibration(space.calibration))
        evals = open_evals(space.evals).search
        self.evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=space.batch_size)
        self.planner = Planner(loaded.described, saliency)
        self.objectives = space.objectives
        self.ledger = Ledger(math.inf)
        self._answers: dict[str, tuple[Evaluation, list[tuple[str, Outcome]]]] = {}
        self.baseline = self.evaluator.run()
        self.unpruned_bytes = self.planner.unpruned()[0]

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
            self.ledger.pay(answered / len(order))
        return evaluation

    def values(self, planned: PlannedCandidate) -> tuple[float, ...]:
        """The objectives of a candidate that is scored to the end."""
        evaluation = self.score(planned.plan, Race(self.objectives, {}, []))
        return objective_values(self.objectives, planned.size_bytes, evaluation.metrics())


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
            race = Race(self._replay.objectives, job.static, job.incumbents)
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


def plain(replay: Replay, space: SpaceConfig, sampler: BaseSampler) -> list[Found]:
    """A sampler alone: no presets, every trial scored in full, a duplicate once more."""
    directions: list[Any] = list(space.objectives.values())
    study = optuna.create_study(directions=directions, sampler=sampler)
    found: list[Found] = []
    while replay.ledger.spent < replay.ledger.budget:
        trial = study.ask()
        values = replay.values(replay.planner.plan(sample(trial, space, replay.planner.shape)))
        study.tell(trial, values)
        found.append((replay.ledger.spent, values[0] / replay.unpruned_bytes, values[1]))
    return found


def ours(replay: Replay, space: SpaceConfig, counts: list[int]) -> list[Found]:
    """The search itself. `counts` takes how many trials there were, and how many of them were pruned."""
    with tempfile.TemporaryDirectory() as folder:
        study = open_or_create_study(space, open_storage(f"sqlite:///{folder}/s.db"), "s", Identity({}))
        pool = ReplayPool(replay)
        log = SearchLog(10**6, math.inf, pool.num_answers)
        leader = Timed(replay, space, study, replay.planner, pool, Path(folder), log)
        with suppress(Spent):
            leader.run(Unlogged(Path(folder), "s"), Signals(), num_trials=10**6, deadline=math.inf)
        record = read_study(study)
        found = []
        for point in record.points:
            size, wer = point.values.values()
            found.append((leader.spent[point.number], size / replay.unpruned_bytes, wer))
        pruned = [trial for trial in record.trials if trial.status is TrialStatus.PRUNED and not trial.duplicate_of]
        counts[:] = [len(record.trials), len(pruned)]
    return found


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
    replay = Replay(space)
    counted: dict[str, list[list[int]]] = {}

    def with_ours(name: str, *, racing: bool) -> Callable[[int], list[Found]]:
        def run(seed: int) -> list[Found]:
            counts: list[int] = []
            found = ours(replay, replace(space, seed=seed, racing=racing), counts)
            counted.setdefault(name, []).append(counts)
            return found

        return run

    arms: Mapping[str, Callable[[int], list[Found]]] = {
        "random": lambda seed: plain(replay, space, RandomSampler(seed=seed)),
        "NSGA-II": lambda seed: plain(replay, space, NSGAIISampler(seed=seed, population_size=20)),
        "TPE alone": lambda seed: plain(replay, space, TPESampler(seed=seed)),
        "without racing": with_ours("without racing", racing=False),
        "autoreap": with_ours("autoreap", racing=True),
    }
    results: dict[str, list[list[Found]]] = {name: [] for name in arms}
    for seed in range(options.seeds):
        for name, arm in arms.items():
            replay.ledger = Ledger(options.budget)
            results[name].append(arm(seed))
            print(f"seed {seed}, {name}: {volume([f[1:] for f in results[name][-1]]):.4f}", flush=True)
    best = volume([found[1:] for runs in results.values() for run in runs for found in run])
    budgets = [options.budget * share for share in (0.4, 0.7, 1)]
    print(
        f"\nhypervolume as a share of the best known ({best:.4f}), mean over {options.seeds} seeds (standard error)\n"
    )
    headings = " | ".join(f"{budget:g} full scores" for budget in budgets)
    print(f"| arm | {headings} | trials | pruned |")
    print("|---|" + "---|" * (len(budgets) + 2))
    for name, runs in results.items():
        cells = []
        for budget in budgets:
            shares = [volume([f[1:] for f in run if f[0] <= budget + 1e-9]) / best for run in runs]
            error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
            cells.append(f"{np.mean(shares):.3f} ({error:.3f})")
        if name in counted:
            cells += [f"{np.mean(column):.1f}" for column in zip(*counted[name], strict=True)]
        else:
            cells += [f"{np.mean([len(run) for run in runs]):.1f}", ""]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
