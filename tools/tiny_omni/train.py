"""Train the embedded model from scratch: ``python -m tools.tiny_omni.train --work-dir DIR -o CHECKPOINT``.

Two processes of one thread each share every step (two threads in one process are far slower at this size). Stages whose
result is already in the work directory are skipped, so a run can be resumed, or a late stage repeated.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from tools.tiny_omni.corpus import NUM_SHARDS, load_corpus, synthesise_corpus
from tools.tiny_omni.examples import ExampleStream
from tools.tiny_omni.losses import TrainingHeads
from tools.tiny_omni.model import build_model, save_checkpoint
from tools.tiny_omni.routing import Routing
from tools.tiny_omni.stages import Trainee, learn_tasks, make_experts_matter

NUM_PROCESSES = 2
_LONGEST_WARM_UP = 150
_LOG_EVERY = 50


@dataclass(frozen=True)
class Stage:
    """One training stage.

    ``constant_until`` is the progress at which the cosine decay of the learning rate begins; ``augmentation`` scales
    how far voices are changed by computation; ``speech`` names the corpus.
    """

    name: str
    losses: Callable[[Trainee, int, float], Iterator[tuple[str, Tensor]]]
    num_steps: int
    learning_rate: float
    constant_until: float
    augmentation: float
    speech: str = "speech"


STAGES = (
    Stage("tasks", learn_tasks, num_steps=1800, learning_rate=2e-3, constant_until=0.25, augmentation=1.0),
    Stage("experts", make_experts_matter, num_steps=1200, learning_rate=1.5e-3, constant_until=0.1, augmentation=1.8),
    Stage("voices", make_experts_matter, 400, 8e-4, constant_until=0.2, augmentation=1.8, speech="more-voices"),
    Stage("settle", make_experts_matter, 200, 6e-4, constant_until=0.2, augmentation=1.8, speech="more-voices"),
)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run what is missing, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True, help="speech features and stage results are kept here")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the checkpoint is written")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--until", choices=[stage.name for stage in STAGES], default=STAGES[-1].name)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29533")
    for corpus in NUM_SHARDS:
        synthesise_corpus(options.work_dir / corpus, options.seed)
    for index, stage in enumerate(STAGES[: [stage.name for stage in STAGES].index(options.until) + 1]):
        if not _result(options.work_dir, stage).exists():
            job = (index, options.work_dir, options.seed)
            spawn(_run_stage, args=job, nprocs=NUM_PROCESSES)  # type: ignore[no-untyped-call]
    last = next(stage for stage in STAGES if stage.name == options.until)
    model = build_model(options.seed)
    model.load_state_dict(load_file(_result(options.work_dir, last)), strict=False)
    save_checkpoint(model, options.output)
    print(f"wrote {options.output}", flush=True)


def _run_stage(rank: int, stage_index: int, work_dir: Path, seed: int) -> None:
    """Run one stage as process ``rank``; process 0 writes the result."""
    torch.set_num_threads(1)
    _take_own_core(rank)
    dist.init_process_group("gloo", rank=rank, world_size=NUM_PROCESSES)
    stage = STAGES[stage_index]
    model = build_model(seed)
    heads = TrainingHeads(model)
    rng = np.random.default_rng([seed, stage_index, rank])
    torch.manual_seed(seed)
    if stage_index > 0:
        model.load_state_dict(load_file(_result(work_dir, STAGES[stage_index - 1])), strict=False)
    stream = ExampleStream(load_corpus(work_dir / stage.speech), rng, stage.augmentation)
    trainee = Trainee(model, heads, Routing(model, seed), stream, rng)
    _train(stage, trainee, rank)
    if rank == 0:
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, _result(work_dir, stage))
    dist.destroy_process_group()


def _take_own_core(rank: int) -> None:
    """Pin this process to a core where the system can: schedulers put two that wait for each other on the same one."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})


class _Progress:
    """Prints the mean losses, the time spent and the time left every few steps."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.started, self.cpu_started = time.monotonic(), time.process_time()
        self.losses: dict[str, list[float]] = {}

    def add(self, name: str, loss: Tensor) -> None:
        self.losses.setdefault(name, []).append(float(loss.detach()))

    def report(self, num_done: int) -> None:
        elapsed, cpu = time.monotonic() - self.started, time.process_time() - self.cpu_started
        remaining = elapsed / num_done * (self.stage.num_steps - num_done)
        means = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in sorted(self.losses.items()))
        times = f"{elapsed:.0f} s (CPU {cpu:.0f} s), ETA {remaining:.0f} s"
        print(f"{self.stage.name} {num_done}/{self.stage.num_steps}: {means}; {times}", flush=True)
        self.losses = {}


def _train(stage: Stage, trainee: Trainee, rank: int) -> None:
    parameters = [*trainee.model.thinker.parameters(), *trainee.heads.parameters()]
    optimiser = _optimiser(parameters)
    progress = _Progress(stage)
    trainee.model.train()
    for step in range(stage.num_steps):
        share = step / stage.num_steps
        for group in optimiser.param_groups:
            group["lr"] = stage.learning_rate * _rate(stage, step)
        for name, loss in stage.losses(trainee, step, share):
            loss.backward()  # type: ignore[no-untyped-call]
            progress.add(name, loss)
        _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if rank == 0 and (step + 1) % _LOG_EVERY == 0:
            progress.report(step + 1)


def _optimiser(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), foreach=True)


def _rate(stage: Stage, step: int) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, constant, then cosine down to 2%."""
    warm_up = min(_LONGEST_WARM_UP, stage.num_steps // 8)
    if step < warm_up:
        return (step + 1) / warm_up
    progress = step / stage.num_steps
    if progress < stage.constant_until:
        return 1.0
    phase = (progress - stage.constant_until) / (1.0 - stage.constant_until)
    return float(0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * phase)))


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average all gradients over the processes in one flat message."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    dist.all_reduce(flat)
    flat /= NUM_PROCESSES
    pieces = torch.split(flat, [parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _result(work_dir: Path, stage: Stage) -> Path:
    return work_dir / f"stage-{stage.name}.safetensors"


if __name__ == "__main__":
    main()
