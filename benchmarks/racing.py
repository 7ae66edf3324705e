"""What racing saves, and what it costs: the figures of docs/benchmarks.md.

    python benchmarks/racing.py simulation   simulated studies: scoring saved, members of the front lost
    python benchmarks/racing.py samplers     what samplers find when raced trials have no values
    python benchmarks/racing.py tiny         the embedded model: the same 40 trials with and without

Minutes each, on one core.

Shape legend: T trials, U utterances, R rivals, L looks.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState
from scipy.stats import binomtest, t

from autoreap import jobs
from autoreap.evaluation.evaluator import CHUNKED_FROM, random_chunks
from autoreap.search import records
from autoreap.search.front import front_of
from autoreap.search.racing import ALPHA, lower_bound, winsorise
from autoreap.search.records import StudyRecord, TrialStatus
from autoreap.search.storage import default_storage

ROOT = Path(__file__).parent.parent
NUM_TRIALS, NUM_STUDIES = 100, 200
SIZES = (300, 1000, 2600)
BATCH_SIZE = 32
OBJECTIVES = {"size_bytes": "minimize", "wer": "minimize"}


@dataclass(frozen=True)
class Simulated:
    """A study of which everything is known: `size` [T], `errors` [T, U], `words` [U]."""

    size: NDArray[np.float64]
    errors: NDArray[np.int64]
    words: NDArray[np.int64]


def simulated(rng: np.random.Generator, num_utterances: int) -> Simulated:
    """Smaller candidates err more, later ones are better chosen, and some utterances are hard for everyone.

    Corpus WER goes from some 2% to beyond 100%; a word in error may bring others that nobody said, and one
    answer in 300 runs away.
    """
    words = np.clip(rng.lognormal(np.log(15), 0.6, num_utterances), 2, 60).astype(np.int64)
    size = rng.uniform(0.25, 1.0, NUM_TRIALS)
    clumsiness = np.abs(rng.normal(0, np.linspace(2.0, 0.7, NUM_TRIALS)))
    log_odds = -4.2 + 8 * (1 - size) ** 2 + clumsiness
    hardness = rng.normal(0, 0.9, num_utterances)
    own = rng.normal(0, 0.5, (NUM_TRIALS, num_utterances))
    rate = 1 / (1 + np.exp(-(log_odds[:, None] + hardness + own)))
    runaways = words * (rng.random(own.shape) < 1 / 300)
    return Simulated(size, rng.binomial(words, rate) + rng.poisson(words * rate**3) + runaways, words)


def on_front(size: NDArray[np.float64], errors: NDArray[np.int64]) -> list[int]:
    """Which of T trials with these sizes and total errors are on the front."""
    return [
        one
        for one in range(len(size))
        if not np.any((size <= size[one]) & (errors <= errors[one]) & ((size < size[one]) | (errors < errors[one])))
    ]


def order_of(words: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """The order in which utterances are answered, and after how many there is a look; none in a small set."""
    chunks = [np.array(chunk) for chunk in random_chunks(len(words), BATCH_SIZE)]
    ordered = [chunk[np.argsort(-words[chunk], kind="stable")] for chunk in chunks]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    return np.concatenate(ordered), [int(end) for end in ends] if len(words) >= CHUNKED_FROM else []


def raced_study(study: Simulated, *, samples: bool) -> tuple[float, int, int]:
    """(share of the words not decoded, members of the true front stopped, members of the true front)."""
    order, looks = order_of(study.words)
    errors = study.errors[:, order]
    cumulated, cost = np.cumsum(errors, axis=1), np.cumsum(study.words[order])
    totals = cumulated[:, -1]
    scored: list[int] = []
    decoded, stopped = 0.0, set()
    for trial in range(len(study.size)):
        front = [scored[place] for place in on_front(study.size[scored], totals[scored])] if scored else []
        rivals = [rival for rival in front if study.size[rival] <= study.size[trial]]
        end = len(order)
        if rivals:
            least = int(min(totals[rivals]))  # rivals are smaller: of continuous sizes no two are equal
            end = min(end, int(np.searchsorted(cumulated[trial], least)) + 1)
            if samples and looks:
                end = min(end, first_look(errors[trial], errors[rivals].astype(float), looks))
        if end < len(order) or (rivals and totals[trial] >= least):
            stopped.add(trial)
        else:
            scored.append(trial)
        decoded += cost[end - 1] / cost[-1]
    true = set(on_front(study.size, totals))
    return 1 - decoded / len(study.size), len(true & stopped), len(true)


def first_look(own: NDArray[np.int64], theirs: NDArray[np.float64], looks: Sequence[int]) -> int:
    """After how many utterances a sample of errors [U] exceeds one of [R, U]; U if none says so."""
    at = np.array([look for look in looks if 100 <= look < len(own)])
    if not len(at):
        return len(own)
    common = winsorise(theirs)
    differences = own - common
    means = np.cumsum(differences, axis=1)[:, at - 1] / at  # [R, L]
    deviations = np.sqrt(np.cumsum(differences**2, axis=1)[:, at - 1] / at - means**2)
    bounds = lower_bound(at, means, deviations, alpha=ALPHA / len(theirs), population=len(own))
    above = (bounds > (theirs - common).mean(axis=1)[:, None]).any(axis=0)
    return int(at[above][0]) if above.any() else len(own)


def print_simulation() -> None:
    print("| utterances | rule | words not decoded | of the front lost (95% interval) |\n|---|---|---|---|")
    for num_utterances in SIZES:
        for samples in (False, True) if num_utterances >= CHUNKED_FROM else (False,):
            rng = np.random.default_rng(0)
            runs = [raced_study(simulated(rng, num_utterances), samples=samples) for _ in range(NUM_STUDIES)]
            saved, lost, members = (np.array(column) for column in zip(*runs, strict=True))
            interval = binomtest(int(lost.sum()), int(members.sum())).proportion_ci(method="exact")
            half = t.ppf(0.975, len(saved) - 1) * saved.std(ddof=1) / len(saved) ** 0.5
            rule = "bound or sample" if samples else "bound"
            share = f"{lost.sum()} of {members.sum()} ({interval.low:.2%} to {interval.high:.2%})"
            print(f"| {num_utterances:,} | {rule} | {saved.mean():.1%} ± {half:.1%} | {share} |", flush=True)


def synthetic(trial: optuna.Trial) -> tuple[float, float]:
    """Size and log WER of a candidate: both of two knobs matter, two others matter a little."""
    retention = trial.suggest_float("retention", 0.25, 1.0)
    layers_cut = trial.suggest_int("layers_cut", 0, 12)
    lambda_, beta = trial.suggest_float("lambda", 0.0, 4.0), trial.suggest_float("beta", 0.0, 2.0)
    size = (0.1 + 0.9 * retention) * (1 - layers_cut / 48)
    loss = 6 * (1 - retention) ** 2 * (1 + 0.3 * (lambda_ - 1.5) ** 2 + 0.5 * (beta - 0.7) ** 2) + (layers_cut / 7) ** 2
    return size, float(np.log(0.02) + loss)


def hypervolume(study: optuna.Study) -> float:
    """Up to a size of 1 and a WER of 100%."""
    rows = sorted(tuple(trial.values) for trial in study.trials if trial.state == TrialState.COMPLETE)
    total, lowest = 0.0, 0.0
    for size, log_wer in rows:
        if log_wer < lowest:
            total += (1 - size) * (lowest - log_wer)
            lowest = log_wer
    return total


def explored(sampler: BaseSampler, num_trials: int, *, racing: bool) -> float:
    """The hypervolume that a study comes to. Every trial is stopped that some earlier one beats, which is the most."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    scored: list[tuple[float, float]] = []
    for _ in range(num_trials):
        trial = study.ask()
        size, log_wer = synthetic(trial)
        if racing and any(other[0] <= size and other[1] <= log_wer for other in scored):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, (size, log_wer))
            scored.append((size, log_wer))
    return hypervolume(study)


def print_samplers() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers: dict[str, tuple[Callable[[int], BaseSampler], int, int]] = {
        "tpe": (lambda seed: TPESampler(seed=seed), 20, 100),
        "nsgaii": (lambda seed: NSGAIISampler(seed=seed), 20, 100),
        "gp": (lambda seed: GPSampler(seed=seed), 4, 40),
    }
    print("| sampler | seeds | trials | all scored | raced | raced minus scored (95% interval) |")
    print("|---|---|---|---|---|---|")
    for name, (make, num_seeds, num_trials) in samplers.items():
        found = np.array(
            [[explored(make(seed), num_trials, racing=racing) for racing in (False, True)] for seed in range(num_seeds)]
        )
        plain, raced = found.mean(axis=0)
        difference = found[:, 1] - found[:, 0]
        half = t.ppf(0.975, num_seeds - 1) * difference.std(ddof=1) / num_seeds**0.5
        cells = f"{plain:.3f} | {raced:.3f} | {difference.mean():+.3f} ± {half:.3f}"
        print(f"| {name} | {num_seeds} | {num_trials} | {cells} |", flush=True)


def space_in(folder: Path, *, racing: bool) -> Path:
    """The shipped space of the embedded model, shipping nothing."""
    source = ROOT / "search_spaces" / "tiny.yaml"
    space = yaml.safe_load(source.read_text()) | {"racing": racing}
    del space["materialise"]
    space["evals"] = str((source.parent / space["evals"]).resolve())
    space["calibration"] = {key: str((source.parent / path).resolve()) for key, path in space["calibration"].items()}
    path = folder / f"{'raced' if racing else 'plain'}.yaml"
    path.write_text(yaml.safe_dump(space))
    return path


def searched(folder: Path, repeat: StudyRecord | None = None) -> StudyRecord:
    """40 trials that are all scored; or the same ones again, raced."""
    options = jobs.SearchOptions(
        model="tiny", study="raced" if repeat else "plain", root=folder / "mlruns", confirm=False
    )
    if repeat:
        directions: list[Any] = list(repeat.objectives.values())
        storage = default_storage(folder / "mlruns")
        study = optuna.create_study(study_name="raced", storage=storage, directions=directions)
        for trial in repeat.trials:
            if trial.origin == "sampled":
                study.enqueue_trial(dict(trial.params))
            else:
                records.enqueue_preset(study, trial.origin, trial.params)
    return jobs.search(space_in(folder, racing=repeat is not None), options).study


def spent(study: StudyRecord) -> tuple[float, int, int]:
    """(seconds of scoring, utterances scored, trials pruned)."""
    num_utterances = sum(metric.num_samples or 0 for metric in study.baseline.metrics.values())
    seconds, scored, pruned = 0.0, 0, 0
    for trial in study.trials:
        if trial.duplicate_of is None:
            seconds += trial.seconds
            scored += trial.num_scored if trial.status is TrialStatus.PRUNED else num_utterances
            pruned += trial.status is TrialStatus.PRUNED
    return seconds, scored, pruned


def print_tiny() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = searched(Path(folder))
        raced = searched(Path(folder), plain)
        fronts = [{point.plan_digest: point.values for point in front_of(study)} for study in (plain, raced)]
        print("| | seconds of scoring | utterances and questions | trials pruned |\n|---|---|---|---|")
        for name, study in (("all scored", plain), ("raced", raced)):
            seconds, scored, pruned = spent(study)
            print(f"| {name} | {seconds:.1f} | {scored:,} | {pruned} of {len(study.trials)} |")
        print(f"\nThe front, of {len(fronts[0])}, is the same: {fronts[0] == fronts[1]}.")


if __name__ == "__main__":
    started = time.monotonic()
    {"simulation": print_simulation, "samplers": print_samplers, "tiny": print_tiny}[sys.argv[1]]()
    print(f"\n{time.monotonic() - started:.0f} s")
