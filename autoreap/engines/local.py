"""One process a worker, on this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from autoreap.engines.worker import MAX_RESTARTS, Worker, passing_signals_on
from autoreap.progress import log

_POLL_SECONDS = 0.2


def run(workers: Sequence[Worker]) -> list[int]:
    """See `engines.Engine`. A signal that ends this process ends the workers first."""
    processes = [_Process(worker) for worker in workers]

    def send(number: int) -> None:
        for process in processes:
            process.send(number)

    with passing_signals_on(send):
        try:
            while [process for process in processes if process.is_running()]:
                time.sleep(_POLL_SECONDS)
        finally:
            for process in processes:
                process.end()
    return [process.code for process in processes]


class _Process:
    """One worker's process, and those that take its place. Its lines on stderr come out here, with its number."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._restarts_left = MAX_RESTARTS
        self._stopping = False
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autoreap.cli", *self._worker.arguments],
            env={**os.environ, **self._worker.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C would reach it twice: from the terminal, and from here
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=_prefixed, args=(self._worker.number, self._process.stderr), daemon=True)
        self._reader.start()

    def is_running(self) -> bool:
        """Whether it has more to do; if it was killed, it starts again."""
        code = self._process.poll()
        if code is None:
            return True
        if code >= 0 or self._stopping or not self._restarts_left:
            return False
        self._restarts_left -= 1
        log(f"worker {self._worker.number} was killed ({signal.Signals(-code).name}), starting it again")
        self._start()
        return True

    def send(self, number: int) -> None:
        """Pass a signal on; whatever becomes of the worker, it is not started again."""
        self._stopping = True
        self._process.send_signal(number)

    def end(self) -> None:
        """Wait for the process; one that still runs, because something failed here, is told to go."""
        if self._process.poll() is None and not self._stopping:
            self.send(signal.SIGTERM)
        self._process.wait()
        self._reader.join()

    @property
    def code(self) -> int:
        """The exit code; minus the signal that killed it."""
        return self._process.returncode


def _prefixed(number: int, lines: IO[str]) -> None:
    for line in lines:
        print(f"worker {number}: {line}", end="", file=sys.stderr, flush=True)
