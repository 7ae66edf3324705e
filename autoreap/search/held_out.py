"""The front on the report split: scored once at the end, read from a study, put into words.

The search chose its front by scores on the search split, so these scores are too good: candidates come first that the
utterances happen to suit. The report split has steered nothing.
"""

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import optuna

from autoreap.data.eval_set import EvalSet
from autoreap.data.tasks import task_of_metric
from autoreap.errors import InputError, ScoringError
from autoreap.evaluation.comparison import Outcomes, compare_outcomes
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import Evaluation, Outcome, load_outcomes, with_languages
from autoreap.files import atomic_write
from autoreap.formatting import size_text
from autoreap.healing.healer import Healer
from autoreap.models.faults import is_out_of_memory
from autoreap.plan import PruningPlan
from autoreap.progress import Progress
from autoreap.scores import NO_DIFFERENCE, compare
from autoreap.search.front import front_of
from autoreap.search.non_inferiority import smallest_safe
from autoreap.search.records import BASELINE, HeldOutScores, HeldOutTrial, StudyRecord, TrialRecord, record_held_out
from autoreap.validation import read_json

logger = logging.getLogger(__name__)

OUTCOMES = "report.jsonl"
# A front of up to so many members is compared pair by pair: the number of pairs grows with the square.
MAX_FOR_ALL_PAIRS = 16
_INDEX = "held_out.json"  # whose answers are in the folder: member -> what they follow from


def unscored_members(study: StudyRecord, digest: str, tried: Collection[int] = ()) -> list[TrialRecord]:
    """What is to be scored on the report split of `digest`: the front, smallest first, then one candidate at a time.

    That one is the smallest that may ship: non-inferior on the search split, and not refuted by the report split.
    Of the trials `tried`, some could not be scored; none is tried again.
    """
    done = set(tried)
    if study.held_out is not None and study.held_out.digest == digest:
        done |= study.held_out.trials.keys()
    missing = [point for point in front_of(study) if point.number not in done]
    if missing:
        return missing
    candidate = smallest_safe(study)
    if candidate is None or candidate.number in done:
        return []
    return [candidate]


def answerable(evals: EvalSet, plans: Iterable[PruningPlan]) -> EvalSet:
    """Those tasks of `evals` that all `plans` can do: without vision, none that shows an image or a video.

    A report split may ask for more than was searched on; what is left out is logged.
    """
    if not any(plan.strip_vision for plan in plans):
        return evals
    visual = evals.visual_metrics()
    if visual:
        logger.info("not scored, because members of the front have no vision: %s", ", ".join(visual))
    # For all, the baseline too: what is compared must have answered the same.
    return evals.without(visual)


def estimated_seconds(study: StudyRecord, num_searched: int, num_answers: int, num_members: int) -> float | None:
    """What the report split will take: as long an answer as the search split took, the unpruned model's among them.

    Args:
        study: whose trials took what they took.
        num_searched: answers of one trial.
        num_answers, num_members: answers of one member on the report split, and how many are to be scored.

    None where no trial was timed.
    """
    seconds = [point.seconds for point in study.points if point.seconds]
    if not seconds or not num_searched:
        return None
    return statistics.median(seconds) / num_searched * num_answers * (num_members + 1)


class HeldOutScorer:
    """Scores the baseline and candidates on the report split.

    Can be ended at any answer, and killed at any time: a member whose answers are on disk is not scored again.

    Args:
        study: whose front it is; the scores are stored in it.
        evaluator: of the report split.
        healer: fits the plans that heal; None where none does.
        digest: of the report split; answers to another one are not reused.
        folder: answers go to `<trial>/report.jsonl` and `baseline/report.jsonl` in it.
        check: called at each answer; what it raises ends the run.
        deadline: of `time.monotonic`, after which no further candidate is begun.
    """

    def __init__(
        self,
        study: optuna.Study,
        evaluator: Evaluator,
        healer: Healer | None,
        digest: str,
        folder: Path,
        check: Callable[[], None],
        deadline: float = math.inf,
    ) -> None:
        self._study = study
        self._evaluator = evaluator
        self._healer = healer
        self._digest = digest
        self._folder = folder
        self._check = check
        self._deadline = deadline

    def run(self, record: StudyRecord, points: Sequence[TrialRecord]) -> None:
        """Score `points`, in order of size, and store what the report split says of them.

        Raises:
            Interrupted: a signal came; the member it interrupted is scored again next time.
            ScoringError: the baseline could not be scored.
        """
        # The unpruned model comes first: its answers are the drafts of all others.
        members: list[tuple[str, PruningPlan | None]] = [(BASELINE, None)]
        members += [(str(point.number), point.plan) for point in points]
        outcomes: dict[str, Outcomes] = {}
        with Progress("report split", len(members) * self._evaluator.num_answers) as progress:

            def count(_metric: str, _outcome: Outcome) -> None:
                self._check()
                progress.advance()

            for name, plan in members:
                digest = BASELINE if plan is None else plan.digest()
                identity = f"{record.model_fingerprint}/{self._digest}/{digest}"
                answered = self._known_outcomes(name, identity)
                if answered is not None:
                    progress.advance(self._evaluator.num_answers)
                elif plan is not None and time.monotonic() >= self._deadline:
                    logger.warning("trial %s is not scored on the report split: confirm_hours has run out", name)
                    continue
                else:
                    try:
                        answered = self._answer(name, plan, identity, count)
                    except Exception as error:  # of one candidate; without the baseline nothing could be compared
                        if plan is None or not (isinstance(error, ScoringError) or is_out_of_memory(error)):
                            raise
                        logger.warning("trial %s could not be scored on the report split: %s", name, error)
                        continue
                if plan is None:
                    self._evaluator.draft_from(answered)
                outcomes[name] = answered
        record_held_out(self._study, self._compare(record, outcomes))

    def _answer(
        self, name: str, plan: PruningPlan | None, identity: str, count: Callable[[str, Outcome], None]
    ) -> Outcomes:
        if plan is not None and self._healer is not None:
            plan = self._healer.fit(plan)
        evaluation = self._evaluator.run(plan, count)
        evaluation.metrics()  # raises where nothing was scored
        # The answers before the index: it must never name answers that are not there.
        evaluation.save_outcomes(self._folder / name / OUTCOMES)
        with atomic_write(self._folder / _INDEX) as partial:
            partial.write_text(json.dumps(self._index() | {name: identity}, indent=1), encoding="utf-8")
        return evaluation.outcomes

    def _known_outcomes(self, name: str, identity: str) -> Outcomes | None:
        """The answers of an earlier run, if they are all there and of this plan and split."""
        if self._index().get(name) != identity:
            return None
        try:
            outcomes = load_outcomes(self._folder / name / OUTCOMES)
        except (InputError, OSError) as error:
            logger.info("%s is scored again on the report split: %s", name, error)
            return None
        ids = {}
        for metric, listed in outcomes.items():
            ids[metric] = [outcome.id for outcome in listed]
        # Rows that could not be read then may be readable now: the answers must be to just what is asked today.
        if ids != self._evaluator.ids:
            return None
        return outcomes

    def _index(self) -> dict[str, str]:
        try:
            found = read_json(self._folder / _INDEX)
        except InputError:  # not there yet, or damaged by a power cut: the answers are computed again
            return {}
        if not isinstance(found, dict):
            return {}
        return found

    def _compare(self, record: StudyRecord, outcomes: Mapping[str, Outcomes]) -> HeldOutScores:
        metrics = {}
        for name, answered in outcomes.items():
            listed = {metric: tuple(some) for metric, some in answered.items()}
            metrics[name] = Evaluation(listed, 0.0, self._evaluator.num_unreadable).metrics()
        objectives = [name for name in record.objectives if task_of_metric(name)]
        members = {int(name): answered for name, answered in outcomes.items() if name != BASELINE}
        trials = {}
        for number, tied_with in ties(members, objectives).items():
            compared = compare_outcomes(outcomes[BASELINE], members[number])
            trials[number] = HeldOutTrial(metrics[str(number)], compared.differences, tied_with)
        missing = [name for name in objectives if name not in metrics[BASELINE]]
        if missing:
            logger.info("not in the report split, so not scored there: %s", ", ".join(missing))
        return HeldOutScores(self._digest, metrics[BASELINE], trials, missing)


def ties(members: Mapping[int, Outcomes], names: Iterable[str]) -> dict[int, list[int]]:
    """For each member those without a significant difference from it in any metric, paired over the utterances.

    Args:
        members: outcomes of the same utterances, by trial, in order of size; in a long front only neighbours are
            compared.
        names: the metrics to compare; those that no member has do not count, and without any nothing is tied.
    """
    # An objective may be of one language, such as `wer/zh`; answers are stored by task.
    split = {number: with_languages(outcomes) for number, outcomes in members.items()}
    pairs: Iterable[tuple[int, int]] = combinations(members, 2)
    if len(members) > MAX_FOR_ALL_PAIRS:
        pairs = pairwise(members)
    wanted = list(names)
    tied: dict[int, list[int]] = {number: [] for number in members}
    for first, second in pairs:
        shared = [name for name in wanted if name in split[first] and name in split[second]]
        if shared and all(_is_undecided(name, split[first], split[second]) for name in shared):
            tied[first].append(second)
            tied[second].append(first)
    return tied


def _is_undecided(metric: str, first: Outcomes, second: Outcomes) -> bool:
    task = task_of_metric(metric)
    assert task is not None  # callers pass metrics of tasks
    own = [outcome.counts for outcome in first[metric]]
    other = [outcome.counts for outcome in second[metric]]
    return compare(own, other, direction=task.DIRECTION).verdict == NO_DIFFERENCE


def smaller_ties(study: StudyRecord, point: TrialRecord, front: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The smaller members of `front` without a significant difference from `point`, smallest first."""
    held_out = study.held_out_of(point.number)
    if held_out is None:
        return []
    tied_with = held_out.tied_with
    smaller = [other for other in front if other.number in tied_with and other.size_bytes < point.size_bytes]
    return sorted(smaller, key=lambda other: other.size_bytes)


def smaller_ties_text(study: StudyRecord, point: TrialRecord, front: Sequence[TrialRecord]) -> str:
    """An addition to why `point` was picked; empty unless a smaller member does as well."""
    smaller = smaller_ties(study, point, front)
    if not smaller:
        return ""
    names = " and ".join(f"trial {other.number} ({size_text(other.size_bytes)})" for other in smaller)
    return f"; on the report split its objectives are not significantly different from those of the smaller {names}"


def points_as_dicts(study: StudyRecord, points: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """Plain values for JSON, each with what the report split says of it as `held_out`, where it says something."""
    documents = []
    for point in points:
        document = point.as_dict()
        held_out = study.held_out_of(point.number)
        if held_out is not None:
            document["held_out"] = held_out.as_dict()
        documents.append(document)
    return documents
