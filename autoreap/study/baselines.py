"""What the candidates of a study are compared with: the unpruned model, and the controls.

Neither are trials: they lie outside the space, and no sampler may learn from them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from autoreap.candidate import control
from autoreap.config.space import SpaceConfig
from autoreap.constraints import values_of
from autoreap.errors import InputError
from autoreap.evaluate import Watch
from autoreap.objective import Objective, objective_values
from autoreap.outcomes import OUTCOMES_NAME, load_outcomes
from autoreap.progress import log
from autoreap.scoring import latency
from autoreap.study.storage import STORAGE_ERRORS
from autoreap.study.trial_text import scores_text
from autoreap.study.trials import CONTROLS
from autoreap.terminal.night_log import NightLog
from autoreap.wording import duration


class Baselines:
    """Scores the unpruned model and the controls of one study, each once.

    Args:
        study: takes their scores as its user attributes `baseline` and `controls`.
        folder: where their files go, as `baseline/outcomes.jsonl` and `<control>/outcomes.jsonl`.
        night: is told what is scored.
        watch: is told each answer; what it raises ends all.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SpaceConfig,
        objective: Objective,
        folder: Path,
        night: NightLog,
        watch: Watch,
    ) -> None:
        self._study = study
        self._space = space
        self._objective = objective
        self._folder = folder
        self._outcomes = folder / "baseline" / OUTCOMES_NAME
        self._night = night
        self._watch = watch

    def score_unpruned(self) -> None:
        """Score the unpruned model, unless the study has its scores."""
        if "baseline" in self._study.user_attrs:
            return
        self._night.begin("baseline")
        evaluation = self._objective.score_baseline(self._watch)
        metrics, size_bytes = evaluation.metrics(), self._objective.baseline_size_bytes
        objective_values(self._space.objectives, size_bytes, metrics)  # a baseline without a number can't be a baseline
        evaluation.save_outcomes(self._outcomes)
        self._study.set_user_attr("baseline", {"metrics": metrics, "size_bytes": size_bytes})
        self._say("baseline", metrics, size_bytes, evaluation.seconds)

    def draft_from_unpruned(self) -> None:
        """Answers of the unpruned model that another run or worker has left here draft those of the candidates.

        A worker of another machine may find none, and a file may be damaged: then it answers again, and must come
        to the same scores.
        """
        try:
            known = load_outcomes(self._outcomes) if self._outcomes.is_file() else {}
        except InputError as error:
            log(f"warning: {error}; the unpruned model answers again")
            known = {}
        if known:
            self._objective.draft_from(known)
        else:
            evaluation = self._objective.score_baseline(self._watch)
            check_same_scores(evaluation.metrics(), self._study.user_attrs["baseline"]["metrics"], "baseline")
            evaluation.save_outcomes(self._outcomes)

    def unpruned_values(self) -> dict[str, float]:
        """The unpruned model's metrics; one that a constraint needs is missed before any candidate is scored."""
        baseline = self._study.user_attrs["baseline"]
        values = values_of(baseline["size_bytes"], baseline["metrics"])
        for constraint in self._space.constraints:
            constraint.violation(values, values)
        return values

    def score_controls(self) -> None:
        """Score the controls that the study has no scores of."""
        num_layers = self._objective.shape.components["thinker"].num_layers
        for name in self._space.controls:
            known = self._study.user_attrs.get(CONTROLS, {})
            if name in known:
                continue
            self._night.begin(f"control {name}")
            try:
                scored = self._objective.score(self._objective.plan(control(name, num_layers)), self._watch)
            except STORAGE_ERRORS:
                raise
            except Exception as error:  # nothing depends on it; the reason is shown, and a resumed search tries again
                log(f"warning: control {name} is not scored: {type(error).__name__}: {error}")
                continue
            scored.save(self._folder / name)
            result = {"metrics": scored.metrics, "size_bytes": scored.size_bytes}
            self._study.set_user_attr(CONTROLS, {**known, name: result})
            self._say(f"control {name}", scored.metrics, scored.size_bytes, scored.evaluation.seconds)

    def _say(self, what: str, metrics: Mapping[str, Mapping[str, Any]], size_bytes: int, seconds: float) -> None:
        log(f"{what}: {scores_text(metrics, size_bytes, self._space.objectives)}; {duration(seconds)}")


def check_same_scores(
    metrics: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]], what: str
) -> None:
    """Raise `InputError` if a score of `what` lies outside the interval that another machine measured on it."""
    for name in metrics.keys() & known.keys() - latency.DIRECTIONS.keys():
        measured = known[name]
        if not measured["low"] <= metrics[name]["value"] <= measured["high"]:
            raise InputError(
                f"{name} is {metrics[name]['value']:.2%} on this machine, on another it was {measured['value']:.2%} "
                f"[{measured['low']:.2%}, {measured['high']:.2%}]",
                where=what,
                fix="the same versions, type and kind of device on every machine",
            )
