"""How a night is going: on a terminal one line that lives, in a log a line a trial and a heartbeat within long ones."""

import time
from collections.abc import Sequence

from autoreap.progress import StatusLine, log
from autoreap.wording import duration

HEARTBEAT_SECONDS = 120.0
_RECENT = 20  # trials that the ETA goes by: the sampler moves towards small candidates, which are faster


class NightLog:
    """Tells of a search as it goes.

    Args:
        trials: finished trials to reach in all.
        deadline: when the search ends at the latest, on the clock of `time.monotonic`; infinite without one.
        answers: utterances and questions of one trial.
    """

    def __init__(self, trials: int, deadline: float, answers: int) -> None:
        self._trials = trials
        self._deadline = deadline
        self._answers = answers
        self._line = StatusLine(interval_seconds=HEARTBEAT_SECONDS)
        self._what, self._began, self._answered = "", time.monotonic(), 0
        self._so_far = ""

    def begin(self, what: str) -> None:
        """A trial, or the baseline, is scored from now on."""
        self._what, self._began, self._answered = what, time.monotonic(), 0

    def answer(self) -> None:
        """One more answer of it is there."""
        self._answered += 1
        if self._line.due():
            spent = duration(time.monotonic() - self._began)
            self._line.show(f"{self._what}: {self._answered}/{self._answers} answers, {spent}{self._so_far}")

    def end(self, text: str, finished: int, found: str, seconds: Sequence[float]) -> None:
        """A trial is over.

        Args:
            text: what became of it.
            finished: trials so far.
            found: the front and the best so far, in words.
            seconds: what each trial took that was scored, not known from an equal plan.
        """
        self._so_far = f"; {finished}/{self._trials} done, {found}, ETA {self._eta(finished, seconds)}"
        log(f"{text}{self._so_far}")

    def close(self) -> None:
        """Nothing more comes."""
        self._line.erase()

    def _eta(self, finished: int, seconds: Sequence[float]) -> str:
        """At most so long: trials whose plan is known already take no time."""
        recent = seconds[-_RECENT:]
        left = self._deadline - time.monotonic()
        if recent:
            left = min(left, sum(recent) / len(recent) * max(self._trials - finished, 0))
        return duration(max(left, 0)) if left < float("inf") else "unknown"
