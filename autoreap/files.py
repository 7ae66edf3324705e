"""Files that are complete or not there, and locks that end with their process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autoreap.errors import InputError


def partial_of(path: Path) -> Path:
    """Where `path` is written until it is complete; a killed process leaves it behind."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, in a folder that is there; a rename makes it `path` at the end of the context.

    After an error nothing is left.

    Raises:
        InputError: `path` is a directory.
    """
    if path.is_dir():
        raise InputError("is a directory", where=path, fix="name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial_of(path)
        partial_of(path).replace(path)
    except BaseException:
        partial_of(path).unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(path: Path, problem: str, fix: str) -> Iterator[None]:
    """Hold the lock file `path`; `InputError(problem)` while another process holds it.

    The lock goes when its process ends, however it ends; the file goes with it, unless the process was killed.
    filelock notices that a file it waits for was removed, so that is safe.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(problem, where=path, fix=fix) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def waiting_lock(
    path: Path, *, seconds: float | None = None, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock file `path`, after other processes if need be; `on_wait` is called where one holds it now.

    Raises:
        TimeoutError: others hold it for longer than `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        try:
            lock.acquire(timeout=-1 if seconds is None else seconds)
        except Timeout:
            raise TimeoutError(f"another process has held {path} for {seconds} s") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
