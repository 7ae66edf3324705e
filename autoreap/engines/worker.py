"""What every engine runs, and how a signal reaches it."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

MAX_RESTARTS = 3  # of a worker that was killed; one that gives up by itself would give up again


@dataclass(frozen=True)
class Worker:
    """One process of a search: what `autoreap` is called with, and what is set for it in the environment."""

    number: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def passing_signals_on(send: Callable[[int], None]) -> Iterator[None]:
    """Hand SIGINT and SIGTERM to `send` first, then to whoever handled them before."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        send(number)
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, pass_on)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
