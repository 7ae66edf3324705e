"""Optuna's database: opened with clear errors, and talked to with patience."""

import sqlite3
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from autoreap.errors import AutoreapError, InputError
from autoreap.progress import log
from autoreap.wording import duration

OUTAGE_SECONDS = 1800.0  # a database may be away for so long: what took minutes to score is worth waiting for
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
        return {"connect_args": {"timeout": 60}}  # seconds that another process may be writing
    if not is_shared(url):
        return {}
    settings: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 2}
    if make_url(url).get_driver_name().startswith("psycopg"):
        settings["connect_args"] = {"options": _KEEPALIVE, "connect_timeout": 10}
    return settings


def open_storage(url: str, pulse: Pulse | None = None) -> RDBStorage:
    """The database of `url`; with a `pulse` its running trials are watched, and several processes may use it.

    Raises:
        InputError: it can't be opened, or its driver is missing.
    """
    if url.startswith(_SQLITE):
        _prepare_file(Path(url.removeprefix(_SQLITE)), several=pulse is not None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat is
            return RDBStorage(
                url,
                engine_kwargs=engine_settings(url),
                heartbeat_interval=pulse.interval_seconds if pulse else None,
                grace_period=pulse.grace_seconds if pulse else None,
            )
    except Exception as error:  # whatever the database's driver raises
        raise cannot_open(url, error) from None


def cannot_open(url: str, error: Exception) -> InputError:
    """Why the database of `url` can't be opened, in one line."""
    where = f"--storage {shown(url)}"
    if isinstance(error, ImportError):
        fix = "pip install 'autoreap[postgresql]'" if is_shared(url) else "install the driver that the URL names"
        return InputError("the database's driver is missing", where=where, fix=fix)
    lines = str(error.__cause__ or error).splitlines() or [type(error).__name__]
    return InputError(f"can't be opened: {lines[0]}", where=where)


def _prepare_file(path: Path, *, several: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if several:  # readers and the writer then need not wait for one another; the file remembers it
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def patiently(action: Callable[[], Value], *, outage_seconds: float = OUTAGE_SECONDS) -> Value:
    """What `action` returns; it is tried again while the database is away. It must do no harm if done twice.

    Raises:
        AutoreapError: the database is away for longer than `outage_seconds`.
    """
    started = time.monotonic()
    pause = 1.0
    while True:
        try:
            return action()
        except (OperationalError, StorageInternalError) as error:
            reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
            if time.monotonic() - started + pause > outage_seconds:
                raise AutoreapError(
                    f"the study's database is away since {duration(outage_seconds)}: {reason}"
                ) from None
            if pause == 1.0:
                log(f"warning: the study's database is away, trying again: {reason}")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
