"""Two sides that answered the same utterances: how far apart they are, whether that is chance, and where it comes from.

B is judged against A: a difference is B's rate minus A's, and a verdict says how B fares.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoreap.data.tasks import task_of_metric
from autoreap.errors import InputError
from autoreap.evaluation.alignment import Column, align, columns
from autoreap.evaluation.outcomes import Outcome, score_of, with_languages
from autoreap.scores import Difference, Metric, compare

Outcomes = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Pair:
    """One utterance as both sides answered it.

    Attributes:
        growth: how much worse B did: errors more, or right answers fewer; below 0 where it did better.
    """

    metric: str
    first: Outcome
    second: Outcome
    growth: int

    @property
    def language(self) -> str | None:
        """Of the row; a file that was written before languages were kept does not say it."""
        return self.first.language or self.second.language

    def columns(self) -> list[Column] | None:
        """The reference, A and B side by side; None where answers are not compared word by word."""
        a = align(self.metric, self.first.reference, self.first.output, self.language)
        b = align(self.metric, self.second.reference, self.second.output, self.language)
        if a is None or b is None:
            return None
        return columns([a, b])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "metric": self.metric,
            "id": self.first.id,
            "language": self.language,
            "reference": self.first.reference,
            "growth": self.growth,
            "a": _side_as_dict(self.first),
            "b": _side_as_dict(self.second),
        }


def _side_as_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "output": outcome.output,
        "numerator": outcome.counts.numerator,
        "failed": outcome.failed,
        "reason": outcome.reason,
    }


@dataclass(frozen=True)
class Measured:
    """One metric of both sides over the utterances that they share; in how many of them B did better or worse."""

    first: Metric
    second: Metric
    difference: Difference
    num_better: int
    num_worse: int
    num_equal: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "a": self.first.as_dict(),
            "b": self.second.as_dict(),
            "difference": self.difference.as_dict(),
            "num_better": self.num_better,
            "num_worse": self.num_worse,
            "num_equal": self.num_equal,
        }


@dataclass(frozen=True)
class Comparison:
    """What came of two sides.

    Attributes:
        metrics: by name, each language's behind its metric where there are several.
        pairs: by metric, in the order of A.
        left_out: for each metric of either side, how many of its utterances only A and only B has.
    """

    metrics: Mapping[str, Measured]
    pairs: Mapping[str, tuple[Pair, ...]]
    left_out: Mapping[str, tuple[int, int]]

    @property
    def differences(self) -> dict[str, Difference]:
        """That of each metric."""
        return {name: measured.difference for name, measured in self.metrics.items()}

    def worst(self, metric: str) -> list[Pair]:
        """What B did worse, the largest growth first; of equals the one that failed in B, then in the order of A."""
        worse = [pair for pair in self.pairs[metric] if pair.growth > 0]
        return sorted(worse, key=lambda pair: (-pair.growth, not pair.second.failed))

    def as_dict(self, num_worst: int) -> dict[str, Any]:
        """Plain values, for JSON, with the `num_worst` worst utterances of each metric."""
        worst = []
        for metric in self.pairs:
            for pair in self.worst(metric)[:num_worst]:
                worst.append(pair.as_dict())
        return {
            "metrics": {metric: measured.as_dict() for metric, measured in self.metrics.items()},
            "left_out": {metric: {"only_a": a, "only_b": b} for metric, (a, b) in self.left_out.items()},
            "worst": worst,
        }


def compare_outcomes(first: Outcomes, second: Outcomes) -> Comparison:
    """B (`second`) against A (`first`), over the utterances that both answered.

    Raises:
        InputError: they share no utterance, or none with a word to score, or one has another reference in B than in A.

    Example:
        >>> from autoreap.scores import Counts
        >>> unpruned = {"wer": [Outcome("u1", "turn it on", "turn it on", Counts(0, 3), failed=False)]}
        >>> pruned = {"wer": [Outcome("u1", "turn on", "turn it on", Counts(1, 3), failed=False)]}
        >>> comparison = compare_outcomes(unpruned, pruned)
        >>> [pair.first.id for pair in comparison.worst("wer")]
        ['u1']
        >>> comparison.metrics["wer"].difference.verdict  # one utterance tells nothing
        'no significant difference'
    """
    pairs = {}
    left_out = {}
    for metric in {**first, **second}:  # the metrics of A in their order, then those of B alone
        of_a, of_b = first.get(metric, ()), second.get(metric, ())
        shared = _pairs(metric, of_a, of_b)
        if shared:
            pairs[metric] = shared
        left_out[metric] = (len(of_a) - len(shared), len(of_b) - len(shared))
    if not pairs:
        raise InputError(
            f"share no utterance: A has {_contents(first)}, B has {_contents(second)}",
            where="A and B",
            fix="compare answers to the same evals",
        )
    metrics: dict[str, Measured] = {}
    for metric, listed in pairs.items():
        if not any(pair.first.counts.denominator for pair in listed):
            raise InputError(f"no reference of {metric} has a word", where="A and B", fix="score rows with references")
        outcomes_of_a, outcomes_of_b = [], []
        for pair in listed:
            # Either side may lack the language, so both get the one that is known.
            outcomes_of_a.append(replace(pair.first, language=pair.language))
            outcomes_of_b.append(replace(pair.second, language=pair.language))
        by_language = with_languages({metric: outcomes_of_b})
        for name, ours in with_languages({metric: outcomes_of_a}).items():
            metrics[name] = _measure(name, ours, by_language[name])
    return Comparison(metrics, pairs, left_out)


def growth_of(metric: str, first: Outcome, second: Outcome) -> int:
    """How much worse `second` did: errors more, or right answers fewer."""
    more = second.counts.numerator - first.counts.numerator
    if _direction(metric) == "minimize":
        return more
    return -more


def _direction(metric: str) -> str:
    task = task_of_metric(metric)
    if task is None:
        raise InputError(f"unknown metric {metric!r}", where="A and B", fix="compare what this version wrote")
    return task.DIRECTION


def _pairs(metric: str, first: Sequence[Outcome], second: Sequence[Outcome]) -> tuple[Pair, ...]:
    others = _by_name(second)
    pairs = []
    different = []
    for name, a in _by_name(first).items():
        if name not in others:
            continue
        b = others[name]
        pairs.append(Pair(metric, a, b, growth_of(metric, a, b)))
        if (a.reference, a.counts.denominator) != (b.reference, b.counts.denominator):
            different.append((a, b))
    if different:
        a, b = different[0]
        raise InputError(
            f"{len(different)} of {len(pairs)} utterances have another reference in B, such as {metric} {a.id}: "
            f"{a.reference!r} of {a.counts.denominator}, in B {b.reference!r} of {b.counts.denominator}",
            where="A and B",
            fix="score both on the same evals",
        )
    return tuple(pairs)


def _by_name(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], Outcome]:
    """By id, and by which one of that id it is: some data sets give an id twice."""
    seen: Counter[str] = Counter()
    named = {}
    for outcome in outcomes:
        named[outcome.id, seen[outcome.id]] = outcome
        seen[outcome.id] += 1
    return named


def _measure(metric: str, first: Sequence[Outcome], second: Sequence[Outcome]) -> Measured:
    num_better = num_worse = num_equal = 0
    counts_of_a, counts_of_b = [], []
    for a, b in zip(first, second, strict=True):
        counts_of_a.append(a.counts)
        counts_of_b.append(b.counts)
        growth = growth_of(metric, a, b)
        if growth < 0:
            num_better += 1
        elif growth > 0:
            num_worse += 1
        else:
            num_equal += 1
    difference = compare(counts_of_b, counts_of_a, direction=_direction(metric))
    return Measured(score_of(first), score_of(second), difference, num_better, num_worse, num_equal)


def _contents(outcomes: Outcomes) -> str:
    return ", ".join(f"{len(listed)} of {metric}" for metric, listed in outcomes.items()) or "none"
