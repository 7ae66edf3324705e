"""The rules that pick a point: which one, the reason in words, and what is refused."""

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import add_ends, add_trial, new_study, read

from autoreap.errors import InputError
from autoreap.scores import Metric
from autoreap.search.front import pareto
from autoreap.search.records import StudyRecord
from autoreap.search.selection import _losses, select

TRIALS = [(60, 0.10), (40, 0.11), (30, 0.12), (20, 0.30), (45, 0.20)]
THREE = {"size_bytes": "minimize", "first_token_ratio": "minimize", "wer": "minimize"}


def study_of(rows: Sequence[Sequence[float]], objectives: Mapping[str, str] | None = None) -> StudyRecord:
    study = new_study(objectives)
    for row in rows:
        add_trial(study, row)
    return read(study)


@pytest.mark.parametrize(
    ("rule", "bounds", "trial", "reason"),
    [
        ("knee", {}, 2, r"best trade-off of the 4 front points with wer <= 31\.62%"),
        ("smallest", {"max_wer_increase": 2.5}, 2, r"wer <= 12\.50% \(unpruned 10\.00% \[.*\] \+ 2\.5 points\)"),
        ("smallest", {"max_wer_increase": 0.0}, 0, r"wer <= 10\.00%"),
        ("smallest", {"max_wer_increase": 90.0}, 3, r"wer <= 100\.00%"),
        ("best", {"max_size_bytes": 59e9}, 1, "lowest wer with at most 59.00 GB"),
        ("best", {"max_size_bytes": 30e9}, 2, "lowest wer with at most 30.00 GB"),
    ],
)
def test_a_rule_picks_its_point_and_says_why(rule: str, bounds: dict[str, float], trial: int, reason: str) -> None:
    chosen, why = select(study_of(TRIALS), rule, **bounds)
    assert chosen.number == trial
    assert re.search(reason, why)


def test_the_knee_is_never_the_small_fast_one_that_hears_nothing() -> None:
    """It is best in two of three objectives, so it lies nearer to the ideal corner than the one between does."""
    study = study_of([(5, 0.2, 0.9), (30, 0.7, 0.12), (60, 1.0, 0.1)], THREE)
    chosen, why = select(study, "knee")
    assert chosen.number == 1
    assert "of the 2 front points" in why


def test_an_objective_that_says_the_same_as_another_moves_no_knee() -> None:
    rows = [(60, 0.10), (45, 0.104), (30, 0.2), (24, 0.3)]
    repeated = [(size, wer, wer) for size, wer in rows]
    objectives = {"size_bytes": "minimize", "wer": "minimize", "wer.car": "minimize"}
    assert select(study_of(repeated, objectives), "knee")[0].number == select(study_of(rows), "knee")[0].number


def test_the_knee_of_objectives_that_are_no_rates_is_found() -> None:
    study = study_of([(1, 4.0), (2, 1.1), (8, 1.0)], {"size_4bit_bytes": "minimize", "first_token_ratio": "minimize"})
    chosen, why = select(study, "knee")
    assert chosen.number == 1
    assert why == "best trade-off of the 3 front points"


def test_where_more_is_better_the_bound_of_use_is_on_what_is_wrong() -> None:
    right = Metric(0.91, 0.9, 0.92, denominator=1000, num_samples=100)
    study = new_study({"size_bytes": "minimize", "accuracy": "maximize"}, baseline={"accuracy": right})
    for values in ((10, 0.69), (20, 0.75), (60, 0.9)):
        add_trial(study, values)
    chosen, why = select(read(study), "knee")
    assert chosen.number == 2, "of two ends the larger"
    assert "accuracy >= 70.00%" in why
    assert why.endswith("no point between the ends is a better trade-off than they are")


def test_where_nothing_is_of_use_there_is_no_knee() -> None:
    message = r"--rule knee: no point of the front has wer <= 31\.62% .*--rule smallest --max-wer-increase POINTS"
    with pytest.raises(InputError, match=message):
        select(study_of([(10, 0.9), (20, 0.5)]), "knee")


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(*[st.integers(1, 31)] * 3), min_size=1, max_size=8))
def test_no_useful_point_has_a_smaller_worst_loss_than_the_knee(rows: list[tuple[int, int, int]]) -> None:
    values = [(size, ratio, errors / 100) for size, ratio, errors in rows]
    study = study_of(values, THREE)
    chosen, _ = select(study, "knee")
    front = pareto(study.points, THREE)
    assert chosen in front
    losses = _losses(front, THREE)
    worst = {point.number: max(losses[point.number]) for point in front}
    for point in front:
        if worst[point.number] < worst[chosen.number]:
            assert _is_beaten_by_a_mixture(losses[point.number], list(losses.values()))


def _is_beaten_by_a_mixture(point: Sequence[float], all_losses: Sequence[Sequence[float]]) -> bool:
    """Whether a mixture of two or three points, in steps of a twentieth, is nearly as good in every objective."""
    weights = np.linspace(0, 1, 21)
    for rows in itertools.combinations_with_replacement(np.array(all_losses), 3):
        for first, second in itertools.product(weights, weights):
            if first + second <= 1:
                mixture = first * rows[0] + second * rows[1] + (1 - first - second) * rows[2]
                if (mixture <= np.array(point) + 0.06).all():
                    return True
    return False


def test_a_middle_that_is_a_worse_trade_than_the_ends_mixed_is_no_knee() -> None:
    bulging = [(60, 0.10), (50, 0.19), (30, 0.20)]
    chosen, why = select(study_of(bulging), "knee")
    assert chosen.number == 0
    assert why.endswith("no point between the ends is a better trade-off than they are")
    assert select(study_of([(60, 0.10), (35, 0.11), (30, 0.20)]), "knee")[0].number == 1


@pytest.mark.parametrize(
    ("rule", "bounds", "message"),
    [
        ("smallest", {}, "--rule smallest: needs --max-wer-increase"),
        ("smallest", {"max_wer_increase": -1.0}, "no point of the front fits: smallest .*relax the bound"),
        ("best", {}, "--rule best: needs --max-size"),
        ("best", {"max_size_bytes": 1e9}, "no point of the front fits: lowest wer with at most 1.00 GB"),
        ("median", {}, "unknown rule 'median'.*safe, knee, smallest, best"),
        ("knee", {"max_wer_increase": 0.5}, "--rule knee: has no --max-wer-increase .*--rule smallest has it"),
        ("smallest", {"max_wer_increase": 0.5, "max_size_bytes": 1e9}, "--rule smallest: has no --max-size"),
    ],
)
def test_a_rule_that_picks_nothing_is_refused_with_what_to_change(
    rule: str, bounds: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        select(study_of(TRIALS), rule, **bounds)


ALL_RULES: list[tuple[str, dict[str, float]]] = [
    ("knee", {}),
    ("best", {"max_size_bytes": 1e12}),
    ("smallest", {"max_wer_increase": 99.0}),
]


@pytest.mark.parametrize(("rule", "bounds"), ALL_RULES)
def test_a_front_without_a_point_has_nothing_to_select(rule: str, bounds: dict[str, float]) -> None:
    study = new_study()
    with pytest.raises(InputError, match="study night: has no finished trial"):
        select(read(study), rule, **bounds)
    add_trial(study, (1, 0.1), violations={"wer <= 5%": 1.0})
    with pytest.raises(InputError, match="no trial keeps every constraint; the nearest is trial 0"):
        select(read(study), rule, **bounds)


def test_failures_alone_have_nothing_to_select() -> None:
    study = new_study()
    add_ends(study)
    with pytest.raises(InputError, match=r"no trial was scored; of 1 that .* trial 1, which violates size <= 20 GB"):
        select(read(study), "knee")


@pytest.mark.parametrize(("rule", "bounds"), ALL_RULES[1:])
def test_rules_on_size_and_wer_are_refused_where_a_study_weighs_something_else(
    rule: str, bounds: dict[str, float]
) -> None:
    study = study_of([(60, 0.99), (40, 0.95)], {"size_bytes": "minimize", "accuracy": "maximize"})
    with pytest.raises(InputError, match=f"--rule {rule}: weighs .* one wer, but .* size_bytes, accuracy"):
        select(study, rule, **bounds)


@pytest.mark.parametrize(
    ("names", "picked"), [(("wer.car",), (1, "lowest wer.car")), (("wer.car", "wer"), (0, "lowest wer"))]
)
def test_rules_take_the_wer_of_the_objectives_also_where_it_has_a_label(
    names: tuple[str, ...], picked: tuple[int, str]
) -> None:
    rows = [(2, 0.2, 0.1), (3, 0.1, 0.2)]
    study = study_of([row[: len(names) + 1] for row in rows], dict.fromkeys(("size_bytes", *names), "minimize"))
    chosen, why = select(study, "best", max_size_bytes=1e12)
    assert (chosen.number, why) == (picked[0], f"{picked[1]} with at most 1,000.00 GB")


def test_rules_are_refused_where_several_labelled_wers_are_weighed() -> None:
    objectives = dict.fromkeys(("size_bytes", "wer.car", "wer.quiet"), "minimize")
    study = study_of([(2, 0.2, 0.1), (3, 0.1, 0.2)], objectives)
    with pytest.raises(InputError, match="--rule best: weighs size_bytes against one wer"):
        select(study, "best", max_size_bytes=1e12)
    assert select(study, "knee")[0].number == 0, "the losses are the same, so the size decides"
