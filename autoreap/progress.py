"""Progress with an ETA: a line that redraws itself on a terminal, plain timestamped lines in a log."""

import sys
import time
from typing import TextIO

from autoreap.wording import duration

LOG_INTERVAL_SECONDS = 30.0


class Progress:
    """Counts steps of one job to stderr. Use as a context manager; `advance` after each step.

    Args:
        label: what is counted, such as "calibrating".
        total: steps in all.
        interval_seconds: least time between two lines in a log; a terminal redraws four times a second.
    """

    def __init__(self, label: str, total: int, *, interval_seconds: float = LOG_INTERVAL_SECONDS) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._stream: TextIO = sys.stderr
        self._redraws = self._stream.isatty()
        self._interval = 0.25 if self._redraws else interval_seconds
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._redraws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` says something about the latest."""
        self._done += steps
        now = time.monotonic()
        if now - self._shown < self._interval:
            return
        self._shown = now
        elapsed = now - self._started
        remaining = elapsed / self._done * (self._total - self._done)
        line = f"{self._label} {self._done}/{self._total}, {duration(elapsed)} elapsed, ETA {duration(remaining)}{note}"
        self._stream.write(f"\r\x1b[K{line}" if self._redraws else f"{timestamp()} {line}\n")
        self._stream.flush()


def log(message: str) -> None:
    """One timestamped line on stderr."""
    print(f"{timestamp()} {message}", file=sys.stderr, flush=True)


def timestamp() -> str:
    """The local time, as log lines start."""
    return time.strftime("%H:%M:%S")
