"""From per-utterance counts to corpus rates with confidence intervals. NumPy alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreap.errors import ScoringError

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
BETTER, WORSE, UNDECIDED = "better", "worse", "can't be told apart"
# Of fewer utterances that differ no sign test gives a two-sided p below 0.05 (2 * 0.5 ** 6 = 0.03), even if all of them
# go one way; there the bootstrap, which knows only what it has seen, is too sure.
MIN_DIFFERENT = 6


@dataclass(frozen=True)
class Counts:
    """What one utterance contributes to a metric: errors over reference words, or correct answers over questions."""

    numerator: int
    denominator: int


@dataclass(frozen=True)
class Nats:
    """What one utterance contributes to a likelihood: its negative logarithm over reference tokens."""

    numerator: float
    denominator: int


@dataclass(frozen=True)
class Score:
    """A corpus rate, never without its interval.

    Attributes:
        value: sum of numerators over sum of denominators.
        low, high: 95% percentile bootstrap interval over utterances.
        numerator, denominator: the two sums.
        num_samples: utterances scored.
        num_failed: utterances that could not be scored, or whose output could not be parsed.
    """

    value: float
    low: float
    high: float
    numerator: float
    denominator: int
    num_samples: int
    num_failed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def exact(value: float) -> dict[str, Any]:
    """The plain values of a metric that is counted, not measured on samples."""
    return {"value": value, "low": value, "high": value}


def is_exact(measured: Mapping[str, Any]) -> bool:
    """Whether plain values are those of `exact`."""
    return "num_samples" not in measured


@dataclass(frozen=True)
class Difference:
    """How one side fares against the other, on the same utterances.

    Attributes:
        value: the one rate minus the other.
        low, high: 95% percentile interval of the paired bootstrap.
        verdict: `better`, `worse` or `can't be told apart`.
    """

    value: float
    low: float
    high: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def score(counts: Sequence[Counts] | Sequence[Nats], *, num_failed: int = 0, seed: int = 0) -> Score:
    """The corpus rate of `counts` with its bootstrap interval.

    Raises:
        ScoringError: nothing was scored. No samples, or no reference words, is a failure and never a rate of 0.
    """
    numerators = np.array([count.numerator for count in counts])
    denominators = np.array([count.denominator for count in counts], dtype=np.int64)
    total = int(denominators.sum())
    if total == 0:
        raise ScoringError(f"nothing was scored: {len(counts)} samples with {total} reference units")
    low, high = _interval(_resampled_rates(numerators, denominators, seed))
    return Score(
        value=float(numerators.sum() / total),
        low=low,
        high=high,
        numerator=numerators.sum().item(),
        denominator=total,
        num_samples=len(counts),
        num_failed=num_failed,
    )


def paired_difference(first: Sequence[Counts], second: Sequence[Counts]) -> tuple[float, float, float]:
    """(difference, low, high) of the rates of `first` minus `second`, the same utterances in the same order.

    Both are resampled together (paired bootstrap; Bisani and Ney, 2004), so what the two share cancels out.
    """
    if [count.denominator for count in first] != [count.denominator for count in second]:
        raise ScoringError("a paired comparison needs the same utterances with the same references on both sides")
    denominators = np.array([count.denominator for count in first], dtype=np.int64)
    difference = np.array([a.numerator - b.numerator for a, b in zip(first, second, strict=True)])
    if denominators.sum() == 0:
        raise ScoringError("nothing was scored")
    low, high = _interval(_resampled_rates(difference, denominators))
    return float(difference.sum() / denominators.sum()), low, high


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], num_samples: int
) -> tuple[float, float]:
    """95% percentile bootstrap interval of `statistic`: from the numbers drawn [R, N] to R values."""
    drawn = np.random.default_rng(0).integers(num_samples, size=(NUM_RESAMPLES, num_samples))
    return _interval(statistic(drawn))


def compare(first: Sequence[Counts], second: Sequence[Counts], *, direction: str) -> Difference:
    """How `first` fares against `second`, the same utterances in the same order; `direction` as a task's DIRECTION.

    An interval that holds 0 decides nothing, nor do fewer than MIN_DIFFERENT utterances that differ.
    """
    value, low, high = paired_difference(first, second)
    num_different = sum(a != b for a, b in zip(first, second, strict=True))
    if low <= 0 <= high or num_different < MIN_DIFFERENT:
        return Difference(value, low, high, UNDECIDED)
    return Difference(value, low, high, BETTER if (value < 0) == (direction == "minimize") else WORSE)


def _resampled_rates(numerators: NDArray[Any], denominators: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """[NUM_RESAMPLES] rates: resampling utterances with replacement is multinomial weighting of their counts."""
    num_samples = len(numerators)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=NUM_RESAMPLES)
    rates: NDArray[np.float64] = (weights @ numerators) / np.maximum(weights @ denominators, 1)
    return rates


def _interval(rates: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)
