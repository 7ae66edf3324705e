"""Real searches in child processes that tests kill: the heavy imports are done once, in a process they fork from."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["autoreap.jobs", "autoreap.mlflow_runs", "mlflow.store.tracking.sqlalchemy_store"])


def start_search(project: Path, *options: str, log: str = "night.log") -> BaseProcess:
    """`autoreap search space.yaml --study night` in `project`; what it says on stderr goes to the file `log` there."""
    process = _FORKS.Process(target=_search, args=(project, options, project / log))
    process.start()
    return process


def _search(project: Path, options: tuple[str, ...], log: Path) -> None:
    import torch

    from autoreap.cli import main

    torch.set_num_threads(1)
    os.chdir(project)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.exit(main(["search", "space.yaml", "--study", "night", *options]))
