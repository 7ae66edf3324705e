"""Workers of one study as child processes: the heavy imports are done once, in a process they fork from."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["autoreap.jobs", "autoreap.study.mlflow_runs", "mlflow.store.tracking.sqlalchemy_store"])


def start_worker(project: Path, storage: str, trials: int, log: str) -> BaseProcess:
    """`autoreap search space.yaml --study night`, with a quick pulse; what it says goes to the file `log` there."""
    process = _FORKS.Process(target=_search, args=(project, storage, trials, project / log))
    process.start()
    return process


def _search(project: Path, storage: str, trials: int, log: Path) -> None:
    import torch

    from autoreap import jobs
    from autoreap.errors import AutoreapError
    from autoreap.study.options import SearchOptions
    from autoreap.study.storage import Pulse

    torch.set_num_threads(1)
    os.chdir(project)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    pulse = Pulse(interval_seconds=1, grace_seconds=4)
    try:
        jobs.search(Path("space.yaml"), SearchOptions(study="night", storage=storage, trials=trials, pulse=pulse))
    except AutoreapError as error:
        print(f"autoreap: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
