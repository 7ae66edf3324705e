"""What became of a trial is read from its state first: attributes may have been set just before a kill."""

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import Trial, TrialState
from studies import add_ends, add_trial, new_study, plan_of, rate, read

from autoreap.search import records
from autoreap.search.records import ScoredModel, TrialRecord, TrialStatus

RESULT = ScoredModel({"wer": rate(0.1)}, 10**9)
PRUNED = {"reason": "dominated by trial 2", "num_scored": 3, "num_utterances": 9, "seconds": 2.0}


def end(write: Callable[[optuna.Study, Trial], None]) -> TrialRecord:
    """A trial that ended as `write` records it."""
    study = new_study()
    trial = study.ask()
    records.record_plan(trial, plan_of(0), "0" * 16)
    write(study, trial)
    return read(study).trials[0]


def test_a_scored_trial_has_values_and_a_plan() -> None:
    trial = end(lambda study, trial: records.record_result(study, trial, (1e9, 0.1), RESULT, {}, seconds=3.0))
    assert (trial.status, trial.seconds, trial.reason) == (TrialStatus.SCORED, 3.0, None)
    assert trial.values == {"size_bytes": 1e9, "wer": 0.1}
    assert trial.metrics == RESULT.metrics
    assert (trial.plan, trial.plan_digest) == (plan_of(0), "0" * 16)


def test_a_duplicate_names_the_trial_whose_plan_it_has() -> None:
    trial = end(lambda study, trial: records.record_result(study, trial, (1e9, 0.1), RESULT, {}, duplicate_of=3))
    assert (trial.status, trial.duplicate_of, trial.seconds) == (TrialStatus.DUPLICATE, 3, 0.0)


def test_a_pruned_trial_has_a_reason_and_no_values() -> None:
    trial = end(lambda study, trial: records.record_pruned(study, trial, PRUNED))
    assert (trial.status, trial.reason, trial.values) == (TrialStatus.PRUNED, "dominated by trial 2", {})
    assert (trial.num_scored, trial.num_utterances, trial.seconds) == (3, 9, 2.0)
    repeated = end(lambda study, trial: records.record_pruned(study, trial, PRUNED, duplicate_of=4))
    assert (repeated.duplicate_of, repeated.num_scored, repeated.seconds) == (4, 0, 0.0)


def test_infeasible_and_failed_trials_have_their_reasons() -> None:
    infeasible = end(lambda study, trial: records.record_infeasible(study, trial, "wer <= 5%"))
    assert (infeasible.status, infeasible.reason) == (TrialStatus.INFEASIBLE, "wer <= 5%")
    failed = end(lambda study, trial: records.record_failure(study, trial, "KeyError: 1"))
    assert (failed.status, failed.reason) == (TrialStatus.FAILED, "KeyError: 1")


@pytest.mark.parametrize("status", [TrialStatus.SCORED, TrialStatus.PRUNED, TrialStatus.INFEASIBLE])
def test_a_trial_that_was_killed_before_its_state_was_stored_is_interrupted(
    status: TrialStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(study: optuna.Study, trial: Trial) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(study, "tell", lambda *_arguments, **_options: None)
            if status is TrialStatus.SCORED:
                records.record_result(study, trial, (1e9, 0.1), RESULT, {})
            elif status is TrialStatus.PRUNED:
                records.record_pruned(study, trial, PRUNED)
            else:
                records.record_infeasible(study, trial, "wer <= 5%")
        study.tell(trial, state=TrialState.FAIL)

    trial = end(write)
    assert (trial.status, trial.reason, trial.values) == (TrialStatus.INTERRUPTED, None, {})


def test_running_and_waiting_trials_are_not_finished() -> None:
    study = new_study()
    study.ask()
    study.enqueue_trial({"retention": 0.5})
    assert [trial.status for trial in read(study).trials] == [TrialStatus.RUNNING, TrialStatus.WAITING]
    assert not any(trial.is_finished for trial in read(study).trials)


def test_each_interrupted_trial_is_tried_again_once_and_three_deaths_are_enough() -> None:
    study = new_study()
    add_trial(study, (1, 0.1))
    add_ends(study)
    assert records.enqueue_retries(study) == [4]
    assert records.enqueue_retries(study) == []
    for deaths in (1, 2):
        retry = study.ask()
        assert retry.suggest_float("retention", 0, 1) == study.trials[4].params["retention"]
        study.tell(retry, state=TrialState.FAIL)
        assert records.enqueue_retries(study) == ([retry.number] if deaths < 2 else [])
    assert [trial.retry_of for trial in read(study).trials[-2:]] == [4, 5]


def test_an_end_that_no_candidate_caused_is_no_death() -> None:
    study = new_study()
    add_ends(study)
    assert records.enqueue_retries(study, spared=[3]) == [3]
    for _ in range(5):
        retry = study.ask()
        retry.suggest_float("retention", 0, 1)
        study.tell(retry, state=TrialState.FAIL)
        assert records.enqueue_retries(study, spared=[retry.number]) == [retry.number]
