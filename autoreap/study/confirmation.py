"""Score a front once more, on the report split: what was chosen on one split is judged on the other.

Can be ended at any answer, and killed at any time: a member whose answers are on disk is not scored again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from autoreap.comparison.comparison import Outcomes, compare_outcomes
from autoreap.config.evals import EvalsConfig, metric_name
from autoreap.data.evals_data import seeing
from autoreap.errors import InputError, ScoringError
from autoreap.evaluate import Evaluator
from autoreap.outcomes import Evaluation, Outcome, load_outcomes
from autoreap.plan import PruningPlan
from autoreap.progress import Progress, log
from autoreap.study.confirmed import CONFIRMED, SPLIT, scored, ties
from autoreap.study.trials import Point, objectives_of, plan_of
from autoreap.terminal.signals import Signals
from autoreap.whole_file import written_whole

OUTCOMES = f"{SPLIT}.jsonl"
_BASELINE = "baseline"
_INDEX = "confirmation.json"  # whose answers lie in the folder: member -> what they follow from


def is_confirmed(study: optuna.Study, front: Sequence[Point], digest: str) -> bool:
    """Whether this very front was confirmed before on the report split of `digest`."""
    known = study.user_attrs.get(CONFIRMED, {"evals": None, "trials": {}})
    return bool(known["evals"] == digest and set(known["trials"]) == {str(point.trial) for point in front})


def answerable(evals: EvalsConfig, plans: Iterable[PruningPlan]) -> EvalsConfig:
    """`evals`, of its report split those tasks alone that all `plans` can do: without vision none that shows anything.

    A report split may ask for more than was searched on; what is left out is named.
    """
    if not any(plan.strip_vision for plan in plans):
        return evals
    seen = seeing(evals, SPLIT)
    if seen:
        log(f"not confirmed, as the front has members without vision: {', '.join(seen)}")
    kept = tuple(task for task in evals.splits[SPLIT] if metric_name(task) not in seen)
    return replace(evals, splits={**evals.splits, SPLIT: kept})


class Confirmation:
    """Scores the baseline and the members of one front.

    Args:
        study: whose front it is; what comes of it is its user attribute `confirmed`.
        evaluator: of the report split.
        digest: of the report split; answers to another one are not taken up.
        folder: answers go to `<trial>/report.jsonl` and `baseline/report.jsonl` in it.
        signals: checked at each answer.
    """

    def __init__(self, study: optuna.Study, evaluator: Evaluator, digest: str, folder: Path, signals: Signals) -> None:
        self._study = study
        self._evaluator = evaluator
        self._digest = digest
        self._folder = folder
        self._signals = signals

    def run(self, front: Sequence[Point]) -> None:
        """Confirm `front`, smallest first.

        Raises:
            Interrupted: a signal came; the member it cut off is scored again next time.
            ScoringError: the baseline could not be scored.
        """
        # Baseline first: its answers are the drafts of the others.
        plans = {_BASELINE: None} | {str(point.trial): plan_of(self._study, point.trial) for point in front}
        identities = {name: self._identity(plan) for name, plan in plans.items()}
        known = {name: outcomes for name, identity in identities.items() if (outcomes := self._known(name, identity))}
        if _BASELINE in known:
            self._evaluator.draft_from(known[_BASELINE])
        with Progress("confirming", (len(plans) - len(known)) * self._evaluator.num_answers) as progress:
            for name, plan in plans.items():
                try:
                    known[name] = known.get(name) or self._scored(name, plan, progress)
                except ScoringError as error:
                    if name == _BASELINE:
                        raise
                    log(f"warning: trial {name} could not be confirmed: {error}")
        confirmed = self._judged(known)
        if confirmed["missing"]:
            log(f"{', '.join(confirmed['missing'])}: an objective that is not in the report split, so not confirmed")
        self._study.set_user_attr(CONFIRMED, confirmed)

    def _scored(self, name: str, plan: PruningPlan | None, progress: Progress) -> Outcomes:
        """Score one member and keep its answers: all of them, or none."""

        def watch(_metric: str, _outcome: Outcome) -> None:
            self._signals.check()
            progress.advance(note=f"; {name if plan is None else f'trial {name}'}")

        evaluation = self._evaluator.run(plan, watch)
        evaluation.save_outcomes(self._folder / name / OUTCOMES)
        self._note(name, self._identity(plan))
        return evaluation.outcomes

    def _known(self, name: str, identity: str) -> Outcomes | None:
        """The answers that an earlier run has kept of a member, if they are all there and of this plan and split."""
        if self._index().get(name) != identity:
            return None
        try:
            outcomes = load_outcomes(self._folder / name / OUTCOMES)
        except (InputError, OSError) as error:
            log(f"{name} is confirmed again: {error}")
            return None
        ids = {metric: [outcome.id for outcome in listed] for metric, listed in outcomes.items()}
        return outcomes if ids == self._evaluator.ids else None

    def _identity(self, plan: PruningPlan | None) -> str:
        """All that answers follow from; a study's trials may be others than those that once had its name."""
        return f"{self._study.user_attrs['model']}/{self._digest}/{plan.digest() if plan else _BASELINE}"

    def _index(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self._folder / _INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there yet, or cut short by a power cut: answers are made again
            return {}
        return found

    def _note(self, name: str, identity: str) -> None:
        with written_whole(self._folder / _INDEX) as partial:
            partial.write_text(json.dumps(self._index() | {name: identity}, indent=1), encoding="utf-8")

    def _judged(self, outcomes: Mapping[str, Outcomes]) -> dict[str, Any]:
        """The user attribute; its form is described in docs/files.md."""
        objectives = scored(objectives_of(self._study))
        metrics = {name: self._metrics(listed) for name, listed in outcomes.items()}
        members = {int(name): listed for name, listed in outcomes.items() if name != _BASELINE}
        tied = ties(members, objectives)
        trials = {
            str(number): {
                "metrics": metrics[str(number)],
                "against_baseline": {
                    metric: found.difference.as_dict()
                    for metric, found in compare_outcomes(outcomes[_BASELINE], listed).metrics.items()
                },
                "tied_with": tied[number],
            }
            for number, listed in members.items()
        }
        return {
            "split": SPLIT,
            "evals": self._digest,
            "baseline": {"metrics": metrics[_BASELINE]},
            "trials": trials,
            "missing": [name for name in objectives if name not in metrics[_BASELINE]],
        }

    def _metrics(self, outcomes: Outcomes) -> dict[str, dict[str, Any]]:
        listed = {metric: tuple(some) for metric, some in outcomes.items()}
        return Evaluation(listed, 0.0, self._evaluator.num_unreadable).metrics()
