"""What the search makes of so many scored plans, against samplers alone: the figures of docs/benchmarks.md.

    OMP_NUM_THREADS=1 python benchmarks/search_quality.py [--seeds 10] [--plans 20 40 80] [--answers FILE]

The embedded model and its space. The first table has the share of the best known hypervolume, of sizes and of
logarithms of WER, that so many scored plans reach; the second the smallest plan among them that is non-inferior to the
unpruned model, beside the smallest that any run found. A plan that is drawn again costs nothing; one that autoreap
stops early counts as scored. A plan that one arm has scored is not run again for another: its answers are replayed, in
the order they came. With --answers they are kept in a file, so that a benchmark that was stopped goes on where it was.
"""

import argparse
import math
import shelve
import statistics
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from autoreap.calibration.measure import measure_saliency, read_calibration
from autoreap.data.eval_set import open_evals
from autoreap.evaluation.comparison import compare_outcomes
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.healing.healer import Healer
from autoreap.models.loading import load, open_model
from autoreap.plan import PruningPlan
from autoreap.search.candidates import Planner, objective_values
from autoreap.search.leader import Leader
from autoreap.search.non_inferiority import all_hold, check_margins, margin_limits
from autoreap.search.racing import CandidatePruned, Race
from autoreap.search.records import read_study
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


@dataclass(frozen=True)
class Found:
    """A plan that was scored to the end.

    Attributes:
        number: how many plans were scored up to it.
        size: over the unpruned model's.
    """

    number: int
    size: float
    wer: float
    size_bytes: int
    is_non_inferior: bool


# What a plan was scored as, and each of its answers with its metric, in the order they came.
Answers = tuple[Evaluation, list[tuple[str, Outcome]]]


class Replay:
    """Runs the model once for a plan, whoever asks; what it would have taken is paid from the ledger."""

    def __init__(self, space: SpaceConfig, folder: Path, answers: MutableMapping[str, Answers]) -> None:
        loaded = load(open_model("tiny"))
        data = read_calibration(space.calibration)
        saliency = measure_saliency(loaded, data)
        evals = open_evals(space.evals).search
        self.evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=space.batch_size)
        self.healer = Healer(loaded, data, folder)
        self.planner = Planner(loaded.model_info, saliency)
        self.objectives = space.objectives
        self.baseline = self.evaluator.run()
        self._answers = answers
        if answers.setdefault("baseline", (self.baseline, []))[0].outcomes != self.baseline.outcomes:
            raise SystemExit("the file of --answers holds those of other rows or another model: remove it")
        self.unpruned_bytes = self.planner.unpruned()[0]
        self.margins = space.margins
        self.limits = margin_limits(self.baseline.metrics(), space.margins)

    def score(self, plan: PruningPlan, race: Race) -> Evaluation:
        """The evaluation of `plan`; raises `CandidatePruned` where `race` ends it."""
        if plan.digest() not in self._answers:
            order: list[tuple[str, Outcome]] = []

            def remember(metric: str, outcome: Outcome) -> None:
                order.append((metric, outcome))

            fitted = self.healer.fit(plan)
            self._answers[plan.digest()] = self.evaluator.run(fitted, remember, first=self.objectives), order
        evaluation, order = self._answers[plan.digest()]
        race.check()
        for metric, outcome in order:
            race.count(metric, outcome)
        return evaluation

    def is_non_inferior(self, evaluation: Evaluation) -> bool:
        """Whether the candidate is non-inferior to the unpruned model on the search split."""
        compared = compare_outcomes(self.baseline.outcomes, evaluation.outcomes)
        return all_hold(check_margins(evaluation.metrics(), compared.differences, self.margins))

    def found(self, number: int, size_bytes: int, evaluation: Evaluation) -> Found:
        """What the tables need to know of a scored plan."""
        wer = evaluation.metrics()["wer"].value
        size = size_bytes / self.unpruned_bytes
        return Found(number, size, wer, size_bytes, self.is_non_inferior(evaluation))


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


def plain(replay: Replay, space: SpaceConfig, sampler: BaseSampler, num_plans: int) -> list[Found]:
    """A sampler alone: no presets, every plan scored in full."""
    directions: list[Any] = list(space.objectives.values())
    study = optuna.create_study(directions=directions, sampler=sampler)
    found: list[Found] = []
    scored: set[str] = set()
    while len(scored) < num_plans:
        trial = study.ask()
        planned = replay.planner.plan(sample(trial, space, replay.planner.shape))
        evaluation = replay.score(planned.plan, Race(replay.objectives, {}, []))
        study.tell(trial, objective_values(replay.objectives, planned.size_bytes, evaluation.metrics()))
        if planned.digest not in scored:
            scored.add(planned.digest)
            found.append(replay.found(len(scored), planned.size_bytes, evaluation))
    return found


def ours(replay: Replay, space: SpaceConfig, num_plans: int) -> list[Found]:
    """The search itself, told how many plans it may score."""
    with tempfile.TemporaryDirectory() as folder:
        study = open_or_create_study(space, open_storage(f"sqlite:///{folder}/s.db"), "s", Identity({}))
        pool = ReplayPool(replay)
        log = SearchLog(num_plans, math.inf, pool.num_answers)
        leader = Leader(space, study, replay.planner, pool, Path(folder), log)
        leader.run(Unlogged(Path(folder), "s"), Signals(), num_trials=num_plans, deadline=math.inf)
        record = read_study(study)
    found = []
    number = 0
    for trial in record.trials:
        if trial.duplicate_of is not None or not trial.is_spent:
            continue
        number += 1
        if trial.is_scored and trial.plan is not None and trial.size_bytes is not None:
            evaluation = replay.score(trial.plan, Race(replay.objectives, {}, []))
            found.append(replay.found(number, trial.size_bytes, evaluation))
    return found


def volume(found: Sequence[Found]) -> float:
    """The share of the square of sizes (0 to 1) and of logarithms of WER (`FLOOR` to 100%) that is beaten."""
    corners = sorted((each.size, math.log(min(max(each.wer, FLOOR), 1)) / math.log(FLOOR)) for each in found)
    total, best = 0.0, 0.0
    for number, (size, gain) in enumerate(corners):
        best = max(best, gain)
        right = corners[number + 1][0] if number + 1 < len(corners) else 1.0
        total += max(0.0, min(right, 1.0) - size) * best
    return total


def smallest(found: Sequence[Found]) -> float:
    """Bytes of the smallest non-inferior plan; infinite where there is none."""
    return min((each.size_bytes for each in found if each.is_non_inferior), default=math.inf)


def main() -> None:
    """Print the tables, of all seeds so far after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--plans", type=int, nargs="+", default=[20, 40, 80], help="how many are scored")
    parser.add_argument("--answers", type=Path, help="a file that keeps what each plan answered")
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = load_space(ROOT / "search_spaces" / "tiny.yaml")
    most = max(options.plans)
    results: dict[str, dict[int, list[list[Found]]]] = {}  # by arm and number of plans, one a seed
    with tempfile.TemporaryDirectory() as folder, shelve.open(options.answers or f"{folder}/answers") as answers:
        replay = Replay(space, Path(folder), answers)
        for seed in range(options.seeds):
            seeded = replace(space, seed=seed)
            drawn = {
                "random": plain(replay, space, RandomSampler(seed=seed), most),
                "TPE alone": plain(replay, space, TPESampler(seed=seed), most),
            }
            for num_plans in options.plans:
                runs = {name: [each for each in found if each.number <= num_plans] for name, found in drawn.items()}
                runs["autoreap"] = ours(replay, seeded, num_plans)  # it spends its last plans otherwise
                for name, found in runs.items():
                    results.setdefault(name, {}).setdefault(num_plans, []).append(found)
                    line = f"seed {seed}, {num_plans} plans, {name}: {volume(found):.4f}, {smallest(found):,.0f}"
                    print(line, flush=True)
            print_tables(results, options.plans)


def print_tables(results: Mapping[str, Mapping[int, Sequence[Sequence[Found]]]], plans: Sequence[int]) -> None:
    """Both tables."""
    everything = [each for arm in results.values() for runs in arm.values() for found in runs for each in found]
    best, least = volume(everything), smallest(everything)
    headings = " | ".join(f"{num_plans} plans" for num_plans in plans)
    rule = "|---|" + "---|" * len(plans)
    print(f"\nhypervolume as a share of the best known ({best:.4f}), mean (standard error)\n")
    print(f"| arm | {headings} |\n{rule}")
    for name, arm in results.items():
        cells = []
        for num_plans in plans:
            shares = [volume(found) / best for found in arm[num_plans]]
            error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
            cells.append(f"{statistics.mean(shares):.3f} ({error:.3f})")
        print(f"| {name} | {' | '.join(cells)} |")
    print(
        f"\nsmallest non-inferior plan, over the smallest that any run found ({least / 1e6:.2f} MB), median (largest)\n"
    )
    print(f"| arm | {headings} |\n{rule}")
    for name, arm in results.items():
        cells = []
        for num_plans in plans:
            shares = [smallest(found) / least for found in arm[num_plans]]
            cells.append(f"{statistics.median(shares):.2f} ({max(shares):.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
