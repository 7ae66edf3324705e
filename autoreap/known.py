"""What is known of the plans that were tried before: none is scored twice, and those of the front race the next one."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from autoreap.errors import InputError
from autoreap.front import RACED, Point, pareto, points_of
from autoreap.outcomes import load_outcomes
from autoreap.progress import log
from autoreap.racing import Numerators, Rival


class Known:
    """The plans of one study, by their digests.

    Args:
        study: whose trials they are.
        folder: where each trial's outcomes are, as `<number>/outcomes.jsonl`.
        objectives: metric -> direction.
    """

    def __init__(self, study: optuna.Study, folder: Path, objectives: Mapping[str, str]) -> None:
        self._folder = folder
        self._objectives = objectives
        self._points: dict[str, Point] = {}
        self._raced: dict[str, dict[str, Any]] = {}
        self._numerators: dict[int, Numerators] = {}
        for point in points_of(study):
            self.note(point)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
            if RACED in trial.user_attrs:
                self.note_raced(trial.number, trial.user_attrs[RACED])

    @property
    def points(self) -> list[Point]:
        """The first trial that was scored of each plan."""
        return list(self._points.values())

    def note(self, point: Point) -> None:
        """A trial was scored."""
        self._points.setdefault(point.plan_digest, point)

    def note_raced(self, number: int, verdict: Mapping[str, Any]) -> None:
        """A trial was stopped in a race."""
        self._raced.setdefault(verdict["plan_digest"], {**verdict, "duplicate_of": number, "seconds": 0.0})

    def scored(self, digest: str) -> Point | None:
        """The trial that scored the plan."""
        return self._points.get(digest)

    def raced(self, digest: str) -> dict[str, Any] | None:
        """What a repetition is told of a plan that was stopped."""
        return self._raced.get(digest)

    def rivals(self) -> list[Rival]:
        """The front as it is."""
        return [
            Rival(point.trial, point.values, point.metrics, partial(self._numerators_of, point.trial))
            for point in pareto(self.points, self._objectives)
        ]

    def _numerators_of(self, number: int) -> Numerators:
        """What trial `number` scored, utterance by utterance; nothing where its outcomes can't be read."""
        if number not in self._numerators:
            try:
                outcomes = load_outcomes(self._folder / str(number) / "outcomes.jsonl")
            except (InputError, OSError) as error:
                log(f"warning: no sample is compared with trial {number}: {error}")
                outcomes = {}
            self._numerators[number] = {
                metric: {outcome.id: outcome.counts.numerator for outcome in listed}
                for metric, listed in outcomes.items()
            }
        return self._numerators[number]
