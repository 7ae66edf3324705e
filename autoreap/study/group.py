"""Several processes at one study: what only one of them may do at a time, and whether any other is there.

Built on locks that end with the process that holds them, however it ends: of the operating system on one machine
(SQLite), of the server in PostgreSQL. Nothing has to be cleaned up after a kill.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from autoreap.lock import locked
from autoreap.study.storage import Pulse, cannot_open, engine_settings, is_shared, patiently

_PRESENCE, _TURN, _STANDBY = "presence", "turn", "standby"
_LOOK_SECONDS = 0.5


class Locks(Protocol):
    """Named locks of one study. `are_lasting` unless something but the end of its process can take a lock away."""

    @property
    def are_lasting(self) -> bool:
        """See above."""
        ...

    def hold(self, name: str, *, shared: bool = False, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold `name`, alone or with all who share it; whether it is held (always, unless `wait` is False)."""
        ...


class FileLocks:
    """Locks among the processes of one machine: the files `<study>.<name>` of one folder."""

    are_lasting = True

    def __init__(self, folder: Path, study: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._study = study

    def hold(self, name: str, *, shared: bool = False, wait: bool = True) -> AbstractContextManager[bool]:
        """See `Locks`."""
        return locked(self._folder / f"{self._study}.{name}", shared=shared, wait=wait)


class PostgresLocks:
    """Advisory locks of the server, each on a connection of its own: they need sessions, so no transaction pooling.

    https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
    """

    are_lasting = False  # a server that starts again has forgotten them

    def __init__(self, url: str, study: str) -> None:
        settings = {"connect_args": engine_settings(url).get("connect_args", {}), "poolclass": NullPool}
        try:
            self._engine = create_engine(url, isolation_level="AUTOCOMMIT", **settings)
            self._engine.connect().close()
        except Exception as error:  # whatever the database's driver raises
            raise cannot_open(url, error) from None
        self._study = study

    @contextmanager
    def hold(self, name: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
        """See `Locks`."""
        connection, held = patiently(lambda: self._taken(name, shared, wait))
        try:
            yield held
        finally:
            with suppress(DBAPIError):  # the server may be gone, and the lock with it
                connection.close()

    def _taken(self, name: str, shared: bool, wait: bool) -> tuple[Connection, bool]:
        digest = hashlib.sha256(f"autoreap/{self._study}/{name}".encode()).digest()
        key = int.from_bytes(digest[:8], signed=True)
        function = f"pg{'' if wait else '_try'}_advisory_lock{'_shared' if shared else ''}"
        connection = self._engine.connect()
        try:
            result = connection.execute(text(f"SELECT {function}(:key)"), {"key": key}).scalar()
        except BaseException:
            connection.close()
            raise
        return connection, wait or bool(result)


class Group:
    """The processes that search one study. Make one in each of them."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    @contextmanager
    def joined(self, when_alone: Callable[[], None]) -> Iterator[None]:
        """Be one of the group. `when_alone` runs before, if surely nobody else is: what is left over has no owner."""
        with self._locks.hold(_PRESENCE, wait=False) as alone:
            if alone and self._locks.are_lasting:
                when_alone()
        with self._locks.hold(_PRESENCE, shared=True):
            yield

    def turn(self) -> AbstractContextManager[bool]:
        """Look at the study and take a trial of it, while nobody else does."""
        return self._locks.hold(_TURN)

    def standing_by(self) -> AbstractContextManager[bool]:
        """Whether this process is the one that waits for the others' last trials, lest one of them dies."""
        return self._locks.hold(_STANDBY, wait=False)

    @contextmanager
    def only(self, what: str, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Do what one process does and the others then find done. May take minutes: `pause` can end the wait."""
        while True:
            with self._locks.hold(what, wait=False) as held:
                if held:
                    yield
                    return
            pause(_LOOK_SECONDS)

    def last(self) -> AbstractContextManager[bool]:
        """Whether everybody else has left; nobody can join meanwhile. To be asked after leaving."""
        return self._locks.hold(_PRESENCE, wait=False)


@dataclass(frozen=True)
class Seat:
    """Where one worker sits: the storage's URL, the study's name, the group, and the pulse if it has company."""

    storage: str
    study: str
    group: Group
    pulse: Pulse | None = None


def seat_of(storage: str, study: str, folder: Path, pulse: Pulse | None) -> Seat:
    """The seat of this process. `folder` holds the locks of those on this machine."""
    locks = PostgresLocks(storage, study) if is_shared(storage) else FileLocks(folder, study)
    return Seat(storage, study, Group(locks), pulse)
