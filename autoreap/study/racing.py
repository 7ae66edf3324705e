"""A candidate that can no longer reach the front is stopped. NumPy alone.

It is stopped where one member of the front is at least as good in every objective and better in one:

- for certain (`Race.watch`): even if the candidate makes no further error. Errors only grow, and how many reference
  words or questions there are is known beforehand, so the errors so far bound the rate; where more is better, all that
  is still to come counts as right. What a bound says, the full score would have said: the front is the same with and
  without. A candidate that could still be the equal of a member goes on, for equals share the front.
- with confidence (`Race.look`, from `MIN_POPULATION` utterances on): the errors on a random sample exceed the member's.

What is neither known beforehand nor a rate of counts is never held against a candidate.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreap.outcomes import Outcome
from autoreap.wording import size_text

ALPHA = 0.02  # how often a candidate of the front may be stopped by what a sample says
MIN_POPULATION = 1000  # with fewer, curtailment has seen nearly as much before a sample could say anything
_MIN_SAMPLE = 100  # the bound is asymptotic
_TUNED_TO = 0.2  # the share of the utterances at which the bound is tightest

Numerators = Mapping[str, Mapping[str, int]]  # metric -> utterance id -> numerator


@dataclass(frozen=True)
class Rival:
    """A member of the front.

    Attributes:
        trial: its number.
        values: its objectives by name.
        metrics: its scores as plain values.
        numerators: gives its errors (or right answers) utterance by utterance; empty where they are no longer there.
    """

    trial: int
    values: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Any]]
    numerators: Callable[[], Numerators]


@dataclass(frozen=True)
class Verdict:
    """Why and when a candidate was stopped.

    Attributes:
        rival: the trial that beats it.
        reason: in words.
        num_scored, num_utterances: how many of all utterances and questions were scored.
        counts: numerator, denominator and utterances so far, of each metric. No score: more was to come.
        seconds: from the start of its evaluation.
    """

    rival: int
    reason: str
    num_scored: int
    num_utterances: int
    counts: Mapping[str, Mapping[str, int]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Raced(Exception):  # noqa: N818 - no error: the candidate is as sound as any other
    """The candidate can't reach the front any more."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.reason)


@dataclass
class _Tally:
    """What was counted of one metric."""

    num_samples: int = 0
    numerator: int = 0
    denominator: int = 0
    numerators: dict[str, int] = field(default_factory=dict)  # by utterance, in the order they came


class Race:
    """One candidate against the front.

    Args:
        objectives: metric -> direction.
        known: the candidate's objectives that need no scoring, such as `size_bytes`.
        rivals: the front as it is. Empty: nothing stops the candidate.
    """

    def __init__(self, objectives: Mapping[str, str], known: Mapping[str, float], rivals: Sequence[Rival]) -> None:
        self._objectives = objectives
        self._known = {name: value for name, value in known.items() if name in objectives}
        self._tallies = {name: _Tally() for name in objectives}
        self._exceeds: set[tuple[int, str]] = set()  # rivals and metrics, by what a sample says
        self._rivals = [rival for rival in rivals if all(self._margin(name, rival) >= 0 for name in self._known)]
        self._started = time.monotonic()

    def check(self) -> None:
        """Raise `Raced` if a rival beats the candidate, whatever is still to come."""
        for rival in self._rivals:
            margins = [self._margin(name, rival) for name in self._objectives]
            if min(margins) >= 0 and max(margins) > 0:
                raise Raced(self._verdict(rival))

    def watch(self, metric: str, outcome: Outcome) -> None:
        """Count an outcome; raises as `check` does."""
        tally = self._tallies.setdefault(metric, _Tally())
        tally.num_samples += 1
        tally.numerator += outcome.counts.numerator
        tally.denominator += outcome.counts.denominator
        tally.numerators[outcome.id] = outcome.counts.numerator
        self.check()

    def look(self, metric: str) -> None:
        """What was scored of `metric` is a random sample of it; raises `Raced` if that says enough.

        A candidate that belongs on the front is better than each rival in one objective at least, so stopping it takes
        an error about that very one: no correction for the number of objectives is due (the intersection-union test;
        Berger, 1982). Any rival may cause the error, so each gets its part of `ALPHA`.
        """
        own = self._tallies[metric].numerators
        if metric not in self._objectives or len(own) < _MIN_SAMPLE:
            return
        sign = _sign(self._objectives[metric])
        for rival in self._rivals:
            theirs = rival.numerators().get(metric, {})
            if not own.keys() <= theirs.keys() or len(theirs) < MIN_POPULATION:
                continue
            places = {name: place for place, name in enumerate(theirs)}
            costs = sign * np.array(list(theirs.values()), dtype=np.float64)
            common = curbed(costs)
            differences = sign * np.array(list(own.values())) - common[[places[name] for name in own]]
            bound = lower_bound(
                len(own), differences.mean(), differences.std(), alpha=ALPHA / len(self._rivals), population=len(costs)
            )
            if bound > costs.mean() - common.mean():
                self._exceeds.add((rival.trial, metric))
        self.check()

    def _margin(self, name: str, rival: Rival) -> float:
        """By how much the rival is better in an objective, at least; minus infinity where nothing can be said."""
        if self._seems_worse(name, rival):
            return math.inf
        return _sign(self._objectives[name]) * (self._best(name, rival) - rival.values[name])

    def _best(self, name: str, rival: Rival) -> float:
        """The best value that the candidate can come to, computed and so rounded as its score will be."""
        if name in self._known:
            return self._known[name]
        best_sign = -_sign(self._objectives[name])
        measured = rival.metrics.get(name, {})
        total = measured.get("denominator")
        if not total or measured.get("numerator", math.nan) / total != rival.values[name]:
            return best_sign * math.inf
        tally = self._tallies[name]
        to_come = total - tally.denominator if best_sign > 0 else 0
        return float((tally.numerator + to_come) / total)

    def _seems_worse(self, name: str, rival: Rival) -> bool:
        """By what a sample says; once all is scored, that is overruled."""
        return (rival.trial, name) in self._exceeds and (
            self._tallies[name].num_samples < rival.metrics[name]["num_samples"]
        )

    def _verdict(self, rival: Rival) -> Verdict:
        words = ", ".join(self._comparison(name, rival) for name in self._objectives)
        return Verdict(
            rival=rival.trial,
            reason=f"trial {rival.trial} is better whatever is still to come: {words}",
            num_scored=sum(tally.num_samples for tally in self._tallies.values()),
            num_utterances=sum(
                measured.get("num_samples", 0) for name, measured in rival.metrics.items() if _is_of_a_task(name)
            ),
            counts={
                name: {
                    "numerator": tally.numerator,
                    "denominator": tally.denominator,
                    "num_samples": tally.num_samples,
                }
                for name, tally in self._tallies.items()
                if tally.num_samples
            },
            seconds=time.monotonic() - self._started,
        )

    def _comparison(self, name: str, rival: Rival) -> str:
        """`wer 3.10% against 4.20% at least`."""
        theirs, best = rival.values[name], self._best(name, rival)
        if name in self._known:
            written = size_text if name.endswith("_bytes") else "{:g}".format
            return f"{name} {written(theirs)} against {written(best)}"
        if self._seems_worse(name, rival):
            worse = "more" if self._objectives[name] == "minimize" else "less"
            return f"{name} {theirs:.2%} against {worse}, by a sample of {self._tallies[name].num_samples}"
        bound = "least" if self._objectives[name] == "minimize" else "most"
        return f"{name} {theirs:.2%} against {best:.2%} at {bound}"


def curbed(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What to subtract from a candidate's costs, where a rival has these [..., U] over all U utterances.

    The costs themselves, which makes the differences small, but for the highest twentieth. A rival that runs away on
    one utterance in 300 is worse by a lot, of which many samples of 100 know nothing. What is cut off here needs no
    sample: the rival was scored to the end.
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
    """
    spread = -2 * math.log(2 * alpha)
    rho2 = (spread + math.log(spread + 1)) / (_TUNED_TO * population)  # tightest there (section B.2 of the paper)
    scaled = num_samples * rho2 + 1
    width = deviation * np.sqrt(2 * scaled / (num_samples**2 * rho2) * np.log(1 + np.sqrt(scaled) / (2 * alpha)))
    return np.asarray(mean - width)[()]


def _is_of_a_task(metric: str) -> bool:
    """Not of one language, and not a likelihood: their rows are counted with their task."""
    return "/" not in metric and not metric.startswith("nll.")


def _sign(direction: str) -> int:
    """1 where less is better."""
    return 1 if direction == "minimize" else -1
