"""Real searches in child processes that tests kill: the heavy imports are done once, in a process they fork from."""

import multiprocessing
import os
import resource
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["search_imports"])


def start_search(project: Path, *options: str, largest_file: int | None = None) -> BaseProcess:
    """`autoreap search space.yaml --study night` in `project`; what it says goes to `night.log` there.

    `largest_file` is in bytes: a write beyond it fails as on a full disk.
    """
    process = _FORKS.Process(target=_search, args=(project, options, largest_file))
    process.start()
    return process


def _search(project: Path, options: tuple[str, ...], largest_file: int | None) -> None:
    import torch

    from autoreap.cli import main

    torch.set_num_threads(1)
    os.chdir(project)
    log = os.open("night.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.exit(main(["search", "space.yaml", "--study", "night", *options]))
