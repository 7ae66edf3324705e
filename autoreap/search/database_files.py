"""Files of SQLite databases: whole or not there, whatever is killed while their tables are made."""

import secrets
from collections.abc import Callable
from pathlib import Path

# What SQLite keeps beside a database, and would apply to any of that name.
BESIDE = ("-journal", "-wal", "-shm")


def build_database(path: Path, build: Callable[[Path], None]) -> None:
    """Have `build` make a database beside `path`, which a rename makes it; the caller holds a lock on `path`.

    Raises:
        OSError, or what `build` raises: nothing is left of the database then.
    """
    # Of a process that was killed; nobody else is at work here, since the caller holds the lock.
    for leftover in path.parent.glob(f".{path.name}.*.partial*"):
        leftover.unlink()
    # A journal of a database that is gone would be applied to the new one.
    for ending in BESIDE:
        path.with_name(path.name + ending).unlink(missing_ok=True)
    # A name of its own each time: MLflow keeps connections to what it has once opened.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        build(partial)
        partial.rename(path)
    except BaseException:
        for ending in ("", *BESIDE):
            partial.with_name(partial.name + ending).unlink(missing_ok=True)
        raise
