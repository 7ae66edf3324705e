"""A screen decides only where it has proved itself."""

import math

import numpy as np
import pytest

from autoreap.study.triage import MIN_TRIALS, Screened, telling_ratio, triage


def trials(surprises: list[float], wer: list[float], sizes: list[float] | None = None) -> list[Screened]:
    return [
        Screened(number, {"wer": surprise}, {"wer": cost, "size_bytes": size})
        for number, (surprise, cost, size) in enumerate(zip(surprises, wer, sizes or [1.0] * len(wer), strict=True))
    ]


def test_a_screen_that_always_ranks_rightly_tells_from_the_smallest_gap_on() -> None:
    surprises = [1.1**number for number in range(20)]
    assert telling_ratio(surprises, surprises) == pytest.approx(1.1)


def test_a_screen_that_knows_nothing_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    surprises, costs = rng.uniform(1, 2, 60), rng.uniform(0, 1, 60)
    assert telling_ratio(list(surprises), list(costs)) == math.inf


def test_noise_sets_the_gap() -> None:
    rng = np.random.default_rng(0)
    truth = np.linspace(0, 3, 80)
    surprises = np.exp(truth + rng.normal(0, 0.2, 80))
    ratio = telling_ratio(list(surprises), list(truth))
    assert 1.1 < ratio < 1.6
    logs = np.log(surprises)
    gaps = logs[:, None] - logs[None, :]
    just_apart = (gaps >= math.log(ratio)) & (gaps < math.log(ratio) + 0.1)
    right = truth[:, None] > truth[None, :]
    assert right[just_apart].mean() >= 0.93


def test_equal_costs_are_never_told_apart() -> None:
    assert telling_ratio([1.0 + number for number in range(30)], [0.5] * 30) == math.inf


def test_too_few_pairs_tell_nothing() -> None:
    assert telling_ratio([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == math.inf


SCORED = trials([1.2**number for number in range(MIN_TRIALS)], [0.01 * (1 + number) for number in range(MIN_TRIALS)])


def test_a_candidate_that_a_smaller_and_clearer_member_beats_is_not_scored() -> None:
    found = triage({"size_bytes": 1.0}, {"wer": 8.0}, SCORED, {0})
    assert found is not None
    assert found.rival == 0
    assert "trial 0 is no larger" in found.reason


def test_a_smaller_candidate_is_scored_whatever_its_screen() -> None:
    assert triage({"size_bytes": 0.9}, {"wer": 8.0}, SCORED, {0}) is None


def test_a_candidate_as_clear_as_the_member_is_scored() -> None:
    assert triage({"size_bytes": 1.0}, {"wer": 1.0}, SCORED, {0}) is None


def test_only_members_of_the_front_count() -> None:
    assert triage({"size_bytes": 1.0}, {"wer": 8.0}, SCORED, set()) is None


def test_a_screen_has_to_prove_itself_first() -> None:
    assert triage({"size_bytes": 1.0}, {"wer": 8.0}, SCORED[:-1], {0}) is None


def test_an_objective_that_is_not_screened_is_never_held_against_a_candidate() -> None:
    scored = [Screened(each.trial, each.surprise, {**each.costs, "accuracy": -1.0}) for each in SCORED]
    assert triage({"size_bytes": 1.0}, {"wer": 8.0}, scored, {0}) is None
