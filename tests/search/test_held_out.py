"""Ties on the report split, and how tables and rules show them."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from builders import planned
from pages import ROOT
from studies import add_trial, new_study, read

from autoreap.data.eval_set import open_evals
from autoreap.evaluation.outcomes import Outcome
from autoreap.report.front_table import front_table
from autoreap.scores import NO_DIFFERENCE, Counts, Difference, Metric
from autoreap.search.front import front_of
from autoreap.search.held_out import MAX_FOR_ALL_PAIRS, answerable, smaller_ties, ties, unscored_members
from autoreap.search.records import HeldOutScores, HeldOutTrial, TrialRecord, TrialStatus, record_held_out
from autoreap.search.selection import select

EVALS = ROOT / "evals" / "tiny.yaml"
NUM_UTTERANCES, NUM_WORDS = 200, 10
SIZES = {3: 20_000_000_000, 5: 30_000_000_000, 8: 60_000_000_000}


def outcomes(rate: float, seed: int, metric: str = "wer") -> dict[str, tuple[Outcome, ...]]:
    """Utterances of ten words, each wrong with probability `rate`."""
    errors = np.random.default_rng(seed).binomial(NUM_WORDS, rate, NUM_UTTERANCES)
    return {
        metric: tuple(
            Outcome(f"u{number}", "", "", Counts(int(wrong), NUM_WORDS), failed=False)
            for number, wrong in enumerate(errors)
        )
    }


def held_out_with(tied: dict[int, list[int]], missing: tuple[str, ...] = ()) -> HeldOutScores:
    measured = Metric(0.1, 0.08, 0.12, num_samples=NUM_UTTERANCES)
    difference = Difference(0.02, 0.01, 0.03, "worse")
    trials = {number: HeldOutTrial({"wer": measured}, {"wer": difference}, others) for number, others in tied.items()}
    return HeldOutScores("digest", {"wer": measured}, trials, missing)


FRONT = [TrialRecord(number, TrialStatus.SCORED, {}, size_bytes=size) for number, size in SIZES.items()]


def test_members_with_equal_rates_are_tied_and_others_are_not() -> None:
    members = {3: outcomes(0.30, 0), 5: outcomes(0.10, 1), 8: outcomes(0.10, 2)}
    assert ties(members, ["wer"]) == {3: [], 5: [8], 8: [5]}


def test_one_objective_that_differs_breaks_a_tie() -> None:
    members = {
        3: outcomes(0.1, 0) | outcomes(0.7, 1, "accuracy"),
        5: outcomes(0.1, 2) | outcomes(0.9, 3, "accuracy"),
    }
    assert ties(members, ["wer"]) == {3: [5], 5: [3]}
    assert ties(members, ["wer", "accuracy"]) == {3: [], 5: []}


def test_an_objective_that_the_split_lacks_is_left_out_and_without_any_nothing_is_tied() -> None:
    members = {3: outcomes(0.1, 0), 5: outcomes(0.1, 1)}
    assert ties(members, ["wer", "accuracy"]) == {3: [5], 5: [3]}
    assert ties(members, ["accuracy"]) == {3: [], 5: []}


def test_of_a_long_front_neighbours_alone_are_compared() -> None:
    same = outcomes(0.1, 0)
    members = dict.fromkeys(range(MAX_FOR_ALL_PAIRS + 1), same)
    found = ties(members, ["wer"])
    assert found[0] == [1]
    assert found[1] == [0, 2]
    del members[0]
    assert len(ties(members, ["wer"])[1]) == MAX_FOR_ALL_PAIRS - 1


def test_the_smaller_members_that_do_as_well_are_named_smallest_first() -> None:
    unconfirmed = read(new_study())
    record = replace(unconfirmed, held_out=held_out_with({3: [5, 8], 5: [3], 8: [5, 3]}))
    assert [point.number for point in smaller_ties(record, FRONT[2], FRONT)] == [3, 5]
    assert smaller_ties(record, FRONT[0], FRONT) == []
    assert smaller_ties(unconfirmed, FRONT[2], FRONT) == []


def test_a_tie_with_a_trial_that_has_left_the_front_is_not_shown() -> None:
    record = replace(read(new_study()), held_out=held_out_with({8: [4]}))
    assert smaller_ties(record, FRONT[2], FRONT) == []


@pytest.fixture
def study() -> optuna.Study:
    """A front of two trials."""
    study = new_study()
    for values in ((60, 0.10), (30, 0.12)):
        add_trial(study, values)
    return study


def test_behind_a_member_that_could_not_be_scored_the_candidate_that_may_ship_is_scored() -> None:
    study = new_study()
    add_trial(study, (30, 0.09), against_baseline={"wer": Difference(0.02, 0.01, 0.03, "worse")})
    add_trial(study, (50, 0.10), against_baseline={"wer": Difference(0.0, -0.001, 0.001, NO_DIFFERENCE)})
    assert [point.number for point in unscored_members(read(study), "digest")] == [0]
    assert [point.number for point in unscored_members(read(study), "digest", [0])] == [1]
    assert unscored_members(read(study), "digest", [0, 1]) == []


def test_a_rule_names_the_smaller_member_that_does_as_well(study: optuna.Study) -> None:
    _, plain = select(read(study), "best", max_size_bytes=1e12)
    record_held_out(study, held_out_with({0: [1], 1: [0]}))
    point, reason = select(read(study), "best", max_size_bytes=1e12)
    assert point.number == 0
    assert reason == (
        f"{plain}; on the report split its objectives are not significantly different from those of the smaller "
        "trial 1 (30.00 GB)"
    )
    assert "report split" not in select(read(study), "smallest", max_wer_increase=5)[1]


def test_the_table_has_the_report_split_beside_the_search_split(study: optuna.Study) -> None:
    record = read(study)
    assert "report split" not in front_table(record, front_of(record))
    record_held_out(study, held_out_with({0: [1]}, missing=("accuracy",)))  # 1 was not scored there
    record = read(study)
    table = front_table(record, front_of(record)).splitlines()
    assert " wer (report split) [95%] " in table[0]
    column = slice(table[0].index("wer [95%]") + len("wer [95%]"), table[0].index("(report split) [95%]") + 20)
    assert [line[column].strip() for line in table[1:4]] == [
        "",
        "10.00% [8.00%, 12.00%] ~1",
        "10.00% [8.00%, 12.00%]",
    ]
    assert table[4] == "~N: not significantly different from the smaller trial N on the report split (paired, 95%)"
    assert table[5] == "not in the report split: accuracy"


def test_without_vision_a_front_is_scored_on_what_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    evals = open_evals(EVALS).report
    with_vision = replace(planned(retention=0.5, saliency="random"), strip_vision=False)
    assert answerable(evals, [with_vision]) == evals
    left = answerable(evals, [with_vision, replace(with_vision, strip_vision=True)])
    assert [task.config.label for task in left.tasks] == ["", "voices", "noisy", ""]
    assert "accuracy.caption, accuracy.mixed" in capsys.readouterr().err
