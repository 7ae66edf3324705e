"""Ties on the report split, and how tables and rules tell of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from builders import planned

from autoreap.config.evals import load_evals
from autoreap.outcomes import Outcome
from autoreap.report.table import front_table
from autoreap.scores import Counts
from autoreap.study.confirmation import answerable
from autoreap.study.confirmed import CONFIRMED, MOST_FOR_ALL_PAIRS, columns, confirmed_lines, legend, smaller_tied, ties
from autoreap.study.front import pareto
from autoreap.study.selection import select
from autoreap.study.trials import PLAN, RESULT, points_of

EVALS = Path(__file__).parent.parent / "evals" / "tiny.yaml"
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


def confirmed_with(tied: dict[int, list[int]]) -> dict[str, object]:
    measured = {"value": 0.1, "low": 0.08, "high": 0.12, "num_samples": NUM_UTTERANCES}
    difference = {"value": 0.02, "low": 0.01, "high": 0.03, "verdict": "worse"}
    trials = {
        str(number): {"metrics": {"wer": measured}, "against_baseline": {"wer": difference}, "tied_with": others}
        for number, others in tied.items()
    }
    return {"baseline": {"metrics": {"wer": measured}}, "trials": trials, "missing": []}


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
    members = dict.fromkeys(range(MOST_FOR_ALL_PAIRS + 1), same)
    found = ties(members, ["wer"])
    assert found[0] == [1]
    assert found[1] == [0, 2]
    del members[0]
    assert len(ties(members, ["wer"])[1]) == MOST_FOR_ALL_PAIRS - 1


def test_marks_name_the_smallest_member_that_does_as_well() -> None:
    confirmed = confirmed_with({3: [5, 8], 5: [3], 8: [3]})
    assert smaller_tied(confirmed, 8, SIZES) == [3]
    assert smaller_tied(confirmed, 3, SIZES) == []
    ((heading, column),) = columns(confirmed, ["size_bytes", "wer"], SIZES).items()
    assert heading == "wer (report split) [95%]"
    assert column == {
        "3": "10.00% [8.00%, 12.00%]",
        "5": "10.00% [8.00%, 12.00%] ~3",
        "8": "10.00% [8.00%, 12.00%] ~3",
        "baseline": "10.00% [8.00%, 12.00%]",
    }
    assert "smaller trial N" in legend(confirmed, SIZES)[0]
    assert confirmed_lines(confirmed, 5) == [
        "wer 10.00% [8.00%, 12.00%] on the report split, +2.00 points [+1.00, +3.00] against the unpruned model: worse"
    ]


def test_a_tie_with_a_trial_that_has_left_the_front_is_not_told() -> None:
    confirmed = confirmed_with({3: [5], 5: [3]})
    assert smaller_tied(confirmed, 5, {5: SIZES[5]}) == []


def test_without_a_confirmation_nothing_is_said() -> None:
    assert columns(None, ["wer"], SIZES) == {}
    assert legend(None, SIZES) == []
    assert confirmed_lines(None, 3) == []
    assert legend(confirmed_with({3: [], 5: []}) | {"missing": ["accuracy"]}, SIZES) == [
        "not in the report split: accuracy"
    ]


@pytest.fixture
def study() -> optuna.Study:
    """A front of two trials."""
    study = optuna.create_study(study_name="night", directions=["minimize", "minimize"])
    study.set_user_attr("objectives", {"size_bytes": "minimize", "wer": "minimize"})
    measured = {"low": 0.1, "high": 0.3, "denominator": 1000, "num_samples": NUM_UTTERANCES}
    study.set_user_attr("baseline", {"metrics": {"wer": {"value": 0.1} | measured}, "size_bytes": 70_000_000_000})
    for size, wer in ((60_000_000_000, 0.10), (30_000_000_000, 0.12)):
        trial = study.ask()
        plan = planned(retention=0.5, saliency="random", seed=trial.number)
        result = {"metrics": {"wer": {"value": wer} | measured}, "size_bytes": size, "plan_digest": plan.digest()}
        trial.set_user_attr(PLAN, plan.as_dict())
        trial.set_user_attr(RESULT, result)
        study.tell(trial, (size, wer))
    return study


def test_a_rule_names_the_smaller_member_that_does_as_well(study: optuna.Study) -> None:
    _, plain = select(study, "best", max_size_bytes=1e12)
    study.set_user_attr(CONFIRMED, confirmed_with({0: [1], 1: [0]}))
    point, reason = select(study, "best", max_size_bytes=1e12)
    assert point.trial == 0
    assert reason == f"{plain}; on the report split the objectives can't tell it from the smaller trial 1 (30.00 GB)"
    assert "report split" not in select(study, "smallest", max_wer_increase=5)[1]


def test_the_table_has_the_report_split_beside_the_search_split(study: optuna.Study) -> None:
    front = pareto(points_of(study), {"size_bytes": "minimize", "wer": "minimize"})
    baseline = study.user_attrs["baseline"]
    assert "report split" not in front_table(front, baseline)
    table = front_table(front, baseline, None, confirmed_with({0: [1]})).splitlines()  # 1 was not confirmed
    assert table[0].endswith(" wer (report split) [95%]")
    assert table[1].rstrip().endswith("12.00% [10.00%, 30.00%]")
    assert table[2].endswith("10.00% [8.00%, 12.00%] ~1")
    assert table[3].endswith("10.00% [8.00%, 12.00%]")
    assert table[4].startswith("~N: ")


def test_without_vision_a_front_is_confirmed_on_what_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    evals = load_evals(EVALS)
    seeing = planned(retention=0.5, saliency="random")
    seeing = replace(seeing, strip_vision=False)
    assert answerable(evals, [seeing]) == evals
    left = answerable(evals, [seeing, replace(seeing, strip_vision=True)])
    assert [task.label for task in left.splits["report"]] == ["", "voices", "noisy", ""]
    assert left.splits["search"] == evals.splits["search"]
    assert "accuracy.caption, accuracy.mixed" in capsys.readouterr().err
