"""A candidate that can no longer reach the front is pruned while it is scored. NumPy alone.

It is pruned where one member of the front is at least as good in every objective and better in one:

- for certain (`Race.count`): even if the candidate makes no further error. Errors only grow, and the number of
  reference words or questions is known beforehand, so the errors so far bound the rate. Where more is better, all that
  is still to come counts as right. A bound decides as the full score would: the front is the same
  with and without. A candidate that could still equal a member is scored on, because equals share the front.
- with confidence (`Race.check_sample`, from `MIN_POPULATION` utterances on): the errors on a random sample exceed the
  member's.

An objective that is neither static nor a rate of counts is never held against a candidate. One that could still be the
smallest that is as good as the unpruned model is scored to the end, whatever dominates it: see `Limit`.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreap.evaluation.outcomes import Outcome
from autoreap.formatting import value_text
from autoreap.scores import Metric

ALPHA = 0.02  # how often a candidate of the front may be stopped by what a sample says
# With fewer, curtailment has seen nearly as much before a sample could say anything.
MIN_POPULATION = 1000
_MIN_SAMPLE = 100  # the bound is asymptotic
_TUNED_TO = 0.2  # the share of the utterances at which the bound is tightest

Numerators = Mapping[str, Mapping[str, int]]  # metric -> utterance id -> numerator


@dataclass(frozen=True)
class Incumbent:
    """A member of the front, which a candidate is compared with while it is scored.

    Attributes:
        values: its objectives by name.
        numerators: its errors (or right answers), utterance by utterance, for metrics with at least `MIN_POPULATION`
            utterances; a metric whose answers are no longer on disk is missing.
    """

    trial: int
    values: Mapping[str, float]
    metrics: Mapping[str, Metric]
    numerators: Numerators


@dataclass(frozen=True)
class Limit:
    """The worst score with which a candidate can still be non-inferior to the unpruned model in one metric.

    Attributes:
        direction: `minimize` or `maximize`.
        denominator: reference words, or questions, of all utterances.
    """

    value: float
    direction: str
    denominator: int


@dataclass(frozen=True)
class Domination:
    """Why and when a candidate was pruned.

    Attributes:
        incumbent: the trial that dominates it.
        num_scored, num_utterances: how many of all utterances and questions were scored.
        counts: numerator, denominator and utterances so far, of each metric. No score: more was to come.
        seconds: from the start of its evaluation.
    """

    incumbent: int
    reason: str
    num_scored: int
    num_utterances: int
    counts: Mapping[str, Mapping[str, int]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class CandidatePruned(Exception):  # noqa: N818 - no error: the candidate is as sound as any other
    """The candidate can't reach the front any more."""

    def __init__(self, domination: Domination) -> None:
        self.domination = domination
        super().__init__(domination.reason)


@dataclass
class _Tally:
    num_samples: int = 0
    numerator: int = 0
    denominator: int = 0
    numerators: dict[str, int] = field(default_factory=dict)  # by utterance, in the order they came


class Race:
    """One candidate against the front.

    Args:
        objectives: metric -> direction.
        static: the candidate's static metrics, such as `size_bytes`.
        incumbents: the front as it is. Empty: nothing prunes the candidate.
        limits: by metric. The candidate is pruned only once it is beyond one of them, too; empty: it can't be the
            smallest non-inferior one.

    Example:
        Trial 3 is smaller than the candidate and makes 2 errors in 100 words. The candidate's second answer has 3.

        >>> from autoreap.scores import Counts
        >>> wer = Metric(0.02, 0.01, 0.03, numerator=2, denominator=100, num_samples=10)
        >>> front = [Incumbent(3, {"size_bytes": 1e9, "wer": 0.02}, {"wer": wer}, numerators={})]
        >>> race = Race({"size_bytes": "minimize", "wer": "minimize"}, {"size_bytes": 2e9}, front)
        >>> race.count("wer", Outcome("a", "one", "one", Counts(0, 10), failed=False))
        >>> race.count("wer", Outcome("b", "two", "free", Counts(3, 10), failed=False))
        Traceback (most recent call last):
        autoreap.search.racing.CandidatePruned: dominated by trial 3: size_bytes 1.00 GB, ... WER 2.00%, this one at ...
    """

    def __init__(
        self,
        objectives: Mapping[str, str],
        static: Mapping[str, float],
        incumbents: Sequence[Incumbent],
        limits: Mapping[str, Limit] | None = None,
    ) -> None:
        self._objectives = objectives
        self._limits = limits or {}
        self._static = {name: value for name, value in static.items() if name in objectives}
        self._tallies = {name: _Tally() for name in objectives}
        self._exceeded: set[tuple[int, str]] = set()  # incumbents and metrics, judged by a sample
        self._incumbents = []
        # Who is worse in a static objective, such as the size, can't dominate it, whatever it answers.
        for incumbent in incumbents:
            if all(self._margin(name, incumbent) >= 0 for name in self._static):
                self._incumbents.append(incumbent)
        self._started = time.monotonic()

    def check(self) -> None:
        """Raise `CandidatePruned` if an incumbent dominates the candidate, whatever is still to come."""
        if self._may_be_non_inferior():
            return
        for incumbent in self._incumbents:
            margins = [self._margin(name, incumbent) for name in self._objectives]
            # No tolerance: a bound is rounded as the score will be, so equals compare as equal.
            if min(margins) >= 0 and max(margins) > 0:
                raise CandidatePruned(self._domination(incumbent))

    def _may_be_non_inferior(self) -> bool:
        """Whether there are limits, and what is still to come could keep the candidate within all of them."""
        for name, limit in self._limits.items():
            best = self._best_rate(name, limit.direction, limit.denominator)
            if _sign(limit.direction) * (best - limit.value) > 0:
                return False
        return bool(self._limits)

    def _best_rate(self, name: str, direction: str, denominator: int) -> float:
        """Without a further error; where more is better, with all that is still to come right."""
        tally = self._tallies.get(name, _Tally())
        best = tally.numerator
        if direction == "maximize":
            best += denominator - tally.denominator
        return float(best / denominator)

    def count(self, metric: str, outcome: Outcome) -> None:
        """Count an outcome; raises as `check` does."""
        tally = self._tallies.setdefault(metric, _Tally())
        tally.num_samples += 1
        tally.numerator += outcome.counts.numerator
        tally.denominator += outcome.counts.denominator
        tally.numerators[outcome.id] = outcome.counts.numerator
        self.check()

    def check_sample(self, metric: str) -> None:
        """The outcomes of `metric` so far are a random sample; raises `CandidatePruned` if that decides.

        A candidate that belongs on the front is better than each incumbent in at least one objective, so a wrong stop
        needs an error about that very one: no correction for the number of objectives is due (the intersection-union
        test; Berger, 1982). Any incumbent may cause the error, so each gets its part of `ALPHA`.
        """
        own = self._tallies[metric].numerators
        if metric not in self._objectives or len(own) < _MIN_SAMPLE:
            return
        sign = _sign(self._objectives[metric])
        for incumbent in self._incumbents:
            theirs = incumbent.numerators.get(metric, {})
            # Paired by utterance, so the incumbent must have answered each of them.
            if not own.keys() <= theirs.keys() or len(theirs) < MIN_POPULATION:
                continue
            places = {name: place for place, name in enumerate(theirs)}
            costs = sign * np.array(list(theirs.values()), dtype=np.float64)
            common = winsorise(costs)
            differences = sign * np.array(list(own.values())) - common[[places[name] for name in own]]
            alpha = ALPHA / len(self._incumbents)
            # `common` is subtracted from both sides: what is left varies less, so a smaller sample decides.
            bound = lower_bound(len(own), differences.mean(), differences.std(), alpha=alpha, population=len(costs))
            if bound > costs.mean() - common.mean():
                self._exceeded.add((incumbent.trial, metric))
        self.check()

    def _margin(self, name: str, incumbent: Incumbent) -> float:
        """By how much the incumbent is better in an objective, at least; minus infinity where nothing is known."""
        if self._is_worse_by_sample(name, incumbent):
            return math.inf
        return _sign(self._objectives[name]) * (self._bound(name, incumbent) - incumbent.values[name])

    def _bound(self, name: str, incumbent: Incumbent) -> float:
        """The best value that the candidate can still reach, computed and so rounded as its score will be."""
        if name in self._static:
            return self._static[name]
        unknown = -math.inf * _sign(self._objectives[name])
        metric = incumbent.metrics.get(name)
        if metric is None or not metric.denominator or metric.numerator is None:
            return unknown
        # The incumbent answered all, so its denominator is what the candidate will have in the end.
        if metric.numerator / metric.denominator != incumbent.values[name]:
            return unknown  # not a rate of these counts
        return self._best_rate(name, self._objectives[name], metric.denominator)

    def _is_worse_by_sample(self, name: str, incumbent: Incumbent) -> bool:
        # Only while there is more to come: once all is scored, the score decides.
        if (incumbent.trial, name) not in self._exceeded:
            return False
        return self._tallies[name].num_samples < (incumbent.metrics[name].num_samples or 0)

    def _domination(self, incumbent: Incumbent) -> Domination:
        words = [self._comparison(name, incumbent) for name in self._objectives]
        num_utterances = 0
        for name, metric in incumbent.metrics.items():
            # A metric of one language, or a likelihood, is about rows that are counted with their task.
            if "/" not in name and not name.startswith("nll."):
                num_utterances += metric.num_samples or 0
        counts = {}
        for name, tally in self._tallies.items():
            if tally.num_samples:
                counts[name] = {
                    "numerator": tally.numerator,
                    "denominator": tally.denominator,
                    "num_samples": tally.num_samples,
                }
        return Domination(
            incumbent=incumbent.trial,
            reason=f"dominated by trial {incumbent.trial}: {', '.join(words)}",
            num_scored=sum(tally.num_samples for tally in self._tallies.values()),
            num_utterances=num_utterances,
            counts=counts,
            seconds=time.monotonic() - self._started,
        )

    def _comparison(self, name: str, incumbent: Incumbent) -> str:
        """`WER 3.10%, this one at least 4.20%`."""
        label = name.upper() if name in ("wer", "cer") else name
        theirs = value_text(name, incumbent.values[name])
        if name in self._static:
            return f"{label} {theirs}, this one {value_text(name, self._static[name])}"
        if self._is_worse_by_sample(name, incumbent):
            worse = "higher" if self._objectives[name] == "minimize" else "lower"
            return f"{label} {theirs}, this one {worse} in a sample of {self._tallies[name].num_samples}"
        bound = "at least" if self._objectives[name] == "minimize" else "at most"
        return f"{label} {theirs}, this one {bound} {value_text(name, self._bound(name, incumbent))}"


def winsorise(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What to subtract from a candidate's costs, where an incumbent has these [..., U] over all U utterances.

    The costs themselves, which makes the differences small, with the highest twentieth cut off. An incumbent that runs
    away on one utterance in 300 is worse by a lot, of which many samples of 100 know nothing. What is cut off needs no
    sample: the incumbent was scored to the end.
    """
    limit = np.maximum(np.quantile(costs, 0.95, axis=-1), costs.min(axis=-1) + 1)
    below: NDArray[np.float64] = np.minimum(costs, limit[..., None])
    return below


def lower_bound(
    num_samples: Any, mean: Any, deviation: Any, *, alpha: float, population: int
) -> NDArray[np.float64] | np.float64:
    """Below the mean of a population of so many, with confidence 1 - `alpha` at all sample sizes at once.

    The one-sided asymptotic confidence sequence of Waudby-Smith et al. (2021, arXiv:2103.06476). It is for draws with
    replacement, and wider than draws without need. `num_samples`, `mean` and `deviation` may be arrays.

    Example:
        Each utterance more brings the bound nearer to the mean.

        >>> bounds = lower_bound(np.array([100, 400, 1600]), mean=0.05, deviation=0.2, alpha=0.02, population=5000)
        >>> bounds.round(3).tolist()
        [-0.029, 0.018, 0.034]
    """
    spread = -2 * math.log(2 * alpha)
    # Tightest there (section B.2 of the paper).
    rho2 = (spread + math.log(spread + 1)) / (_TUNED_TO * population)
    scaled = num_samples * rho2 + 1
    width = deviation * np.sqrt(2 * scaled / (num_samples**2 * rho2) * np.log(1 + np.sqrt(scaled) / (2 * alpha)))
    return np.asarray(mean - width)[()]


def _sign(direction: str) -> int:
    """1 where less is better."""
    return 1 if direction == "minimize" else -1
