"""Real searches in child processes that tests kill: all imports are done once, in a process they fork from."""

import gc
import multiprocessing
import os
import resource
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
# All that a search imports, on its way too: half of its time. The server's path lacks the helpers, so none is named.
_IMPORTED = [
    "autoreap.cli",
    "autoreap.jobs",
    "autoreap.search.tracking",
    "alembic.command",
    "librosa.core.audio",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "optuna.storages._rdb.models",
    "sqlalchemy.dialects.sqlite",
    "transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe",
    "transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe",
    "whisper_normalizer.english",
]
_FORKS.set_forkserver_preload(_IMPORTED)


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

    gc.freeze()  # a collection need not walk over what was imported
    torch.set_num_threads(1)
    os.chdir(project)
    log = os.open("night.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.exit(main(["search", "space.yaml", "--study", "night", *options]))
