"""One process at a time, on one machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreap.errors import InputError


@contextmanager
def exclusive(path: Path, problem: str, fix: str) -> Iterator[None]:
    """Hold the lock of `path`, a file or a directory that is there; `InputError(problem)` while another holds it.

    The operating system lets go of it when the process ends, however it ends.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(problem, where=path, fix=fix) from None
        yield
    finally:
        os.close(descriptor)
