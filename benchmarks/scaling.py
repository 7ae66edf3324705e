"""What it costs that several workers share a study: the storage's time in a trial's life, and what follows for 64.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--storage postgresql://...] [--part latency|workers|simulation]

`latency` fills a study with 1,000 trials, each with the plan of a 48-layer model, then takes and finishes 50 more, in a
fresh SQLite file and, if given, in the PostgreSQL of --storage (in a study of its own, deleted at the end). `workers`
searches 24 trials on the embedded model with one and with two workers. `simulation` has 1, 8 and 64 workers score 1,000
trials of about five minutes each: they queue for their turn, which takes as long as was measured, and end together.
"""

import argparse
import heapq
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoreap.plan import BaseModel, ComponentPlan, PruningPlan
from autoreap.study.group import seat_of
from autoreap.study.heartbeat import Heartbeat, fail_dead_trials
from autoreap.study.retries import num_taken, retry_cut_off
from autoreap.study.storage import Pulse, open_storage
from autoreap.study.trials import PLAN, RESULT, default_storage, open_study

SPACE = Path(__file__).parent.parent / "search_spaces" / "tiny.yaml"
SPANS: dict[str, BaseDistribution] = {
    "retention": FloatDistribution(0.25, 1.0, step=1 / 128),
    "lambda": FloatDistribution(0.0, 4.0),
    "beta": FloatDistribution(0.0, 2.0),
    "layers_cut": IntDistribution(0, 12),
}
METRICS = {"wer": {"value": 0.05, "low": 0.04, "high": 0.06, "numerator": 500, "denominator": 10_000}}
IN_TURN = ("turn", "look", "ask and suggest", "claim")
STEPS = (*IN_TURN, "result and tell")
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["latency", "workers", "simulation"], help="one of the three alone")
    parser.add_argument("--storage", help="URL of a PostgreSQL database to measure too")
    parser.add_argument("--trials", type=int, default=1000, help="in the study, and of the simulation")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    turns = {}
    if options.part != "workers":
        with tempfile.TemporaryDirectory() as folder:
            for url in filter(None, (f"sqlite:///{folder}/studies.db", options.storage)):
                times = measure_life(url, Path(folder), options.trials)
                print_life(url, times)
                taken = zip(*(times[step] for step in IN_TURN), strict=True)
                turns[url.partition(":")[0]] = [sum(parts) for parts in taken]
    if options.part in (None, "simulation"):
        for kind, seconds in turns.items():
            for factor in (1, 4):
                print_simulation(f"{kind}, turns x {factor}", [factor * turn for turn in seconds], options.trials)
    if options.part in (None, "workers"):
        for num_workers in (1, 2):
            print(f"{num_workers} worker(s) on the embedded model: {measure_workers(num_workers):.0f} trials an hour")


def random_plan(draw: random.Random) -> PruningPlan:
    """Half of 128 experts in each of 48 layers."""
    experts = tuple(tuple(sorted(draw.sample(range(128), 64))) for _ in range(48))
    return PruningPlan(BaseModel("m", "0123456789abcdef"), True, ComponentPlan(experts, tuple(range(48))))


def measure_life(url: str, folder: Path, num_trials: int) -> Times:
    """Seconds of each step of 50 trials after `num_trials` others, as a worker of a group takes them."""
    name, draw, pulse = f"scaling-{uuid.uuid4().hex[:8]}", random.Random(0), Pulse()
    group = seat_of(url, name, folder / "locks", pulse).group
    storage = open_storage(url, pulse)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
    study = optuna.create_study(study_name=name, storage=storage, directions=["minimize", "minimize"])
    study.add_trials([_finished(draw) for _ in range(num_trials)])
    times: Times = {step: [] for step in STEPS}
    try:
        with Heartbeat(storage, name, pulse) as heartbeat:
            for _ in range(50):
                _live(study, group, heartbeat, draw, times)
    finally:
        optuna.delete_study(study_name=name, storage=storage)
    return times


def _finished(draw: random.Random) -> FrozenTrial:
    params = {
        "retention": draw.randint(32, 128) / 128,
        "lambda": draw.uniform(0, 4),
        "beta": draw.uniform(0, 2),
        "layers_cut": draw.randint(0, 12),
    }
    attributes = {PLAN: random_plan(draw).as_dict(), RESULT: {"metrics": METRICS, "size_bytes": 1, "seconds": 300.0}}
    values = [params["retention"], draw.random()]
    return create_trial(params=params, distributions=SPANS, values=values, user_attrs=attributes)


def _live(study: optuna.Study, group: Any, heartbeat: Heartbeat, draw: random.Random, times: Times) -> None:
    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        times[step].append(time.perf_counter() - started)

    plan = random_plan(draw)
    result = {"metrics": METRICS, "size_bytes": 1, "seconds": 300.0, "plan_digest": plan.digest()}
    turn = group.turn()
    with timed("turn"):
        turn.__enter__()
    with timed("look"):
        fail_dead_trials(study, heartbeat)
        retry_cut_off(study)
        num_taken(study.get_trials(deepcopy=False))
    with timed("ask and suggest"):
        study.sampler = optuna.samplers.TPESampler(seed=draw.randrange(2**31))
        trial = study.ask(SPANS)
        heartbeat.start(trial.number)
    with timed("claim"):
        trial.set_user_attr(PLAN, plan.as_dict())
        turn.__exit__(None, None, None)
    with timed("result and tell"):
        trial.set_user_attr(RESULT, result)
        study.tell(trial, [trial.params["retention"], draw.random()])
        heartbeat.stop(trial.number)


def print_life(url: str, times: Times) -> None:
    kind = url.partition(":")[0]
    cells = [f"{step} {1000 * statistics.median(seconds):.0f}" for step, seconds in times.items()]
    print(f"{kind}, median ms: {', '.join(cells)}; all {1000 * sum(map(statistics.median, times.values())):.0f}")


def simulate(num_workers: int, lengths: Sequence[float], turns: Sequence[float]) -> float:
    """Seconds until all trials are scored: an event is a worker that wants its turn; turns follow one another."""
    wanting = [0.0] * num_workers
    free = 0.0
    for length, turn in zip(lengths, turns, strict=True):
        free = max(heapq.heappop(wanting), free) + turn
        heapq.heappush(wanting, free + length)
    return max(wanting)


def print_simulation(title: str, turns: list[float], num_trials: int) -> None:
    """Efficiency: the time of one worker that needs no turns, over workers times the time that they took."""
    draw = random.Random(0)
    lengths = [draw.uniform(150, 450) for _ in range(num_trials)]
    drawn = draw.choices(turns, k=num_trials)
    print(f"{title}: {statistics.mean(drawn):.3f} s")
    for num_workers in (1, 8, 64):
        seconds, free = (simulate(num_workers, lengths, taken) for taken in (drawn, [0.0] * num_trials))
        whole, without = (f"{sum(lengths) / (num_workers * spent):.1%}" for spent in (seconds, free))
        print(f"{num_workers} workers: {seconds / 3600:.2f} h, efficiency {whole}; {without} if turns took no time")


def measure_workers(num_workers: int) -> float:
    """Trials an hour from the first trial's start to the last one's end, in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--study", "scaling", "--trials", "24", "--workers", str(num_workers)]
        command = [sys.executable, "-m", "autoreap.cli", "search", str(SPACE), *options]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        storage = default_storage(Path(folder) / "mlruns")
        trials = open_study("scaling", storage).get_trials(states=(TrialState.COMPLETE,))
        spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
        started = min(start for start, _ in spans if start)
        ended = max(end for _, end in spans if end)
        return len(trials) / (ended - started).total_seconds() * 3600


if __name__ == "__main__":
    main()
