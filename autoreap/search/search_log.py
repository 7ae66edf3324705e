"""The log of a search: on a terminal one line that redraws itself, in a file a line a trial and a heartbeat."""

import logging
import math
import time
from collections.abc import Sequence

from autoreap.formatting import duration, parameter_text, scores_text
from autoreap.progress import StatusLine
from autoreap.search.records import ScoredModel, TrialRecord, TrialStatus

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 120.0
_RECENT = 20  # trials behind the ETA: the sampler moves towards small candidates, which are faster


class SearchLog:
    """Reports a search as it goes.

    Args:
        num_trials: finished trials to reach in all.
        deadline: when the search ends at the latest, on the clock of `time.monotonic`; infinite without one.
        num_answers: utterances and questions of one trial.
    """

    def __init__(self, num_trials: int, deadline: float, num_answers: int) -> None:
        self._num_trials = num_trials
        self._deadline = deadline
        self._num_answers = num_answers
        self._line = StatusLine(interval_seconds=HEARTBEAT_SECONDS)
        self._label, self._began, self._num_answered = "", time.monotonic(), 0
        self._so_far = ""

    def begin(self, label: str) -> None:
        """A trial, or the baseline, is scored from now on."""
        self._label, self._began, self._num_answered = label, time.monotonic(), 0

    def count_answer(self) -> None:
        """One more answer of it is known."""
        self._num_answered += 1
        if self._line.is_due():
            spent = duration(time.monotonic() - self._began)
            self._line.show(f"{self._label}: {self._num_answered}/{self._num_answers} answers, {spent}{self._so_far}")

    def beat(self, num_running: int) -> None:
        """So many trials are scored elsewhere."""
        if self._line.is_due():
            self._line.show(f"{num_running} running{self._so_far}")

    def model_scored(self, label: str, scored: ScoredModel, objectives: Sequence[str], seconds: float) -> None:
        """The unpruned model or a control is scored."""
        logger.info("%s: %s; %s", label, scores_text(scored.metrics, scored.size_bytes, objectives), duration(seconds))

    def trial_finished(self, text: str, num_finished: int, best: str, seconds: Sequence[float]) -> None:
        """A trial is over.

        Args:
            text: the trial in one line.
            num_finished: trials so far.
            best: the front and the best so far, in words.
            seconds: what each trial took that was scored, duplicates left out.
        """
        self._so_far = f"; {num_finished}/{self._num_trials} done, {best}"
        left = self._remaining_seconds(num_finished, seconds)
        if left is not None and left >= 1:
            self._so_far += f", ETA {duration(left)}"
        logger.info("%s%s", text, self._so_far)

    def close(self) -> None:
        """The search is over."""
        self._line.erase()

    def _remaining_seconds(self, num_finished: int, seconds: Sequence[float]) -> float | None:
        """An upper bound, because duplicates take no time; None where nothing is known."""
        # Whichever comes first, the deadline or the last trial.
        left = self._deadline - time.monotonic()
        recent = seconds[-_RECENT:]
        if recent:
            left = min(left, sum(recent) / len(recent) * max(self._num_trials - num_finished, 0))
        return None if math.isinf(left) else max(left, 0)


def trial_line(trial: TrialRecord, objectives: Sequence[str]) -> str:
    """A trial in one line: what was tried, what became of it, and what it took."""
    head = f"trial {trial.number}"
    if trial.params:
        params = ", ".join(f"{name} {parameter_text(value)}" for name, value in trial.params.items())
        head += f" ({trial.origin}: {params})"
    end = duration(trial.seconds)
    if trial.duplicate_of is not None:
        end = f"same plan as trial {trial.duplicate_of}"
    match trial.status:
        case TrialStatus.SCORED | TrialStatus.DUPLICATE:
            return f"{head}: {scores_text(trial.metrics, trial.size_bytes, objectives)}; {end}"
        case TrialStatus.PRUNED if trial.duplicate_of is None:
            scored = f"{trial.num_scored} of {trial.num_utterances} utterances"
            return f"{head} pruned: {trial.reason}; {scored}, {end}"
        case TrialStatus.PRUNED:
            return f"{head} pruned: {end}"
        case TrialStatus.INFEASIBLE:
            return f"{head} not scored: {trial.reason}"
        case TrialStatus.FAILED:
            return f"{head} failed: {trial.reason}"
        case TrialStatus.INTERRUPTED:
            return f"{head} interrupted"
    return f"trial {trial.number} {trial.status}"
