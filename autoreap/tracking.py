"""A study's way to MLflow. It may be slow, gone for an hour, or broken: that is a warning, never the end of a search.

Optuna holds the results. What MLflow does not take waits here, and is tried again ever more rarely; what still waits at
the end is logged when the search resumes.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from autoreap.progress import log
from autoreap.study.mlflow_runs import StudyRecord, StudyRuns, TrialRecord
from autoreap.wording import duration

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 900.0
_Entry = Callable[[StudyRuns], None]


class Tracker:
    """Logs a study as a parent run and each trial as a child run, once, however often the search is resumed.

    Args:
        folder: runs are in its `mlflow.db`, artifacts in `artifacts/`, unless a tracking URI says otherwise: the
            argument, or else the variable MLFLOW_TRACKING_URI.
        pause_seconds: after a first failure; each further one doubles it.
        alone: held while what all workers of a study share is looked for, and made if it is not there.
    """

    def __init__(
        self,
        folder: Path,
        study: str,
        *,
        tracking_uri: str | None = None,
        pause_seconds: float = FIRST_PAUSE_SECONDS,
        alone: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._alone = alone
        self._place = (folder, study, tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"))
        self._runs: StudyRuns | None = None
        self._waiting: dict[str, _Entry] = {}
        self._first_pause = pause_seconds
        self._pause = 0.0
        self._next_try = time.monotonic()
        self._flush()

    def log_study(self, record: StudyRecord) -> None:
        """What is searched, on which model and data."""
        self._log("the study", lambda runs: runs.log_study(record))

    def log_baseline(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """The unpruned model's scores."""
        self._log("the baseline", lambda runs: runs.log_baseline(metrics))

    def log_trial(self, record: TrialRecord) -> None:
        """A finished trial, unless it is there already."""
        self._log(f"trial {record.number}", lambda runs: runs.log_trial(record))

    def log_confirmed(self, confirmed: Mapping[str, Any]) -> None:
        """What the front scored on the report split: the study's attribute `confirmed`."""
        trials = {int(number): known["metrics"] for number, known in confirmed["trials"].items()}
        self._log("the report split", lambda runs: runs.log_confirmed(confirmed["baseline"]["metrics"], trials))

    def close(self, front: Collection[int], artifacts: Sequence[Path], *, status: str = "FINISHED") -> None:
        """The end of the search: its front, pictures and reports, and a last try for all that waits."""

        def end(runs: StudyRuns) -> None:
            runs.mark_front(front)
            runs.log_artifacts(artifacts)
            runs.end(status)

        self._next_try = time.monotonic()
        self._log("the front", end)
        if self._waiting:
            log("warning: what MLflow has not taken is logged when the search is resumed by the same command")

    def _log(self, what: str, entry: _Entry) -> None:
        self._waiting[what] = entry
        if time.monotonic() >= self._next_try:
            self._flush()

    def _flush(self) -> None:
        """Log what waits, in order, up to two failures in a row: one may be the entry's own fault, two are MLflow's."""
        num_logged = failures = 0
        for what, entry in list(self._waiting.items()) or [("", _connect_only)]:
            try:
                if self._runs is None:
                    with self._alone():
                        self._runs = StudyRuns(*self._place)
                entry(self._runs)
            except Exception as error:  # MLflow raises what its many back ends raise
                failures += 1
                self._postpone(what, error, worked=num_logged > 0)
                if failures == 2 or self._runs is None:
                    return
            else:
                num_logged, failures = num_logged + 1, 0
                self._waiting.pop(what, None)
        if self._pause and not self._waiting:
            log(f"MLflow is back, what waited is logged ({num_logged})")
            self._pause = 0.0

    def _postpone(self, what: str, error: Exception, *, worked: bool) -> None:
        """`what` waits behind the others, and all of them for a while."""
        if self._runs is not None:
            self._waiting[what] = self._waiting.pop(what)
        again = self._first_pause if worked or not self._pause else 2 * self._pause
        self._pause = min(again, LONGEST_PAUSE_SECONDS)
        self._next_try = time.monotonic() + self._pause
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        subject = f"{what} could not be logged to MLflow" if self._runs is not None else "MLflow is not available"
        log(f"warning: {subject}, tried again in {duration(self._pause)}; the search goes on: {reason}")


def _connect_only(_runs: StudyRuns) -> None:
    """There is nothing to log yet."""
