"""Files that are complete or not there, and locks that end with their process."""

import glob
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autoreap.errors import InputError

_PARTIAL = ".partial"
_MAX_PREFIX = 60  # characters: a name may be as long as the file system allows, and is to get longer
_LEFT_SECONDS = 3600.0


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, in a folder that is there; a rename makes it `path` at the end of the context.

    Nobody can guess its name and lay a link there. A link at `path` is replaced, not followed. After an error nothing
    is left; what killed processes left goes with `remove_partial`.

    Raises:
        InputError: `path` is a directory.
    """
    if path.is_dir() and not path.is_symlink():
        raise InputError("is a directory", where=path, fix="name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial(path)
    descriptor, name = tempfile.mkstemp(prefix=_partial_prefix(path), suffix=_PARTIAL, dir=path.parent)
    partial = Path(name)
    try:
        # Rights as of any other file, where mkstemp keeps it to its owner. A umask can't be read without being set.
        umask = os.umask(0o077)
        os.umask(umask)
        os.fchmod(descriptor, 0o666 & ~umask)
        os.close(descriptor)
        yield partial
        partial.replace(path)
    except BaseException:  # an interrupt leaves nothing either
        partial.unlink(missing_ok=True)
        raise


def _partial_prefix(path: Path) -> str:
    return f".{path.name[:_MAX_PREFIX]}."


def remove_partial(path: Path) -> None:
    """Remove what killed processes have left of writing `path`: files of ours that are no longer written to."""
    for left in path.parent.glob(f"{glob.escape(_partial_prefix(path))}*{_PARTIAL}"):
        status = left.lstat()
        if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _LEFT_SECONDS:
            left.unlink(missing_ok=True)


def own_directory(path: Path) -> None:
    """Make the directory `path`, whose name can be guessed, or take up the one that is there if it is this user's.

    Raises:
        InputError: it is a link or another user's, who could lay links in it; or it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't be written: {error.strerror}", where=path, fix="name another directory") from None
    # Looked at when it is there: until then another user could lay a link.
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise InputError("is a link, and would be emptied", where=path, fix="remove it, or name another directory")
    if status.st_uid != os.geteuid():
        raise InputError("belongs to another user", where=path, fix="name another directory")


@contextmanager
def exclusive(path: Path, problem: str, fix: str) -> Iterator[None]:
    """Hold the lock file `path`; `InputError(problem)` while another process holds it.

    The lock goes when its process ends, however it ends; the file goes with it, unless the process was killed.
    filelock notices that a file it waits for was removed, so that is safe.
    """
    lock = _lock_file(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(problem, where=path, fix=fix) from None
    with _released(lock):
        yield


@contextmanager
def waiting_lock(
    path: Path, *, seconds: float | None = None, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock file `path`, after other processes if need be; `on_wait` is called where one holds it now.

    Raises:
        TimeoutError: others hold it for longer than `seconds`.
    """
    lock = _lock_file(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        try:
            lock.acquire(timeout=-1 if seconds is None else seconds)  # filelock waits for ever at -1
        except Timeout:
            raise TimeoutError(f"another process has held {path} for {seconds} s") from None
    with _released(lock):
        yield


def _lock_file(path: Path) -> FileLock:
    """The lock of `path`, not yet held, in a folder that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise InputError("is a link, and would be written through", where=path, fix="remove it")
    return FileLock(path)


@contextmanager
def _released(lock: FileLock) -> Iterator[None]:
    """Remove the file of `lock`, which is held, and release it at the end."""
    try:
        yield
    finally:
        # While it is held: after the release it may be the file of the next holder.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
