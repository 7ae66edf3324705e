"""One Ray task a worker, wherever the cluster has room for it: with a GPU of its own, if the cluster has any."""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoreap.engines.worker import MAX_RESTARTS, Worker, passing_signals_on
from autoreap.errors import InputError
from autoreap.progress import log

_LOOK_SECONDS = 1.0  # a signal is handled between two looks


def run(workers: Sequence[Worker]) -> list[int]:
    """See `engines.Engine`. Joins the cluster of RAY_ADDRESS, or the one that this machine is part of.

    A worker whose node dies starts again on another node. Each node has autoreap installed, and the folder that the
    search was started in.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed", where="--engine ray", fix="pip install 'autoreap[ray]'") from None
    joined_here = not ray.is_initialized()
    if joined_here:
        ray.init()
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # A process that has held a model goes with it (max_calls): the GPU is whole again for the next worker.
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=MAX_RESTARTS, scheduling_strategy="SPREAD")
    tasks = [task(_work).remote(worker, Path.cwd()) for worker in workers]
    log(f"{len(tasks)} workers on a Ray cluster of {len(ray.nodes())} nodes, {'a GPU' if gpus else 'no GPU'} each")
    try:
        return _codes(ray, tasks)
    finally:
        if joined_here:
            ray.shutdown()


def _work(worker: Worker, folder: Path) -> int:
    """In the task's process: the same command that a person would start."""
    os.environ.update(worker.environment)
    try:
        os.chdir(folder)
    except OSError as error:
        log(f"the folder of the search is not on this node: {error}")
        return InputError.exit_code
    sys.argv = ["autoreap", *worker.arguments]
    try:
        runpy.run_module("autoreap.cli", run_name="__main__")
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def _codes(ray: Any, tasks: Sequence[Any]) -> list[int]:
    """The exit codes; 1 for a worker that the cluster lost too often."""

    def send(_number: int) -> None:
        for task in tasks:
            ray.cancel(task)  # as Ctrl-C would, in the task's process

    codes = []
    with passing_signals_on(send):
        while ray.wait(tasks, num_returns=len(tasks), timeout=_LOOK_SECONDS)[1]:
            pass
    for number, task in enumerate(tasks, start=1):
        try:
            codes.append(int(ray.get(task)))
        except ray.exceptions.RayError as error:
            log(f"worker {number} was lost: {type(error).__name__}")
            codes.append(1)
    return codes
