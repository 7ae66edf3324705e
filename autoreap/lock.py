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

    The operating system lets go of it when the process ends, however it ends. Who holds it may remove or rename `path`:
    who had opened it before then counts as having come too early, since a third one may hold what is there now.
    """
    held = InputError(problem, where=path, fix=fix)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise held from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        if not is_there:
            raise held
        yield
    finally:
        os.close(descriptor)
