"""Where a study is kept: opened patiently, and its failures said in one line."""

import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from autoreap.errors import AutoreapError, InputError
from autoreap.progress import log

# Another process may hold SQLite's lock for a while: a backup, a dashboard. Its default of five seconds loses a trial.
LOCK_SECONDS = 600
OUTAGE_SECONDS = 1800.0  # a server may be away for so long: what took minutes to score is worth waiting for
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
_LONGEST_PAUSE_SECONDS = 30.0
_SQLITE = "sqlite:///"
# Of a machine that lost its power the server hears nothing, and would keep its locks for two hours.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Pulse:
    """A running trial gives a sign of life at each interval; after `grace_seconds` without one it is taken for dead."""

    interval_seconds: int = 10
    grace_seconds: int = 60


def is_shared(url: str) -> bool:
    """Whether processes on several machines may work in this storage at the same time."""
    return url.startswith("postgresql")


def shown(url: str) -> str:
    """The URL without its password: messages end up in logs."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def engine_settings(url: str) -> dict[str, Any]:
    """What SQLAlchemy's `create_engine` is told about the database of `url`."""
    if url.startswith(_SQLITE):
        return {"connect_args": {"timeout": LOCK_SECONDS}}
    if not is_shared(url):
        return {}
    settings: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 2}
    if make_url(url).get_driver_name().startswith("psycopg"):
        settings["connect_args"] = {"options": _KEEPALIVE, "connect_timeout": 10}
    return settings


def open_storage(url: str, pulse: Pulse | None = None) -> RDBStorage:
    """The storage of `url`, made if it is not there; with a `pulse`, several processes may use it at the same time.

    Once opened, a server that goes away is waited for.

    Raises:
        InputError: it can't be opened, or its driver is missing.
    """
    try:
        if url.startswith(_SQLITE):
            _prepare_file(Path(url.removeprefix(_SQLITE)), several=pulse is not None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat is
            opened = RDBStorage(
                url,
                engine_kwargs=engine_settings(url),
                heartbeat_interval=pulse.interval_seconds if pulse else None,
                grace_period=pulse.grace_seconds if pulse else None,
            )
    except Exception as error:  # whatever the database's driver raises
        raise cannot_open(url, error) from None
    if not url.startswith(_SQLITE):
        event.listen(opened.engine, "do_connect", _connected)
    return opened


def cannot_open(url: str, error: Exception) -> InputError:
    """Why the storage of `url` can't be opened, in one line."""
    where = f"--storage {shown(url)}"
    if isinstance(error, ImportError):
        fix = "pip install 'autoreap[postgresql]'" if is_shared(url) else "install the driver that the URL names"
        return InputError("the database's driver is missing", where=where, fix=fix)
    return InputError(f"can't be opened: {_reason(error)}", where=where)


def _prepare_file(path: Path, *, several: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if several:  # readers and the writer then need not wait for one another; the file remembers it
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _connected(dialect: Dialect, _record: Any, arguments: Any, settings: Any) -> Any:
    return patiently(lambda: dialect.connect(*arguments, **settings), (dialect.loaded_dbapi.Error,))


def patiently(
    action: Callable[[], Value],
    errors: tuple[type[Exception], ...] = STORAGE_ERRORS,
    *,
    outage_seconds: float = OUTAGE_SECONDS,
) -> Value:
    """What `action` returns; it is tried again while the database is away.

    Args:
        errors: what is raised of a database that is away; the last one comes out after `outage_seconds`.
    """
    started = time.monotonic()
    pause = 1.0
    while True:
        try:
            return action()
        except errors as error:
            if time.monotonic() - started + pause > outage_seconds:
                raise
            if pause == 1.0:
                log(f"warning: the study's database is away, trying again: {_reason(error)}")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


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
