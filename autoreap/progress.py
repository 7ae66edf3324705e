"""Progress with an ETA: a line that redraws itself on a terminal, plain timestamped lines in a log."""

import shutil
import sys
import time

from autoreap.wording import duration

LOG_INTERVAL_SECONDS = 30.0
_ERASE = "\r\x1b[K"


class StatusLine:
    """One line on stderr that changes: redrawn in place on a terminal, written anew now and then in a log.

    Args:
        interval_seconds: least time between two lines in a log; a terminal redraws four times a second.
    """

    def __init__(self, *, interval_seconds: float = LOG_INTERVAL_SECONDS) -> None:
        self._stream = sys.stderr
        self._redraws = self._stream.isatty()
        self._interval = 0.25 if self._redraws else interval_seconds
        self._shown = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to show it again."""
        return time.monotonic() - self._shown >= self._interval

    def show(self, text: str) -> None:
        """Write it, on a terminal as much of it as fits in one row."""
        self._shown = time.monotonic()
        columns = shutil.get_terminal_size().columns
        self._stream.write(f"{_ERASE}{text[: columns - 1]}" if self._redraws else f"{timestamp()} {text}\n")
        self._stream.flush()

    def erase(self) -> None:
        """Take it off the terminal; the next is due an interval from now."""
        self._shown = time.monotonic()
        if self._redraws:
            self._stream.write(_ERASE)
            self._stream.flush()


class Progress:
    """Counts steps of one job to stderr. Use as a context manager; `advance` after each step.

    Args:
        label: what is counted, such as "calibrating".
        total: steps in all.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._line = StatusLine()
        self._started = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._line.erase()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` says something about the latest."""
        self._done += steps
        if not self._line.due():
            return
        elapsed = time.monotonic() - self._started
        left = duration(elapsed / self._done * (self._total - self._done))
        self._line.show(f"{self._label} {self._done}/{self._total}, {duration(elapsed)} elapsed, ETA {left}{note}")


def log(message: str) -> None:
    """One timestamped line on stderr; a line that redraws itself gives way to it."""
    erase = _ERASE if sys.stderr.isatty() else ""
    print(f"{erase}{timestamp()} {message}", file=sys.stderr, flush=True)


def timestamp() -> str:
    """The local time, as log lines start."""
    return time.strftime("%H:%M:%S")
