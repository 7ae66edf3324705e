"""MLflow's database in a folder of this machine: whole or not there, and about the files beside it.

MLflow takes seconds to make its tables, in steps; what a kill or a full disk leaves of them it can neither use nor
mend. So they are made beside it, and a rename makes them the database. No MLflow here: only SQLite.
"""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from autoreap.files import waiting_lock
from autoreap.search.database_files import BESIDE, build_database

logger = logging.getLogger(__name__)

NAME = "mlflow.db"
LOCK_SECONDS = 60.0  # another process that makes the database needs a few
_BUSY_SECONDS = 5.0
# Where MLflow says where files lie.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def make_whole(folder: Path, revision: str, build: Callable[[Path], None], experiment: str) -> Path:
    """The database in `folder`, whole: made by `build` if it is not there, or is of no use.

    What is of no use is kept under another name. Where the folder was moved, the database says so from now on.

    Args:
        revision: of the tables that MLflow makes now.
        build: makes the database in a file.
        experiment: whose files lie in `artifacts/` of the folder.

    Raises:
        sqlite3.Error, OSError, or what `build` raises: it can't be read or written now.
    """
    path = folder / NAME
    with waiting_lock(folder / f".{NAME}.lock", seconds=LOCK_SECONDS):
        fault = _fault(path, revision)
        if fault:
            kept = _set_aside(path)
            logger.warning("%s %s; it is now %s, and a new one is made", path, fault, kept.name)
        if not path.exists():
            build_database(path, build)
        _follow_move(path, experiment)
    return path


def artifacts_of(folder: Path) -> str:
    """Where the files of runs lie, as MLflow stores it."""
    return (folder.resolve() / "artifacts").as_uri()


def _fault(path: Path, revision: str) -> str | None:
    """Why the database is of no use; None where it is whole or not there, or holds runs of an older MLflow."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            num_runs = 0
            if "runs" in tables:
                (num_runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
            revisions = []
            if "alembic_version" in tables:
                revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError:
        raise  # locked, or no room
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"
    # With runs in it an older schema is kept, and MLflow says how to upgrade it; without, nothing is lost.
    if num_runs or revisions == [(revision,)]:
        return None
    return "is incomplete"


def _set_aside(path: Path) -> Path:
    """Rename it, with what SQLite keeps beside it; the new path."""
    number, kept = 1, path.with_name(f"{path.name}.damaged")
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{number}")
    for ending in (*BESIDE, ""):  # the database last: a kill in between leaves it to be found again
        source = path.with_name(path.name + ending)
        if source.exists():
            source.rename(kept.with_name(kept.name + ending))
    return kept


def _follow_move(path: Path, experiment: str) -> None:
    # MLflow stores where files lie from the root of the disk on: after `mv` it would make the old folder again.
    now = artifacts_of(path.parent)
    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection, connection:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = connection.execute(query, (experiment,)).fetchone()
        before = row[0] if row else None
        if not before or before == now or not before.startswith("file:") or not before.endswith("/artifacts"):
            return
        old, new = before.removesuffix("artifacts"), now.removesuffix("artifacts")
        for table, column in _LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )
