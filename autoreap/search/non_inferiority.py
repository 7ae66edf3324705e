"""Whether a candidate is as good as the unpruned model, within a margin: the test behind the rule `safe`.

A candidate is non-inferior in a metric if the 95% interval of its loss, paired over the utterances, ends within the
margin (Piaggio et al., CONSORT for noninferiority trials, JAMA 308, 2012). It must be so in every metric of answers
that the evals measure, whether or not it is an objective: on the search split, and again on the report split, which
chose nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoreap.data.tasks import Task, base_name, task_of_metric
from autoreap.formatting import metric_text, points_text
from autoreap.scores import Difference, Metric
from autoreap.search.front import feasible_points
from autoreap.search.racing import Limit
from autoreap.search.records import StudyRecord, TrialRecord

# A sample of n in which something never happened can't exclude that it happens up to 3 times in n (the rule of three;
# Hanley and Lippman-Hand, JAMA 249, 1983). The bootstrap knows only what it has seen, so there it is too confident.
RULE_OF_THREE = 3


@dataclass(frozen=True)
class MarginCheck:
    """One metric of a candidate against the unpruned model, on one split.

    Attributes:
        margin: the largest loss that counts as none, as a fraction: 0.005 is half a point.
        difference: the candidate's rate minus the unpruned model's.
        loss: how much worse the candidate is; below 0 where it is better.
        bound: the upper end of the loss's 95% interval.
        num_samples: utterances.
    """

    metric: str
    margin: float
    difference: Difference
    loss: float
    bound: float
    num_samples: int

    @property
    def is_non_inferior(self) -> bool:
        """Whether the loss lies within the margin."""
        return self.bound <= self.margin

    @property
    def num_needed(self) -> int | None:
        """About how many utterances would decide, were the loss to stay as it is; None where it exceeds the margin.

        An interval shrinks with the square root of the number of utterances.
        """
        loss = max(self.loss, 0.0)  # a gain counts as no loss
        room = self.margin - loss
        if room <= 0:
            return None
        return math.ceil(self.num_samples * ((self.bound - loss) / room) ** 2)

    @property
    def verdict(self) -> str:
        """`non-inferior`, `worse`, or `undecided` where more utterances could tell."""
        if self.is_non_inferior:
            return "non-inferior"
        return "worse" if self.num_needed is None else "undecided"

    def verdict_text(self) -> str:
        """The verdict, and how far from one: `undecided, about 1,760 utterances would decide (364 here)`."""
        if self.verdict != "undecided":
            return self.verdict
        return f"undecided, about {self.num_needed:,} utterances would decide ({self.num_samples:,} here)"

    def describe(self) -> str:
        """`accuracy -0.55 points [-2.20, +0.82], margin 1: undecided, about 1,760 utterances would decide`."""
        margin = f"margin {100 * self.margin:g}"
        return f"{self.metric} {points_text(self.difference)}, {margin}: {self.verdict_text()}"


def quality_task(metric: str) -> Task | None:
    """The task of a rate of answers over all its rows; None of a likelihood, a cost, or the rate of one language."""
    return None if "/" in metric else task_of_metric(metric)


def margin_of(metric: str, task: Task, margins: Mapping[str, float]) -> float:
    """The margin of `metric`: stated for it, or for all of its kind, or the usual one of its `task`."""
    for name in (metric, base_name(metric)):
        if name in margins:
            return margins[name]
    return task.MARGIN


def check_margins(
    metrics: Mapping[str, Metric], differences: Mapping[str, Difference], margins: Mapping[str, float]
) -> list[MarginCheck]:
    """One check for each quality metric of one candidate.

    Args:
        metrics: the candidate's scores.
        differences: to the unpruned model, paired over the utterances.
        margins: what the space states.

    Example:
        A candidate loses a tenth of a point. So few utterances leave it open whether the loss is below half a point.

        >>> wer = Metric(0.031, 0.022, 0.041, numerator=62, denominator=2000, num_samples=200)
        >>> difference = Difference(0.001, -0.005, 0.008, "no significant difference")
        >>> (check,) = check_margins({"wer": wer}, {"wer": difference}, margins={"wer": 0.005})
        >>> check.verdict_text()
        'undecided, about 613 utterances would decide (200 here)'
    """
    checks = []
    for name, difference in differences.items():
        task = quality_task(name)
        if task is None:
            continue
        metric = metrics[name]
        if task.DIRECTION == "minimize":
            loss, bound = difference.value, difference.high
        else:
            loss, bound = -difference.value, -difference.low
        bound = max(bound, RULE_OF_THREE / (metric.denominator or 1))
        margin = margin_of(name, task, margins)
        checks.append(MarginCheck(name, margin, difference, loss, bound, metric.num_samples or 0))
    return checks


def margin_limits(baseline: Mapping[str, Metric], margins: Mapping[str, float]) -> dict[str, Limit]:
    """By quality metric, the worst score with which a candidate can still be non-inferior to `baseline`."""
    limits = {}
    for name, metric in baseline.items():
        task = quality_task(name)
        if task is None or not metric.denominator:
            continue
        margin = margin_of(name, task, margins)
        worst = metric.value + margin if task.DIRECTION == "minimize" else metric.value - margin
        limits[name] = Limit(worst, task.DIRECTION, metric.denominator)
    return limits


def non_inferior_points(points: Sequence[TrialRecord], margins: Mapping[str, float]) -> list[TrialRecord]:
    """The points that keep every constraint and are non-inferior on the search split, smallest first."""
    found = []
    for point in feasible_points(points):
        if all_hold(check_margins(point.metrics, point.against_baseline, margins)):
            found.append(point)
    return found


def nearest_to_non_inferior(points: Sequence[TrialRecord], margins: Mapping[str, float]) -> list[TrialRecord]:
    """The non-inferior points, smallest first, then those that exceed a margin, the least excess first.

    Of equal sizes those come first that lose least, on average over the metrics in units of their margins.
    """

    def order(point: TrialRecord) -> tuple[float, int, float]:
        checks = check_margins(point.metrics, point.against_baseline, margins)
        losses = sum(check.loss / check.margin for check in checks)
        return max(1.0, worst_ratio(checks)), point.size_bytes, losses

    return sorted(feasible_points(points), key=order)


def worst_ratio(checks: Sequence[MarginCheck]) -> float:
    """The worst bound as a multiple of its margin; of no check infinity: nothing tells that it is as good."""
    return max((check.bound / check.margin for check in checks), default=math.inf)


def search_checks(study: StudyRecord, trial: TrialRecord) -> list[MarginCheck]:
    """Of `trial` on the search split."""
    return check_margins(trial.metrics, trial.against_baseline, study.margins)


def report_checks(study: StudyRecord, trial: TrialRecord) -> list[MarginCheck] | None:
    """Of `trial` on the report split; None where it was not scored there."""
    held_out = study.held_out_of(trial.number)
    if held_out is None:
        return None
    return check_margins(held_out.metrics, held_out.against_baseline, study.margins)


def all_hold(checks: Sequence[MarginCheck]) -> bool:
    """Whether there is a check, and each is passed."""
    return bool(checks) and all(check.is_non_inferior for check in checks)


def smallest_safe(study: StudyRecord) -> TrialRecord | None:
    """The smallest candidate that is non-inferior on the search split, and not refuted by the report split."""
    for point in non_inferior_points(study.points, study.margins):
        if not is_refuted(study, point):
            return point
    return None


def is_refuted(study: StudyRecord, point: TrialRecord) -> bool:
    """Whether `point` was scored on the report split, and is not non-inferior there."""
    checks = report_checks(study, point)
    return checks is not None and not all_hold(checks)


def quality_lines(study: StudyRecord, trial: TrialRecord) -> list[str]:
    """What both splits say of a scored trial against the unpruned model, a line a metric and split."""
    lines = _split_lines("search", trial.metrics, trial.against_baseline, study.margins)
    held_out = study.held_out_of(trial.number)
    if held_out is not None:
        lines += _split_lines("report", held_out.metrics, held_out.against_baseline, study.margins)
    return lines


def _split_lines(
    split: str, metrics: Mapping[str, Metric], differences: Mapping[str, Difference], margins: Mapping[str, float]
) -> list[str]:
    checks = {check.metric: check for check in check_margins(metrics, differences, margins)}
    lines = []
    for name, difference in differences.items():
        verdict = difference.verdict
        if name in checks:  # a language or a likelihood has no margin
            verdict = f"{checks[name].verdict_text()} (margin {100 * checks[name].margin:g})"
        score, change = metric_text(name, metrics[name]), points_text(difference)
        lines.append(f"{name} {score} on the {split} split, {change} against the unpruned model: {verdict}")
    return lines
