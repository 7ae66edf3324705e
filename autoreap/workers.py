"""A search by several workers: what each is started with, and what must be the same for all of them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from autoreap import __version__
from autoreap.engines import ENGINES
from autoreap.engines.worker import Worker
from autoreap.errors import AutoreapError, InputError

_PACKAGE = Path(__file__).parent


def code_digest(package: Path = _PACKAGE) -> str:
    """The version, and twelve hex digits of the package's source files: what scored a trial."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}-{total.hexdigest()[:12]}"


def gpu_shares(num_workers: int, device: str | None) -> list[dict[str, str]]:
    """What each worker on this machine has in its environment, so that it sees GPUs of its own.

    One each; with `--device auto` they are dealt out evenly, for a model that needs several.

    Raises:
        InputError: there are fewer GPUs than workers, or the device is one that all of them would use.
    """
    if device == "cpu":
        return [{}] * num_workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if not gpus:
        return [{}] * num_workers
    if device not in (None, "auto", "cuda"):
        raise InputError(f"{num_workers} workers can't share it", where=f"--device {device}", fix="leave --device out")
    if num_workers > len(gpus):
        raise InputError(f"there are {len(gpus)} GPUs, one for each worker", where=f"--workers {num_workers}")
    each = len(gpus) // num_workers if device == "auto" else 1
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[number * each : (number + 1) * each])} for number in range(num_workers)
    ]


def run_workers(engine: str, num_workers: int, arguments: Sequence[str], device: str | None) -> None:
    """Run `autoreap` with `arguments` in so many workers, and wait for all of them. One that comes to its end will do.

    Raises:
        InputError: all refused what they were given, or one did and none came to its end; why is on stderr.
        AutoreapError: none came to its end.
    """
    shares = gpu_shares(num_workers, device) if engine == "local" else [{}] * num_workers
    workers = [Worker(number, tuple(arguments), share) for number, share in enumerate(shares, start=1)]
    codes = ENGINES[engine].run(workers)
    if 0 in codes:
        return
    if InputError.exit_code in codes:
        raise InputError("refused its input, see above", where=f"worker {codes.index(InputError.exit_code) + 1}")
    raise AutoreapError("no worker came to its end, see above")
