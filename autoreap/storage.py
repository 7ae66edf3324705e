"""Where a study is kept: opened patiently, and its failures said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from autoreap.errors import AutoreapError, InputError

# Another process may hold SQLite's lock for a while: a backup, a dashboard. Its default of five seconds loses a trial.
LOCK_SECONDS = 600
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
_SQLITE = "sqlite:///"


def open_storage(url: str) -> BaseStorage:
    """The storage of `url`, made if it is not there; `InputError` if it can't be opened."""
    try:
        if not url.startswith(_SQLITE):
            return optuna.storages.get_storage(url)
        Path(url.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})
    except Exception as error:  # whatever the database's driver raises
        raise InputError(f"can't be opened: {_reason(error)}", where=f"--storage {url}") from None


@contextmanager
def stored() -> Iterator[None]:
    """Around all that a search does with its storage: a failure of it is one clear line.

    Raises:
        AutoreapError: it can't be read or written. What was finished is in it, and the same command goes on.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        raise AutoreapError(
            f"the study can't be read or written: {_reason(error)}; no finished trial is lost, "
            "mend this and the same command goes on"
        ) from error


def _reason(error: Exception) -> str:
    """The driver's own words, which Optuna and SQLAlchemy wrap: `database or disk is full`."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]
