"""Locks among the processes of one machine. The system lets go of them when a process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreap.errors import InputError


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of `path`, alone or with all who share it; a file is made where nothing is there.

    Yields whether it is held: always, unless `wait` is False.
    """
    descriptor = os.open(path, os.O_RDONLY | (0 if path.exists() else os.O_CREAT), 0o644)
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path, problem: str, fix: str) -> Iterator[None]:
    """Hold the lock of `path` alone; `InputError(problem)` while another process holds it."""
    with locked(path, wait=False) as held:
        if not held:
            raise InputError(problem, where=path, fix=fix)
        yield
