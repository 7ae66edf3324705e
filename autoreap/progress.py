"""Logging for the command line, and progress with an ETA: a bar on a terminal, a plain line now and then in a log.

Each module logs to its own `logging.getLogger(__name__)`, so a Python caller can silence and route it. The command line
calls `log_to_stderr`. On a terminal, what is printed here and the bars share one console, so they do not overwrite each
other.
"""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.status import Status

from autoreap.errors import printable
from autoreap.formatting import duration

logger = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 30.0
_TERMINAL_INTERVAL_SECONDS = 0.25

console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def log_to_stderr() -> None:
    """Print what the package logs to stderr: `12:34:56 message`, with `warning: ` before a warning."""
    package = logging.getLogger("autoreap")
    # A second call in one process, or a handler of the root logger, would print each line twice.
    for handler in list(package.handlers):
        if isinstance(handler, _ConsoleHandler):
            package.removeHandler(handler)
    package.addHandler(_ConsoleHandler())
    package.setLevel(logging.INFO)
    package.propagate = False


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = printable(record.getMessage())
        if record.levelno >= logging.WARNING:
            message = f"warning: {message}"
        console.print(f"{time.strftime('%H:%M:%S')} {message}")


class StatusLine:
    """One line that changes: redrawn in place on a terminal, logged now and then otherwise.

    Args:
        interval_seconds: least time between two lines in a log.
    """

    def __init__(self, *, interval_seconds: float = LOG_INTERVAL_SECONDS) -> None:
        self._interval = interval_seconds
        if console.is_terminal:
            self._interval = _TERMINAL_INTERVAL_SECONDS
        self._status: Status | None = None
        self._shown = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to show it again."""
        return time.monotonic() - self._shown >= self._interval

    def show(self, text: str) -> None:
        """Show it; on a terminal as much of it as fits in one row."""
        self._shown = time.monotonic()
        if not console.is_terminal:
            logger.info("%s", text)
            return
        text = printable(text)[: console.width - 4]  # the spinner takes two columns
        if self._status is None:
            self._status = console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def erase(self) -> None:
        """Take it off the terminal; the next is due an interval from now."""
        self._shown = time.monotonic()
        if self._status is not None:
            self._status.stop()
            self._status = None


class Progress:
    """Counts steps of one job. Use as a context manager; `advance` after each step.

    Args:
        label: what is counted, such as "calibrating".
        total: steps in all.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._began = self._logged = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done."""
        self._done += steps
        if self._bar is not None:
            self._bar.advance(self._task, steps)
            return
        # A log of hours is read from its end: a line for each of thousands of steps would bury what was said before.
        now = time.monotonic()
        if now - self._logged < LOG_INTERVAL_SECONDS:
            return
        self._logged = now
        elapsed = now - self._began
        left = duration(elapsed / self._done * (self._total - self._done))
        logger.info("%s %d/%d, %s elapsed, ETA %s", self._label, self._done, self._total, duration(elapsed), left)
