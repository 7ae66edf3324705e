"""Locks among the processes of one machine. The system lets go of them when a process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreap.errors import InputError


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of the file `path`, which is made if need be, alone or with all who share it.

    Yields whether it is held: always, unless `wait` is False.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)  # who may only read what another user made can lock it
    try:
        yield _flock(descriptor, shared=shared, wait=wait)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path, problem: str, fix: str) -> Iterator[None]:
    """Hold the lock of `path`, a file or a directory that is there; `InputError(problem)` while another holds it.

    Who holds it may remove or rename `path`: who had opened it before then counts as having come too early, since a
    third one may hold what is there now.
    """
    refusal = InputError(problem, where=path, fix=fix)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise refusal from None
    try:
        if not _flock(descriptor, shared=False, wait=False) or not _is_at(descriptor, path):
            raise refusal
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, *, shared: bool, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is still what was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
