"""Where studies are kept: the database, its errors in one line, and the lock of a study's leader."""

import hashlib
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from autoreap.errors import AutoreapError, InputError, first_line
from autoreap.files import exclusive, waiting_lock
from autoreap.search.addresses import public_url, sqlite_file, sqlite_url, without_secrets
from autoreap.search.database_files import build_database
from autoreap.search.records import StudyRecord, check_format, read_whole

logger = logging.getLogger(__name__)

DEFAULT_ROOT = Path("mlruns")
# Another process may hold SQLite's lock for a while: a backup, a dashboard. Its default of five seconds loses a trial.
LOCK_SECONDS = 600
# A server may be away for so long: what took minutes to score is worth waiting for.
OUTAGE_SECONDS = 1800.0
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
_TABLES = {
    *("studies", "study_directions", "study_user_attributes", "study_system_attributes", "trials", "trial_values"),
    *("trial_params", "trial_user_attributes", "trial_system_attributes", "version_info"),
}
_LONGEST_PAUSE_SECONDS = 30.0
# A server does not notice that a machine lost its power, and would keep its locks for two hours.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"

Value = TypeVar("Value")


def default_storage(root: Path = DEFAULT_ROOT) -> str:
    """Where studies live unless told otherwise."""
    return sqlite_url(root / "studies.db")


def open_storage(url: str) -> RDBStorage:
    """The storage of `url`, made if it is not there. A server that goes away later is waited for.

    Raises:
        InputError: it can't be opened, its driver is missing, or the file is of another program.
    """
    file = sqlite_file(url)
    try:
        with _alone_with(file), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if file is not None and _is_there(file):
                _check_tables(file, url)
            elif file is not None:
                # Optuna makes table after table; what a kill would leave of them could not be told from damage.
                build_database(file, lambda partial: RDBStorage(sqlite_url(partial)).engine.dispose())
            storage = RDBStorage(url, engine_kwargs=_engine_settings(url))
    except InputError:
        raise
    except Exception as error:  # whatever the database's driver raises
        raise _cannot_open(url, error) from None
    if not url.startswith("sqlite"):
        event.listen(storage.engine, "do_connect", _connect)
    return storage


def _alone_with(file: Path | None) -> AbstractContextManager[None]:
    # Optuna makes the tables of a database when it opens it, and two processes must not make the same one.
    if file is None:
        return nullcontext()
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        return nullcontext()  # of another user, to be read; no table is made there
    return waiting_lock(file.with_name(f".{file.name}.lock"), seconds=LOCK_SECONDS)


def open_study(name: str, storage: str | None = None) -> optuna.Study:
    """The study `name`, for reading; `InputError` lists the known ones."""
    url = storage or default_storage()
    file = sqlite_file(url)
    if file is not None and not _is_there(file):
        raise InputError("no studies here", where=url, fix="run `autoreap search` first, or from its folder")
    opened = open_storage(url)
    try:
        names = optuna.get_all_study_names(opened)
    except Exception as error:  # whatever the database's driver raises
        raise _cannot_open(url, error) from None
    if name not in names:
        fix = f"known: {', '.join(names) or 'none'}"
        raise InputError(f"no study {name!r}", where=public_url(url), fix=fix)
    study = optuna.load_study(study_name=name, storage=opened)
    check_format(study)
    return study


def _is_there(file: Path) -> bool:
    """Whether there is a database; SQLite takes an empty file for one that is still to be made."""
    return file.exists() and file.stat().st_size > 0


def _check_tables(file: Path, url: str) -> None:
    """Raise `InputError` if `file`, of `url`, lacks tables: Optuna would make them, be it another program's file."""
    address = f"{file.absolute().as_uri()}?mode=rw"  # rw does not make the file
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS)) as connection:
            found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise _cannot_open(url, error) from None
    # Other tables may be there, too: another version of Optuna may have more.
    missing = sorted(_TABLES - found)
    if missing:
        problem = f"holds no studies: it has no table {missing[0]}"
        raise InputError(problem, where=f"--storage {public_url(url)}", fix="is it damaged, or of another program?")


def read_stored(name: str, storage: str | None = None) -> StudyRecord:
    """What the study `name` recorded; `InputError` where there is none, or the database is damaged."""
    with damage_in_one_line(name, storage or default_storage()):
        return read_whole(open_study(name, storage))


@contextmanager
def damage_in_one_line(study: str, url: str) -> Iterator[None]:
    """Around what reads all of `study`: `InputError` for whatever is made of damaged values."""
    try:
        yield
    except AutoreapError:
        raise
    except Exception as error:
        where = f"study {study} of {public_url(url)}"
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise InputError(f"can't be read, is the database damaged? {reason}", where=where) from None


@contextmanager
def leading(study: str, url: str, root: Path) -> Iterator[None]:
    """Be the one process that leads `study`. The lock goes when the process ends, however it ends.

    For SQLite it is a file in `root`; for PostgreSQL an advisory lock of the server, which all machines see.

    Raises:
        InputError: another search of the study is running.
    """
    problem, fix = "another search of this study is running", "wait, or use --study"
    if not url.startswith("postgresql"):
        with exclusive(root / f"{study}.lock", problem, fix):
            yield
        return
    # The server's locks have numbers for names, of 64 bits with a sign.
    key = int.from_bytes(hashlib.sha256(f"autoreap/{study}".encode()).digest()[:8], signed=True)
    try:
        engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        connection = engine.connect()
    except Exception as error:  # whatever the database's driver raises
        raise _cannot_open(url, error) from None
    try:
        # Held as long as this connection, so that it goes with the process, however that ends:
        # https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            raise InputError(problem, where=f"study {study}", fix=fix)
        yield
    finally:
        try:
            connection.close()
        except SQLAlchemyError:
            logger.debug("the connection that held the lock is lost, so the server has released the lock")


@contextmanager
def storage_errors_in_one_line(url: str) -> Iterator[None]:
    """Around all that a search does with its storage at `url`.

    Raises:
        AutoreapError: it can't be read or written. Finished trials are in it, and the same command resumes.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        raise AutoreapError(
            f"the study can't be read or written: {reason_of(error, url)}; no finished trial is lost, "
            "fix this and run the same command again"
        ) from error


def _engine_settings(url: str) -> dict[str, Any]:
    """Arguments of SQLAlchemy's `create_engine` for the database of `url`."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": LOCK_SECONDS}}
    if not url.startswith("postgresql"):
        return {}
    settings: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 2}
    if make_url(url).get_driver_name().startswith("psycopg"):
        settings["connect_args"] = {"options": _KEEPALIVE, "connect_timeout": 10}
    return settings


def _cannot_open(url: str, error: Exception) -> InputError:
    where = f"--storage {public_url(url)}"
    if isinstance(error, ImportError):
        is_postgresql = url.startswith("postgresql")
        fix = "pip install 'autoreap[postgresql]'" if is_postgresql else "install the driver that the URL names"
        return InputError("the database's driver is missing", where=where, fix=fix)
    return InputError(f"can't be opened: {reason_of(error, url)}", where=where)


def _connect(dialect: Dialect, _record: Any, arguments: Any, settings: Any) -> Any:
    return retry_while_away(lambda: dialect.connect(*arguments, **settings), (dialect.loaded_dbapi.Error,))


def retry_while_away(
    action: Callable[[], Value],
    errors: tuple[type[Exception], ...] = STORAGE_ERRORS,
    *,
    outage_seconds: float = OUTAGE_SECONDS,
) -> Value:
    """The result of `action`; it is tried again while the database is away.

    Args:
        errors: what is raised while a database is away; the last one comes out after `outage_seconds`.
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
                logger.warning("the study's database can't be reached, trying again: %s", reason_of(error))
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def reason_of(error: Exception, url: str = "") -> str:
    """The driver's own words, which Optuna and SQLAlchemy wrap: `database or disk is full`; nothing secret of `url`."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return without_secrets(first_line(error), url)
