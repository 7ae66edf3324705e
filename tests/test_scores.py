import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreap.errors import ScoringError
from autoreap.scores import BETTER, NO_DIFFERENCE, WORSE, Counts, Metric, compare, paired_difference, score
from autoreap.search.candidates import objective_values

UTTERANCES = st.lists(
    st.integers(1, 30).flatmap(lambda words: st.builds(Counts, st.integers(0, words), st.just(words))),
    min_size=1,
    max_size=40,
)


def noisy_counts(num_samples: int, rate: float, seed: int) -> list[Counts]:
    rng = np.random.default_rng(seed)
    return [Counts(int(rng.binomial(20, rate)), 20) for _ in range(num_samples)]


@settings(max_examples=50, deadline=None)
@given(counts=UTTERANCES)
def test_the_interval_contains_the_value_and_every_run_gives_the_same_one(counts: list[Counts]) -> None:
    measured = score(counts)
    assert measured.low <= measured.value <= measured.high
    assert score(counts) == measured
    assert measured.value == sum(c.numerator for c in counts) / sum(c.denominator for c in counts)


def test_a_score_carries_the_counts_behind_it() -> None:
    measured = score([Counts(1, 4), Counts(2, 8)], num_failed=1)
    assert (measured.numerator, measured.denominator, measured.num_samples, measured.num_failed) == (3, 12, 2, 1)
    assert set(json.loads(json.dumps(measured.as_dict()))) == {
        "value", "low", "high", "numerator", "denominator", "num_samples", "num_failed"
    }  # fmt: skip


def test_more_errors_than_words_give_a_rate_above_one() -> None:
    assert score([Counts(6, 2), Counts(0, 2)]).value == 1.5


def test_the_interval_narrows_with_more_utterances_and_moves_with_the_seed() -> None:
    few, many = (score(noisy_counts(num, 0.2, seed=0)) for num in (20, 2000))
    assert many.high - many.low < (few.high - few.low) / 4
    other = score(noisy_counts(20, 0.2, seed=0), seed=1)
    assert other.value == few.value
    assert other.low == pytest.approx(few.low, abs=0.05)
    assert (other.low, other.high) != (few.low, few.high)


def test_the_interval_is_as_wide_as_the_normal_approximation_says() -> None:
    measured = score([Counts(number % 2, 1) for number in range(400)])
    half_width = 1.96 * math.sqrt(0.25 / 400)
    assert measured.low == pytest.approx(0.5 - half_width, abs=0.01)
    assert measured.high == pytest.approx(0.5 + half_width, abs=0.01)


@pytest.mark.parametrize("counts", [[], [Counts(0, 0)], [Counts(0, 0)] * 3, [Counts(2, 0)]])
def test_nothing_scored_is_an_error_and_never_zero_errors(counts: list[Counts]) -> None:
    with pytest.raises(ScoringError, match="nothing was scored"):
        score(counts)
    with pytest.raises(ScoringError, match="nothing was scored"):
        paired_difference(counts, counts)


def test_a_paired_difference_of_equals_is_zero_without_doubt() -> None:
    counts = noisy_counts(50, 0.3, seed=0)
    assert paired_difference(counts, counts) == (0, 0, 0)


def test_a_paired_difference_has_its_sign_and_its_interval_from_both_sides() -> None:
    worse, better = [Counts(4, 10), Counts(2, 10)], [Counts(1, 10), Counts(2, 10)]
    difference, low, high = paired_difference(worse, better)
    assert (difference, low, high) == (0.15, 0.0, 0.3)
    assert paired_difference(better, worse) == (-difference, -high, -low)


def test_pairing_cancels_what_both_sides_share() -> None:
    rng = np.random.default_rng(0)
    hard = [int(errors) for errors in rng.integers(0, 20, 200)]
    first, second = [Counts(errors + 1, 20) for errors in hard], [Counts(errors, 20) for errors in hard]
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(0.05)
    assert [low, high] == pytest.approx([0.05, 0.05])
    assert score(first).low < score(second).high  # unpaired, the intervals overlap


@pytest.mark.parametrize("second", [[Counts(0, 5)], [Counts(0, 5), Counts(0, 6)]])
def test_different_references_are_not_compared(second: list[Counts]) -> None:
    with pytest.raises(ScoringError, match="same utterances"):
        paired_difference([Counts(0, 5), Counts(0, 5)], second)


@pytest.mark.parametrize(("direction", "fewer", "more"), [("minimize", BETTER, WORSE), ("maximize", WORSE, BETTER)])
def test_a_verdict_knows_which_way_a_metric_is_better(direction: str, fewer: str, more: str) -> None:
    few, many = noisy_counts(200, 0.1, seed=0), noisy_counts(200, 0.3, seed=1)
    assert compare(few, many, direction=direction).verdict == fewer
    assert compare(many, few, direction=direction).verdict == more
    measured = compare(few, many, direction=direction)
    assert (measured.value, measured.low, measured.high) == paired_difference(few, many)


def test_sides_of_one_rate_can_not_be_told_apart() -> None:
    first, second = noisy_counts(200, 0.2, seed=0), noisy_counts(200, 0.2, seed=1)
    assert compare(first, second, direction="minimize").verdict == NO_DIFFERENCE
    assert compare(first, first, direction="minimize").verdict == NO_DIFFERENCE


@pytest.mark.parametrize(("num_different", "verdict"), [(1, NO_DIFFERENCE), (5, NO_DIFFERENCE), (6, WORSE)])
def test_a_handful_of_utterances_decides_nothing_however_sure_the_bootstrap_is(
    num_different: int, verdict: str
) -> None:
    first, second = [Counts(1, 5)] * num_different, [Counts(0, 5)] * num_different
    measured = compare(first, second, direction="minimize")
    assert measured.low > 0
    assert measured.verdict == verdict


def test_objective_values_come_in_the_order_of_the_objectives() -> None:
    metrics = {"wer": Metric.static(0.1), "accuracy": Metric.static(0.8)}
    objectives = {"wer": "minimize", "size_bytes": "minimize"}
    assert objective_values(objectives, 1000, metrics) == (0.1, 1000.0)


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"accuracy": Metric.static(0.9)},
        *[{"wer": Metric.static(value)} for value in (math.nan, math.inf, -math.inf)],
    ],
)
def test_a_metric_that_is_missing_or_not_finite_is_an_error_and_never_ranks(metrics: dict[str, Metric]) -> None:
    with pytest.raises(ScoringError, match="metric wer"):
        objective_values({"size_bytes": "minimize", "wer": "minimize"}, 1000, metrics)
