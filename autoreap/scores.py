"""From counts of each utterance to corpus rates with confidence intervals. NumPy alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreap.errors import ScoringError
from autoreap.validation import NO_OTHER_KEYS, Count, Number

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no significant difference"
# With fewer utterances that differ, no sign test gives a two-sided p below 0.05 (2 * 0.5 ** 6 = 0.03), even if all of
# them go one way. The bootstrap knows only the utterances it has, so there it is too confident.
MIN_DIFFERENT = 6


@dataclass(frozen=True)
class Counts:
    """What one utterance adds to a metric: errors over reference words, or correct answers over questions."""

    numerator: int
    denominator: int


@dataclass(frozen=True)
class NllCounts:
    """What one utterance adds to a negative log-likelihood: nats over reference tokens."""

    numerator: float
    denominator: int


@dataclass(frozen=True)
class Metric:
    """One number about a model. A number measured on samples is never without its interval.

    A metric without `num_samples` is static: it follows from the plan alone, and `low` and `high` equal `value`.

    Attributes:
        value: for a rate, the sum of numerators over the sum of denominators.
        low, high: 95% percentile bootstrap interval over the samples.
        numerator, denominator: the two sums.
        num_samples: utterances (or measurements) behind the value.
        num_failed: utterances without a valid answer; they count as errors.
        num_unreadable: rows that were left out, because their media could not be read.
        quartiles: the first and the third, of a metric that is a median.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    value: Number
    low: Number
    high: Number
    numerator: Number | None = None
    denominator: Count | None = None
    num_samples: Count | None = None
    num_failed: Count | None = None
    num_unreadable: Count | None = None
    quartiles: Sequence[Number] | None = None

    @classmethod
    def static(cls, value: float) -> "Metric":
        """A metric that follows from the plan alone."""
        return cls(value, value, value)

    @property
    def is_static(self) -> bool:
        """Whether it follows from the plan alone."""
        return self.num_samples is None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is None is left out. `Metric(**values)` inverts it."""
        return {name: value for name, value in vars(self).items() if value is not None}


Metrics = Mapping[str, Metric]


def metrics_as_dict(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Plain values for JSON."""
    return {name: metric.as_dict() for name, metric in metrics.items()}


def metrics_from_dict(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """What `metrics_as_dict` wrote."""
    return {name: Metric(**values) for name, values in document.items()}


@dataclass(frozen=True)
class Difference:
    """One model against another on the same utterances.

    Attributes:
        value: the rate of the one minus the rate of the other.
        low, high: 95% percentile interval of the paired bootstrap.
        verdict: `better`, `worse` or `no significant difference`.
    """

    value: float
    low: float
    high: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def differences_as_dict(differences: Mapping[str, Difference]) -> dict[str, dict[str, Any]]:
    """Plain values for JSON."""
    return {name: difference.as_dict() for name, difference in differences.items()}


def differences_from_dict(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Difference]:
    """What `differences_as_dict` wrote."""
    return {name: Difference(**values) for name, values in document.items()}


def score(
    counts: Sequence[Counts] | Sequence[NllCounts],
    *,
    num_failed: int = 0,
    num_unreadable: int | None = None,
    seed: int = 0,
) -> Metric:
    """The corpus rate of `counts` with its bootstrap interval.

    Raises:
        ScoringError: nothing was scored. No samples, or no reference words, is a failure and never a rate of 0.

    Example:
        Of ten utterances of ten words each, eight have one error and two have three.

        >>> metric = score([Counts(1, 10)] * 8 + [Counts(3, 10)] * 2)
        >>> f"{metric.value:.0%} [{metric.low:.0%}, {metric.high:.0%}]"
        '14% [10%, 20%]'
    """
    numerators = np.array([count.numerator for count in counts])
    denominators = np.array([count.denominator for count in counts], dtype=np.int64)
    total = int(denominators.sum())
    if total == 0:
        raise ScoringError(f"nothing was scored: {len(counts)} samples with {total} reference units")
    low, high = _interval(_resampled_rates(numerators, denominators, seed))
    return Metric(
        value=float(numerators.sum() / total),
        low=low,
        high=high,
        numerator=numerators.sum().item(),
        denominator=total,
        num_samples=len(counts),
        num_failed=num_failed,
        num_unreadable=num_unreadable,
    )


def paired_difference(
    first: Sequence[Counts | NllCounts], second: Sequence[Counts | NllCounts]
) -> tuple[float, float, float]:
    """(difference, low, high) of the rates of `first` minus `second`, the same utterances in the same order.

    Both are resampled together (paired bootstrap; Bisani and Ney, 2004), so what the two share cancels out.
    """
    denominators = np.array([count.denominator for count in first], dtype=np.int64)
    if denominators.tolist() != [count.denominator for count in second]:
        raise ScoringError("a paired comparison needs the same utterances with the same references on both sides")
    difference = np.array([a.numerator - b.numerator for a, b in zip(first, second, strict=True)])
    if denominators.sum() == 0:
        raise ScoringError("nothing was scored")
    low, high = _interval(_resampled_rates(difference, denominators))
    return float(difference.sum() / denominators.sum()), low, high


def compare(first: Sequence[Counts | NllCounts], second: Sequence[Counts | NllCounts], *, direction: str) -> Difference:
    """`first` against `second`, the same utterances in the same order; `direction` is `minimize` or `maximize`.

    A difference is significant if its interval does not contain 0 and at least MIN_DIFFERENT utterances differ.

    Example:
        A candidate errs once in each of seven utterances, the unpruned model never. Three would be too few to tell.

        >>> unpruned = [Counts(0, 10)] * 20
        >>> compare([Counts(1, 10)] * 7 + [Counts(0, 10)] * 13, unpruned, direction="minimize")
        Difference(value=0.035, low=0.015, high=0.055, verdict='worse')
        >>> compare([Counts(1, 10)] * 3 + [Counts(0, 10)] * 17, unpruned, direction="minimize").verdict
        'no significant difference'
    """
    value, low, high = paired_difference(first, second)
    num_different = sum(a != b for a, b in zip(first, second, strict=True))
    if low <= 0 <= high or num_different < MIN_DIFFERENT:
        return Difference(value, low, high, NO_DIFFERENCE)
    verdict = WORSE
    if (value < 0) == (direction == "minimize"):
        verdict = BETTER
    return Difference(value, low, high, verdict)


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], num_samples: int
) -> tuple[float, float]:
    """95% percentile bootstrap interval of `statistic`: from the numbers drawn [R, N] to R values."""
    drawn = np.random.default_rng(0).integers(num_samples, size=(NUM_RESAMPLES, num_samples))
    return _interval(statistic(drawn))


def _resampled_rates(numerators: NDArray[Any], denominators: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """[NUM_RESAMPLES] rates. To resample utterances with replacement is to weight their counts multinomially."""
    weights = _resamples(len(numerators), seed)
    # A resample may draw nothing but utterances without a reference word.
    rates: NDArray[np.float64] = (weights @ numerators) / np.maximum(weights @ denominators, 1)
    return rates


# Every trial is scored on as many samples as the one before, and to draw takes longer than all else.
@lru_cache(maxsize=8)
def _resamples(num_samples: int, seed: int) -> NDArray[np.float64]:
    """How often each sample is drawn, in each resample; [NUM_RESAMPLES, num_samples]."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=NUM_RESAMPLES)
    # BLAS multiplies floats alone; sums of counts stay exact in them up to 2**53.
    return drawn.astype(np.float64)


def _interval(rates: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)
