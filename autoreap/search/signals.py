"""SIGINT and SIGTERM: the first asks for a tidy end, the second ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of these signals back at the end: a library may set its own."""
    before = {number: signal.getsignal(number) for number in _WATCHED}
    yield
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread set one
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end; `exit_code` is what a shell reports of it, 130 or 143."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


class Signals:
    """Turns the first signal into `Interrupted` while entered; outside the main thread it does nothing.

    It is raised where the signal comes, or within `deferred` at the next `check`: an exception anywhere could cut a
    write to the database in two.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _WATCHED}
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals wait for `check` in here; one that nobody has checked for is raised at the end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()  # not in `finally`: an error that is on its way must not be replaced

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self._asked is not None:
            raise Interrupted(self._asked)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is not None:  # the second one: as if nobody had watched
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._asked = number
        name = signal.Signals(number).name
        # Not print: the signal may have come within one.
        os.write(2, f"\n{name}: stopping after this utterance; press again to quit now\n".encode())
        if not self._deferred:
            raise Interrupted(number)
