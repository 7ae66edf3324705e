"""A search by several workers: what each is started with, and what must be the same for all of them."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from autoreap import __version__
from autoreap.engines import ENGINES
from autoreap.engines.worker import Worker
from autoreap.errors import AutoreapError, InputError
from autoreap.lock import exclusive
from autoreap.progress import log
from autoreap.study.group import FileLocks, Group, Seat, seat_of
from autoreap.study.options import SearchOptions
from autoreap.study.storage import is_shared

_PACKAGE = Path(__file__).parent.parent


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


def run_workers(space: Path, options: SearchOptions, check: Callable[[], None]) -> None:
    """Run the workers of a search, and wait for all of them. It is enough that one of them comes to its end.

    Args:
        check: raises if a signal has ended them.

    Raises:
        InputError: no worker came to its end, and one refused what it was given; why is on stderr.
        AutoreapError: no worker came to its end.
    """
    local = options.engine == "local"
    shares = gpu_shares(options.workers, options.device) if local else [{}] * options.workers
    arguments = ("search", str(space), "--as-worker", options.of_worker())
    workers = [Worker(number, arguments, share) for number, share in enumerate(shares, start=1)]
    codes = ENGINES[options.engine].run(workers)
    check()
    if 0 in codes:
        return
    if InputError.exit_code in codes:
        raise InputError("refused its input, see above", where=f"worker {codes.index(InputError.exit_code) + 1}")
    raise AutoreapError("no worker came to its end, see above")


@contextmanager
def seated(options: SearchOptions) -> Iterator[Seat]:
    """The place of this process at the study of `options`, whose name and storage are known by now.

    Raises:
        InputError: the study is searched already, and its storage is not one that several may share.
    """
    assert options.study is not None
    assert options.storage is not None
    shared = is_shared(options.storage)
    if options.engine != "local" and not shared:
        where = f"--engine {options.engine}"
        raise InputError("needs a storage that all nodes reach", where=where, fix="--storage postgresql://...")
    if shared and not (options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        log(
            "warning: without --tracking-uri, MLflow is a file in mlruns: workers of several machines must not share it"
        )
    company = shared or options.is_worker
    seat = seat_of(options.storage, options.study, options.root / "locks", options.pulse if company else None)
    if company:
        yield seat
        return
    lock = options.root / f"{options.study}.lock"
    lock.touch()
    with exclusive(lock, "another search of this study is running", fix="wait, or use --study"):
        with seat.group.last() as alone:
            if not alone:
                raise InputError("workers of an earlier search of it still run", where=lock, fix="end them, or wait")
        yield seat


def measuring_alone(root: Path) -> AbstractContextManager[None]:
    """One of the workers that see the folder `root` calibrates; the others then find it done."""
    return Group(FileLocks(root / "locks", "any")).only("calibration")
