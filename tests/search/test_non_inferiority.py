"""The rule `safe`: what is as good as the unpruned model within a margin, on both splits, and what is said if not."""

import optuna
import pytest
from studies import add_trial, new_study, rate, read

from autoreap.data.tasks import asr, audio_qa
from autoreap.errors import InputError
from autoreap.scores import NO_DIFFERENCE, WORSE, Counts, Difference, Metric, compare, score
from autoreap.search.non_inferiority import (
    check_margins,
    margin_limits,
    margin_of,
    nearest_to_non_inferior,
    quality_lines,
    smallest_safe,
)
from autoreap.search.records import HeldOutScores, HeldOutTrial, record_held_out, record_margins
from autoreap.search.selection import select

BASELINE = {"wer": rate(0.10), "accuracy": rate(0.90)}


def loss(points: float, width: float = 0.3) -> Difference:
    """A difference of so many points, give or take `width`."""
    return Difference(points / 100, (points - width) / 100, (points + width) / 100, NO_DIFFERENCE)


@pytest.fixture
def study() -> optuna.Study:
    """Four sizes: the smaller, the more words are wrong; the second smallest fails at questions alone."""
    study = new_study(baseline=BASELINE)
    for size, wer, accuracy in ((60, 0.0, 0.0), (40, 0.1, 0.2), (30, 0.0, -2.0), (20, 3.0, 0.0)):
        metrics = {"wer": rate(0.1 + wer / 100), "accuracy": rate(0.9 + accuracy / 100)}
        differences = {"wer": loss(wer), "accuracy": loss(accuracy)}
        add_trial(study, (size, 0.1 + wer / 100), metrics=metrics, against_baseline=differences)
    return study


def on_report(study: optuna.Study, losses: dict[int, float], width: float = 0.3, num_words: int = 1000) -> None:
    """Have the report split say how many more points of WER the trials have."""
    trials = {}
    for number, points in losses.items():
        value = 0.1 + points / 100
        metric = Metric(value, value - 0.01, value + 0.01, 1000 * value, num_words, num_samples=100)
        trials[number] = HeldOutTrial({"wer": metric}, {"wer": loss(points, width)}, [])
    record_held_out(study, HeldOutScores("digest", {"wer": rate(0.1)}, trials))


def test_the_smallest_that_loses_nothing_in_any_metric_is_chosen_whatever_its_wer(study: optuna.Study) -> None:
    point, reason = select(read(study), "safe")
    assert point.number == 1
    assert reason == (
        "smallest that is non-inferior to the unpruned model in wer (margin 0.5 points) and accuracy (margin 1 point), "
        "on the search split; it was not scored on the report split"
    )


def test_margins_of_the_space_decide(study: optuna.Study) -> None:
    record_margins(study, {"accuracy": 0.03})
    assert select(read(study), "safe")[0].number == 2
    record_margins(study, {"wer": 0.04, "accuracy": 0.03})
    assert select(read(study), "safe")[0].number == 3


def test_of_equal_sizes_that_comes_first_which_loses_least(study: optuna.Study) -> None:
    metrics = {"wer": rate(0.099), "accuracy": rate(0.9)}
    differences = {"wer": loss(-0.1), "accuracy": loss(0.0)}
    better = add_trial(study, (40, 0.099), metrics=metrics, against_baseline=differences)
    nearest = nearest_to_non_inferior(read(study).points, {})
    assert [point.number for point in nearest] == [better, 1, 0, 2, 3]


def test_where_the_report_split_disagrees_the_next_larger_one_is_chosen(study: optuna.Study) -> None:
    on_report(study, {1: 0.9})
    assert smallest_safe(read(study)).number == 0  # type: ignore[union-attr]
    on_report(study, {0: 0.1, 1: 0.9})
    point, reason = select(read(study), "safe")
    assert point.number == 0
    assert reason.endswith("on both splits; smaller, but not confirmed by the report split: trial 1 (wer)")


def test_where_none_is_non_inferior_the_nearest_and_the_best_trade_off_are_named(study: optuna.Study) -> None:
    on_report(study, {0: 0.9, 1: 0.7})
    with pytest.raises(InputError) as caught:
        select(read(study), "safe")
    message = str(caught.value)
    assert "no candidate is non-inferior to the unpruned model; the nearest is trial 1 (40.00 GB)" in message
    assert "on the report split wer +0.70 points [+0.40, +1.00], margin 0.5: worse" in message
    assert "The best trade-off is trial 2 (30.00 GB, --rule knee)" in message


def test_too_few_utterances_are_said_to_be_too_few_and_how_many_it_would_take(study: optuna.Study) -> None:
    on_report(study, {0: 0.1, 1: 0.1}, width=0.8)
    with pytest.raises(InputError) as caught:
        select(read(study), "safe")
    # An interval of 0.8 points above the loss must shrink to 0.4: four times as many.
    assert "margin 0.5: undecided, about 400 utterances would decide (100 here)" in str(caught.value)
    assert "add utterances to the report split, or state larger margins in the space" in str(caught.value)


def test_equal_answers_to_a_few_questions_prove_little() -> None:
    """The bootstrap of 50 equal answers has no width; that one of them in 17 differs can't be excluded."""
    answers = [Counts(1, 1)] * 50
    metrics = {"accuracy": score(answers)}
    differences = {"accuracy": compare(answers, answers, direction="maximize")}
    (check,) = check_margins(metrics, differences, {"accuracy": 0.04})
    assert (check.loss, check.bound) == (0.0, 3 / 50)
    assert not check.is_non_inferior
    assert check.num_needed == 113  # 3 / 0.06 ** 2 * ... of an interval that shrinks with the square root
    (check,) = check_margins(metrics, differences, {"accuracy": 0.06})
    assert check.is_non_inferior


def test_a_loss_is_judged_in_the_direction_in_which_the_metric_is_better() -> None:
    differences = {"wer": loss(-2.0), "accuracy": loss(-2.0), "wer/zh": loss(9.0), "nll.wer": loss(9.0)}
    metrics = {name: rate(0.5) for name in differences}
    wer, accuracy = check_margins(metrics, differences, {})
    assert wer.is_non_inferior
    assert not accuracy.is_non_inferior
    assert accuracy.num_needed is None


def test_a_label_has_the_margin_of_its_metric_unless_it_has_its_own() -> None:
    assert margin_of("wer.noisy", asr, {}) == 0.005
    assert margin_of("wer.noisy", asr, {"wer": 0.01}) == 0.01
    assert margin_of("wer.noisy", asr, {"wer": 0.01, "wer.noisy": 0.02}) == 0.02
    assert margin_of("accuracy", audio_qa, {"wer": 0.01}) == 0.01
    limits = margin_limits({**BASELINE, "wer/zh": rate(0.2), "size_4bit_bytes": Metric.static(1)}, {"wer": 0.01})
    assert {name: round(limit.value, 6) for name, limit in limits.items()} == {"wer": 0.11, "accuracy": 0.89}


def test_both_splits_are_told_with_their_differences(study: optuna.Study) -> None:
    on_report(study, {1: 0.9})
    record = read(study)
    lines = quality_lines(record, record.trial(1))
    assert lines == [
        "wer 10.10% [9.10%, 11.10%] on the search split, +0.10 points [-0.20, +0.40] against the unpruned model: "
        "non-inferior (margin 0.5)",
        "accuracy 90.20% [89.20%, 91.20%] on the search split, +0.20 points [-0.10, +0.50] against the unpruned model: "
        "non-inferior (margin 1)",
        "wer 10.90% [9.90%, 11.90%] on the report split, +0.90 points [+0.60, +1.20] against the unpruned model: "
        "worse (margin 0.5)",
    ]


def test_a_language_is_told_and_decides_nothing(study: optuna.Study) -> None:
    metrics = {"wer": rate(0.1), "accuracy": rate(0.9), "wer/zh": rate(0.2)}
    differences = {"wer": loss(0.0), "accuracy": loss(0.0), "wer/zh": Difference(0.1, 0.05, 0.15, WORSE)}
    number = add_trial(study, (10, 0.1), metrics=metrics, against_baseline=differences)
    record = read(study)
    assert select(record, "safe")[0].number == number
    assert quality_lines(record, record.trial(number))[2].endswith("against the unpruned model: worse")


def test_a_candidate_that_breaks_a_constraint_is_never_safe(study: optuna.Study) -> None:
    metrics = {"wer": rate(0.1), "accuracy": rate(0.9)}
    differences = {"wer": loss(0.0), "accuracy": loss(0.0)}
    violated = {"size <= 5 GB": 1.0}
    add_trial(study, (10, 0.1), metrics=metrics, against_baseline=differences, violations=violated)
    assert select(read(study), "safe")[0].number == 1
