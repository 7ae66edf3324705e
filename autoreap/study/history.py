"""What became of the plans of a study: it is told, and remembered.

So no plan is scored twice, and the next one is held against the front.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from autoreap.errors import InputError
from autoreap.objective import Scored
from autoreap.outcomes import OUTCOMES_NAME, load_outcomes
from autoreap.progress import log
from autoreap.study.front import costs_of, pareto
from autoreap.study.racing import Numerators, Rival
from autoreap.study.triage import Screened, Triage, triage
from autoreap.study.trials import RACED, RESULT, SCREENED, Point, broken_of, points_of


class History:
    """The plans of one study, by their digests.

    Args:
        study: whose trials they are.
        folder: where each trial's files are, as `<number>/plan.json` and `<number>/outcomes.jsonl`.
        objectives: metric -> direction.
    """

    def __init__(self, study: optuna.Study, folder: Path, objectives: Mapping[str, str]) -> None:
        self.study = study
        self._folder = folder
        self._objectives = objectives
        self._noted: set[int] = set()
        self._points: dict[str, Point] = {}
        self._stopped: dict[str, tuple[str, dict[str, Any]]] = {}
        self._screened: list[Screened] = []
        self._numerators: dict[int, Numerators] = {}
        self.look()

    def look(self) -> None:
        """What has come since, from other workers too."""
        trials = self.study.get_trials(deepcopy=False)
        for point in points_of(self.study):
            if point.trial not in self._noted:
                self._note(point, trials[point.trial].user_attrs.get(SCREENED, {}).get("surprise", {}))
        for trial in (trial for trial in trials if trial.state == TrialState.PRUNED):
            for attribute in (RACED, SCREENED):
                if "reason" in (verdict := trial.user_attrs.get(attribute, {})):
                    self._note_stopped(trial.number, attribute, verdict)

    @property
    def points(self) -> list[Point]:
        """The first trial that was scored of each plan."""
        return list(self._points.values())

    def keep(self, trial: Trial, scored: Scored, digest: str) -> None:
        """`trial` was scored; its files are whole before the study has its result, and the result before its state."""
        scored.save(self._folder / str(trial.number))
        result = {
            "metrics": scored.metrics,
            "size_bytes": scored.size_bytes,
            "plan_digest": digest,
            "seconds": scored.evaluation.seconds,
        }
        trial.set_user_attr(RESULT, result)
        self.study.tell(trial, scored.values)
        values = dict(zip(self._objectives, scored.values, strict=True))
        broken = broken_of(trial.constraints)
        point = Point(trial.number, trial.params, values, scored.metrics, scored.size_bytes, digest, broken=broken)
        self._note(point, trial.user_attrs.get(SCREENED, {}).get("surprise", {}))

    def repeat(self, trial: Trial, twin: Point) -> None:
        """The plan of `trial` was scored before: the study is told what is known, at no cost."""
        result = {"metrics": twin.metrics, "size_bytes": twin.size_bytes, "plan_digest": twin.plan_digest}
        trial.set_user_attr(RESULT, result | {"seconds": 0.0, "duplicate_of": twin.trial})
        self.study.tell(trial, list(twin.values.values()))

    def stop(self, trial: Trial, attribute: str, verdict: Mapping[str, Any]) -> None:
        """`trial` was stopped, in a race or by its screen; `verdict` is the user attribute that says why.

        Without values: what was counted so far is a bound, or a guess, which must not rank among scores.
        """
        trial.set_user_attr(attribute, verdict)
        self.study.tell(trial, state=TrialState.PRUNED)
        self._note_stopped(trial.number, attribute, verdict)

    def scored(self, digest: str) -> Point | None:
        """The trial that scored the plan."""
        return self._points.get(digest)

    def stopped(self, digest: str) -> tuple[str, dict[str, Any]] | None:
        """What a repetition is told of a plan that was stopped: the attribute, and the verdict."""
        return self._stopped.get(digest)

    def triage(self, exact: Mapping[str, float], surprise: Mapping[str, float]) -> Triage | None:
        """Why a candidate with these metrics known beforehand, and with this screen, is not to be scored in full."""
        front = {point.trial for point in pareto(self.points, self._objectives)}
        return triage(costs_of(exact, self._objectives), surprise, self._screened, front)

    def rivals(self) -> list[Rival]:
        """The front as it is."""
        front = pareto(self.points, self._objectives)
        members = {point.trial for point in front}
        self._numerators = {number: known for number, known in self._numerators.items() if number in members}
        return [
            Rival(point.trial, point.values, point.metrics, partial(self._numerators_of, point.trial))
            for point in front
        ]

    def _numerators_of(self, number: int) -> Numerators:
        """What trial `number` scored, utterance by utterance; nothing where its outcomes can't be read."""
        if number not in self._numerators:
            try:
                outcomes = load_outcomes(self._folder / str(number) / OUTCOMES_NAME)
            except (InputError, OSError) as error:
                log(f"warning: no sample is compared with trial {number}: {error}")
                outcomes = {}
            self._numerators[number] = {
                metric: {outcome.id: outcome.counts.numerator for outcome in listed}
                for metric, listed in outcomes.items()
            }
        return self._numerators[number]

    def _note(self, point: Point, surprise: Mapping[str, float]) -> None:
        """A trial was scored; `surprise` is what its screen said, by metric."""
        self._noted.add(point.trial)
        self._points.setdefault(point.plan_digest, point)
        if surprise and point.duplicate_of is None:
            self._screened.append(Screened(point.trial, surprise, costs_of(point.values, self._objectives)))

    def _note_stopped(self, number: int, attribute: str, verdict: Mapping[str, Any]) -> None:
        repeated = {**verdict, "duplicate_of": number, "seconds": 0.0}
        self._stopped.setdefault(verdict["plan_digest"], (attribute, repeated))
