"""What became of a trial is read from its state first: attributes may have been set just before a kill."""

from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from autoreap.study.trials import ERROR, INFEASIBLE, PLAN, RACED, RESULT, SCREENED, Became, Fate, fate_of

STOPPED = {"reason": "trial 2 is better"}


@pytest.mark.parametrize(
    ("state", "attributes", "fate"),
    [
        (TrialState.COMPLETE, {RESULT: {"seconds": 3.0}}, Fate(Became.SCORED)),
        (TrialState.COMPLETE, {RESULT: {"duplicate_of": 3}}, Fate(Became.REPEAT, twin=3)),
        (TrialState.PRUNED, {INFEASIBLE: "wer <= 5%"}, Fate(Became.INFEASIBLE, "wer <= 5%")),
        (TrialState.PRUNED, {SCREENED: {"surprise": {}}, RACED: STOPPED}, Fate(Became.RACED, STOPPED["reason"])),
        (TrialState.PRUNED, {SCREENED: STOPPED}, Fate(Became.SCREENED, STOPPED["reason"])),
        (TrialState.PRUNED, {RACED: {**STOPPED, "duplicate_of": 4}}, Fate(Became.RACED, STOPPED["reason"], twin=4)),
        (TrialState.FAIL, {PLAN: {}, ERROR: "KeyError: 1"}, Fate(Became.FAILED, "KeyError: 1")),
        (TrialState.FAIL, {PLAN: {}}, Fate(Became.CUT_OFF)),
        (TrialState.FAIL, {RACED: STOPPED}, Fate(Became.CUT_OFF)),
        (TrialState.FAIL, {INFEASIBLE: "wer <= 5%"}, Fate(Became.CUT_OFF)),
        (TrialState.RUNNING, {RESULT: {}}, Fate(Became.RUNNING)),
        (TrialState.WAITING, {}, Fate(Became.WAITING)),
    ],
)
def test_what_became_of_a_trial_is_said_with_its_reason_and_its_twin(
    state: TrialState, attributes: dict[str, Any], fate: Fate
) -> None:
    value = 1.0 if state == TrialState.COMPLETE else None
    assert fate_of(create_trial(state=state, value=value, user_attrs=attributes)) == fate
