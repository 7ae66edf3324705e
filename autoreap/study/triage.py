"""Which candidates get a full score: not those that a screen tells from a better member of the front.

A screen (`scoring.screening`) costs a fraction of a full score. How far it can be trusted is not assumed but read from
the trials that had both: among all pairs of them, from which ratio of surprises on was the more surprised the worse?
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_TRIALS = 12  # with both a screen and a full score, before a screen decides anything
TRUSTED = 0.95  # the share of pairs that a ratio must have put in the right order
_NEIGHBOURS = 40  # the fewest pairs of about one ratio that say how often it misleads


@dataclass(frozen=True)
class Screened:
    """A trial that was screened and fully scored.

    Attributes:
        trial: its number.
        surprise: metric -> negative log-likelihood of a reference's token, in nats.
        costs: objective -> value, its sign turned where more is better.
    """

    trial: int
    surprise: Mapping[str, float]
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Triage:
    """Why a candidate is not scored in full: `ratios` are how many times as surprised it is as trial `rival`."""

    rival: int
    ratios: Mapping[str, float]
    needed: Mapping[str, float]

    @property
    def reason(self) -> str:
        """In words."""
        words = [
            f"{name}: {ratio:.2f} times the surprise, {self.needed[name]:.2f} tell"
            for name, ratio in self.ratios.items()
        ]
        return f"trial {self.rival} is no larger and seems better: {', '.join(words)}"


def triage(
    known: Mapping[str, float], surprise: Mapping[str, float], scored: Sequence[Screened], front: Collection[int]
) -> Triage | None:
    """The member of the front that seems better in every objective; None where the candidate deserves a full score.

    Args:
        known: the candidate's costs that need no scoring, such as its size.
        surprise: what its screen says, by metric.
        scored: the trials so far.
        front: which of them are on the front.
    """
    if len(scored) < MIN_TRIALS:
        return None
    screenable = [name for name in scored[0].costs if name not in known]
    if not screenable or not all(name in surprise for name in screenable):
        return None
    needed = {
        name: telling_ratio([each.surprise[name] for each in scored], [each.costs[name] for each in scored])
        for name in screenable
    }
    for rival in (each for each in scored if each.trial in front):
        ratios = {name: surprise[name] / max(rival.surprise[name], np.finfo(float).tiny) for name in screenable}
        no_better = all(cost >= rival.costs[name] for name, cost in known.items())
        if no_better and all(ratios[name] >= needed[name] for name in screenable):
            return Triage(rival.trial, ratios, needed)
    return None


def telling_ratio(surprises: Sequence[float], costs: Sequence[float]) -> float:
    """The least ratio of two surprises from which on the larger meant the larger cost, in `TRUSTED` of the pairs.

    Pairs are judged beside those of about their own ratio, so that wide gaps don't speak for narrow ones. Pairs of
    equal cost count as wrong: between equals a screen must not decide. Infinite where no ratio will do.
    """
    logs, cost = np.log(np.maximum(surprises, np.finfo(float).tiny)), np.asarray(costs, dtype=np.float64)
    more, less = np.nonzero(logs[:, None] > logs[None, :])
    gaps = logs[more] - logs[less]
    if len(gaps) < _NEIGHBOURS:
        return math.inf
    num_neighbours = max(_NEIGHBOURS, len(gaps) // 20)
    narrowest_first = np.argsort(gaps, kind="stable")
    right = (cost[more] > cost[less])[narrowest_first]
    sums = np.cumsum(np.concatenate([[0], right]))
    share = (sums[num_neighbours:] - sums[:-num_neighbours]) / num_neighbours
    doubtful = np.nonzero(share < TRUSTED - 1e-9)[0]
    first = doubtful[-1] + 1 if len(doubtful) else 0
    return math.exp(gaps[narrowest_first[first]]) if first < len(share) else math.inf
