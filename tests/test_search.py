"""The loop of a search on a real study: failures by their kind, trials that were cut off, what the log says."""

import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from builders import SHAPE, identity_plan
from optuna.trial import TrialState

from autoreap.candidate import Candidate
from autoreap.config.calibration import CalibrationConfig
from autoreap.config.parameters import Range
from autoreap.config.space import SpaceConfig
from autoreap.errors import InputError, ScoringError
from autoreap.evaluate import Watch
from autoreap.objective import Objective, Scored
from autoreap.outcomes import Evaluation, Outcome
from autoreap.plan import PruningPlan
from autoreap.progress import StatusLine
from autoreap.scores import Counts
from autoreap.search import Search
from autoreap.study.failures import RepeatedFailureError
from autoreap.study.group import seat_of
from autoreap.study.identity import Identity
from autoreap.study.racing import Rival
from autoreap.study.trials import ERROR, RESULT
from autoreap.terminal.signals import Signals
from autoreap.tracking import Tracker

pytestmark = pytest.mark.slow

Fault = Callable[[int], None]  # told the number of the run; raises where that run is to fail
EVALUATION = Evaluation({"wer": tuple(Outcome(str(n), "yes", "no", Counts(n % 2, 1), False) for n in range(8))}, 1.0)

_numbers = itertools.count()


class Faulty(Objective):
    """Fails on demand, as a model does; what it scores is the same for every plan."""

    shape = SHAPE

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._run = -1

    def plan(self, candidate: Candidate) -> PruningPlan:
        return identity_plan(f"{next(_numbers):016x}", SHAPE)  # no two are equal

    def exact(self, plan: PruningPlan) -> dict[str, float]:
        return {"size_bytes": 1000.0}

    def screen(self, plan: PruningPlan) -> dict[str, float]:
        return {}  # nothing is known of it before it is scored

    def score(self, plan: PruningPlan, watch: Watch | None = None, rivals: Sequence[Rival] = ()) -> Scored:
        self._run += 1
        for outcome in EVALUATION.outcomes["wer"]:
            assert watch
            watch("wer", outcome)
        self._fault(self._run)
        metrics = EVALUATION.metrics()
        return Scored(plan, (1000.0, metrics["wer"]["value"]), 1000, metrics, EVALUATION)

    @property
    def is_screened(self) -> bool:
        return True

    @property
    def num_answers(self) -> int:
        return 8

    @property
    def baseline_size_bytes(self) -> int:
        return 2000

    def draft_from(self, baseline: Mapping[str, Sequence[Outcome]]) -> None:
        """It decodes nothing."""

    def score_baseline(self, watch: Watch | None = None) -> Evaluation:
        return EVALUATION


class Night:
    """A search in `folder`, as often as it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def search(self, fault: Fault = lambda _run: None, *, trials: int = 20, **changes: Any) -> optuna.Study:
        objectives = {"size_bytes": "minimize", "wer": "minimize"}
        parameters = {"retention": Range(0.25, 1.0)}
        space = SpaceConfig(
            Path("s.yaml"), "s", CalibrationConfig(), Path("e.yaml"), parameters, objectives, presets=()
        )
        space = replace(space, **changes)
        seat = seat_of(f"sqlite:///{self._folder}/studies.db", "night", self._folder / "locks", None)
        search = Search(space, Faulty(fault), seat, Identity({}), self._folder / "trials")
        tracker = Tracker(self._folder, "night", tracking_uri="unheard-of://server")
        with Signals() as signals, signals.deferred():
            search.run(tracker, signals, trials=trials, deadline=time.monotonic() + 60)
        return search.study


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def fails(kind: type[BaseException], *runs: int) -> Fault:
    def fault(run: int) -> None:
        if run in runs:
            raise kind(f"run {run}")

    return fault


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(night: Night) -> None:
    study = night.search(fails(ZeroDivisionError, 1, 2, 4, 5, 9), trials=10)
    failed = {t.number: t.user_attrs[ERROR] for t in study.trials if t.state == TrialState.FAIL}
    assert failed == {number: f"ZeroDivisionError: run {number}" for number in (1, 2, 4, 5, 9)}
    assert len(study.trials) == 10


def test_a_control_that_fails_is_named_and_the_search_goes_on(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    study = night.search(fails(ZeroDivisionError, 0), trials=2, controls=("random", "uniform-reap"))
    assert "warning: control random is not scored: ZeroDivisionError: run 0" in capsys.readouterr().err
    assert list(study.user_attrs["controls"]) == ["uniform-reap"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def test_objectives_in_another_order_are_refused_and_change_nothing(night: Night) -> None:
    study = night.search(trials=2)
    with pytest.raises(InputError, match="was started with objectives"):
        night.search(trials=3, objectives={"wer": "minimize", "size_bytes": "minimize"})
    with pytest.raises(InputError, match="was started with objectives"):
        night.search(trials=3, objectives={"size_bytes": "minimize", "accuracy": "maximize"})
    assert study.metric_names == ["size_bytes", "wer"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text('{"metric": "w')])
def test_the_unpruned_model_answers_again_where_its_answers_are_damaged(
    night: Night, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    night.search(trials=1)
    outcomes = tmp_path / "trials" / "baseline" / "outcomes.jsonl"
    whole = outcomes.read_bytes()
    damage(outcomes)
    assert len(night.search(trials=2).trials) == 2
    assert outcomes.read_bytes() == whole


def test_three_failures_of_one_kind_in_a_row_stop_it_with_the_last_reason(night: Night) -> None:
    with pytest.raises(RepeatedFailureError, match="3 trials failed in a row; the last: ZeroDivisionError: run 4"):
        night.search(fails(ZeroDivisionError, 2, 3, 4))


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, ScoringError])
def test_what_candidates_fail_of_stops_it_after_twelve_in_a_row(night: Night, kind: type[Exception]) -> None:
    study = night.search(fails(kind, *range(11)), trials=15)
    assert len([trial for trial in study.trials if trial.state == TrialState.COMPLETE]) == 4
    with pytest.raises(RepeatedFailureError, match="12 trials failed in a row"):
        night.search(fails(kind, *range(12)), trials=40)


def test_failures_of_several_kinds_are_not_of_one_kind(night: Night) -> None:
    def fault(run: int) -> None:
        raise (ZeroDivisionError, KeyError, IndexError)[run % 3](run)

    assert len(night.search(fault, trials=9).trials) == 9


def test_a_trial_cut_off_is_tried_again_with_its_values_and_counts_for_nothing(night: Night) -> None:
    for run in (2, 0, 0):
        with pytest.raises(KeyboardInterrupt):
            night.search(fails(KeyboardInterrupt, run), trials=6)
    study = night.search(trials=6)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2 + ["FAIL"] * 3 + ["COMPLETE"] * 4
    assert all(study.trials[number].params == study.trials[2].params for number in (3, 4, 5))
    assert [study.trials[number].user_attrs["retry_of"] for number in (3, 4, 5)] == [2, 3, 4]


def test_values_that_kill_the_process_each_time_are_left_out(night: Night) -> None:
    for _ in range(3):
        with pytest.raises(SystemExit):
            night.search(fails(SystemExit, 0), trials=2)  # which nobody catches: the trial is left running
    study = night.search(trials=2)
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 3 + ["COMPLETE"] * 2
    assert study.trials[3].params != study.trials[2].params


def test_a_kill_between_a_result_and_its_state_loses_no_result(night: Night) -> None:
    study = night.search(trials=3)
    killed = study.ask({"retention": optuna.distributions.FloatDistribution(0.25, 1.0)})
    result: dict[str, Any] = {**study.trials[0].user_attrs[RESULT], "plan_digest": "another"}
    killed.set_user_attr(RESULT, result)
    resumed = night.search(trials=4)
    assert [trial.state.name for trial in resumed.trials] == ["COMPLETE"] * 4
    assert resumed.trials[3].values == study.trials[0].values


def test_a_log_has_a_line_a_trial_with_what_was_found_and_an_eta(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.search(trials=2)
    text = capsys.readouterr().err
    assert "1/2 done, front 1, best wer 50.00%, ETA 1 s\n" in text
    assert "2/2 done, front 2, best wer 50.00%, ETA 0 s\n" in text
    assert "\r" not in text
    assert "\x1b" not in text


def test_on_a_terminal_one_line_lives_and_fits_in_a_row(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, end = os.openpty()
    monkeypatch.setenv("COLUMNS", "60")
    with open(end, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(StatusLine, "due", lambda _self: True)
        night.search(trials=2)
        monkeypatch.undo()
    shown = _all_of(terminal)
    lives = re.findall(r"\r\x1b\[K(trial 1: [^\r]*)", shown)
    assert lives[2].startswith("trial 1: 3/8 answers, 0 s; 1/2 done, front 1, best")
    assert max(map(len, lives)) < 60
    assert re.search(r"\x1b\[K[\d:]+ trial 1 \(sampled", shown)  # a finished trial's line takes its place


def _all_of(terminal: int) -> str:
    """What was written to a terminal whose other end is closed: one read may give a part of it."""
    parts = []
    with suppress(OSError):  # what Linux says at the end
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


def test_a_long_trial_is_told_of_within_it(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autoreap.terminal.night_log.HEARTBEAT_SECONDS", 0.0)
    night.search(trials=1)
    assert "trial 0: 3/8 answers, 0 s\n" in capsys.readouterr().err
