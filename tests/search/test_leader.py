"""The loop of a search on a real study: failures by their kind, interrupted trials, what the log says."""

import itertools
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import SHAPE, identity_plan
from optuna.trial import TrialState

from autoreap.candidate import Candidate
from autoreap.data.calibration_config import CalibrationConfig
from autoreap.errors import DeviceLostError, InputError
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.progress import StatusLine, console
from autoreap.scores import Counts, Metric
from autoreap.search import records
from autoreap.search.candidates import PlannedCandidate, Planner
from autoreap.search.failures import RepeatedFailureError
from autoreap.search.leader import Leader
from autoreap.search.parameters import Range
from autoreap.search.records import ScoredModel, StudyRecord, TrialStatus, read_study
from autoreap.search.scorers import Drafts, Job, JobResult, ScorerPool
from autoreap.search.search_log import SearchLog
from autoreap.search.signals import Signals
from autoreap.search.space import SpaceConfig
from autoreap.search.storage import open_storage
from autoreap.search.study import Identity, open_or_create_study
from autoreap.search.tracking import Tracker

pytestmark = pytest.mark.slow

Fault = Callable[[int], None]  # called with the number of the run; raises where that run is to fail
EVALUATION = Evaluation({"wer": tuple(Outcome(str(n), "yes", "no", Counts(n % 2, 1), False) for n in range(8))}, 1.0)

_numbers = itertools.count()


class DifferentPlans(Planner):
    """No two plans are equal."""

    shape = SHAPE

    def __init__(self) -> None:
        """It needs no model."""

    def plan(self, candidate: Candidate) -> PlannedCandidate:
        plan = identity_plan(f"{next(_numbers):016x}", SHAPE)
        return PlannedCandidate(plan, plan.digest(), 1000, {"active_parameters": Metric.static(1)})

    def unpruned(self) -> tuple[int, dict[str, Metric]]:
        return 2000, {"active_parameters": Metric.static(2)}


class SamePlan(DifferentPlans):
    """All plans are equal."""

    def plan(self, candidate: Candidate) -> PlannedCandidate:
        plan = identity_plan("0" * 16, SHAPE)
        return PlannedCandidate(plan, plan.digest(), 1000, {"active_parameters": Metric.static(1)})


class FewPlans(DifferentPlans):
    """Only so many plans, whatever is drawn."""

    def __init__(self, number: int) -> None:
        self._number = number

    def plan(self, candidate: Candidate) -> PlannedCandidate:
        plan = identity_plan(f"{int(candidate.retention * 1000) % self._number:016x}", SHAPE)
        return PlannedCandidate(plan, plan.digest(), 1000, {"active_parameters": Metric.static(1)})


class GridOfPlans(DifferentPlans):
    """A plan for each retention and number of cuts; the less is kept, the smaller it is."""

    def plan(self, candidate: Candidate) -> PlannedCandidate:
        size = int(candidate.retention * 1000) - candidate.layers_cut
        plan = identity_plan(f"{size:016x}", SHAPE)
        return PlannedCandidate(plan, plan.digest(), size, {"active_parameters": Metric.static(1)})


class FaultyPool:
    """Fails on demand, as scorers do; what it scores is the same for every plan. It has `size` scorers."""

    where, batch_size, num_answers = "cpu, float32", 1, 8

    def __init__(self, fault: Fault, on_outcome: Callable[[], None], size: int = 1) -> None:
        self._fault = fault
        self._on_outcome = on_outcome
        self._size = size
        self._run = -1
        self.jobs: list[Job] = []
        self.most_at_once = 0

    @property
    def has_idle(self) -> bool:
        return len(self.jobs) < self._size

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.most_at_once = max(self.most_at_once, len(self.jobs))

    def wait(self) -> tuple[Job, JobResult]:
        job = self.jobs.pop(0)
        if job.key != "baseline":
            self._run += 1
            for _ in range(8):
                self._on_outcome()
            try:
                self._fault(self._run)
            except DeviceLostError:
                raise
            except Exception as error:
                return job, JobResult(error=f"{type(error).__name__}: {error}")
        return job, JobResult(evaluation=EVALUATION)

    def draft_from(self, drafts: Drafts) -> None:
        """It decodes nothing."""

    def close(self) -> None:
        """It holds nothing."""


class Night:
    """A search in `folder`, as often as it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pool: FaultyPool | None = None

    def search(
        self,
        fault: Fault = lambda _run: None,
        *,
        trials: int = 20,
        planner: Planner | None = None,
        num_scorers: int = 1,
        **changes: Any,
    ) -> StudyRecord:
        objectives = {"size_bytes": "minimize", "wer": "minimize"}
        parameters = {"retention": Range(0.25, 1.0)}
        space = SpaceConfig(
            Path("s.yaml"), "s", CalibrationConfig(()), Path("e.yaml"), parameters, objectives, presets=()
        )
        space = replace(space, **changes)
        study = open_or_create_study(space, self._storage(), "night", Identity({}))
        log = SearchLog(trials, time.monotonic() + 60, 8)
        self.pool = FaultyPool(fault, log.count_answer, num_scorers)
        pool: ScorerPool = self.pool
        leader = Leader(space, study, planner or DifferentPlans(), pool, self._folder / "trials", log)
        tracker = Tracker(self._folder, "night", tracking_uri="unheard-of://server")
        with Signals() as signals, signals.deferred():
            leader.run(tracker, signals, num_trials=trials, deadline=time.monotonic() + 60)
        return self.read()

    def read(self) -> StudyRecord:
        return read_study(self.stored())

    def stored(self) -> optuna.Study:
        return optuna.load_study(study_name="night", storage=self._storage())

    def _storage(self) -> optuna.storages.RDBStorage:
        return open_storage(f"sqlite:///{self._folder}/studies.db")


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def fails(kind: type[BaseException], *runs: int) -> Fault:
    def fault(run: int) -> None:
        if run in runs:
            raise kind(f"run {run}")

    return fault


def statuses(study: StudyRecord) -> list[str]:
    return [str(trial.status) for trial in study.trials]


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(night: Night) -> None:
    study = night.search(fails(ZeroDivisionError, 1, 2, 4, 5, 9), trials=10)
    failed = {trial.number: trial.reason for trial in study.trials if trial.status is TrialStatus.FAILED}
    assert failed == {number: f"ZeroDivisionError: run {number}" for number in (1, 2, 4, 5, 9)}
    assert len(study.trials) == 10


def test_a_control_that_fails_is_named_and_the_search_goes_on(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    study = night.search(fails(ZeroDivisionError, 0), trials=2, controls=("random", "uniform-reap"))
    assert "warning: control random is not scored: ZeroDivisionError: run 0" in capsys.readouterr().err
    assert list(study.controls) == ["uniform-reap"]
    assert statuses(study) == ["scored"] * 2


def test_objectives_in_another_order_are_refused_and_change_nothing(night: Night) -> None:
    night.search(trials=2)
    with pytest.raises(InputError, match="was started with objectives"):
        night.search(trials=3, objectives={"wer": "minimize", "size_bytes": "minimize"})
    with pytest.raises(InputError, match="was started with objectives"):
        night.search(trials=3, objectives={"size_bytes": "minimize", "accuracy": "maximize"})
    assert night.stored().metric_names == ["size_bytes", "wer"]


def test_several_scorers_work_at_once_and_no_trial_is_too_many(night: Night) -> None:
    study = night.search(trials=10, num_scorers=3)
    assert statuses(study) == ["scored"] * 10
    assert night.pool is not None
    assert night.pool.most_at_once == 3


def test_a_plan_that_is_being_scored_is_not_scored_beside_it(night: Night) -> None:
    study = night.search(trials=4, num_scorers=3, planner=SamePlan())
    assert statuses(study)[0] == "scored"
    assert {trial.duplicate_of for trial in study.trials[1:]} == {0}


def test_where_a_plan_failed_one_that_waited_for_it_is_scored(night: Night) -> None:
    study = night.search(fails(ZeroDivisionError, 0), trials=3, num_scorers=2, planner=SamePlan())
    assert statuses(study)[0] == "failed"
    assert statuses(study).count("scored") == 1
    assert set(statuses(study)[2:]) == {"duplicate"}


def test_a_plan_that_is_drawn_again_costs_nothing_and_a_space_without_new_plans_ends_the_search(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    study = night.search(trials=7, planner=FewPlans(3))
    assert statuses(study).count("scored") == 3
    assert set(statuses(study)) == {"scored", "duplicate"}
    assert len(study.trials) < 200
    assert study.num_untried == 0
    assert "the front is locally complete" in capsys.readouterr().err
    study = night.search(trials=2, planner=DifferentPlans())
    assert statuses(study).count("scored") == 3, "the budget was spent before"


def test_towards_the_end_neighbours_of_the_front_are_tried(night: Night) -> None:
    parameters = {"retention": Range(0.25, 1.0, step=0.25), "layers_cut": Range(0, 3, step=1), "saliency": "reap"}
    study = night.search(trials=10, planner=GridOfPlans(), parameters=parameters)
    sampled = [trial for trial in study.trials if trial.origin == "sampled" and trial.is_spent]
    tried = [trial for trial in study.trials if trial.neighbour_of is not None]
    assert len(sampled) >= 6
    assert tried
    for trial in tried:
        assert trial.neighbour_of is not None
        origin = study.trial(trial.neighbour_of)
        steps = [
            abs(trial.params["retention"] - origin.params["retention"]) / 0.25,
            abs(trial.params["layers_cut"] - origin.params["layers_cut"]),
        ]
        assert sum(steps) == 1
    digests = [trial.plan_digest for trial in study.trials if trial.is_spent]
    assert len(digests) == len(set(digests)) == 10


def test_neighbours_that_are_left_are_counted(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"retention": Range(0.25, 1.0, step=0.25), "layers_cut": Range(0, 3, step=1), "saliency": "reap"}
    study = night.search(trials=2, planner=GridOfPlans(), parameters=parameters)
    assert study.num_untried
    assert f"{study.num_untried} of its one-step neighbours are untried" in capsys.readouterr().err


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


class OutOfMemoryError(Exception):
    """Has the name of torch's."""


class ScoringError(Exception):
    """Has the name of ours."""


@pytest.mark.parametrize("kind", [OutOfMemoryError, ScoringError])
def test_what_candidates_fail_of_stops_it_after_twelve_in_a_row(night: Night, kind: type[Exception]) -> None:
    study = night.search(fails(kind, *range(11)), trials=15)
    assert statuses(study).count("scored") == 4
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
    assert statuses(study) == ["scored"] * 2 + ["interrupted"] * 3 + ["scored"] * 4
    assert all(study.trials[number].params == study.trials[2].params for number in (3, 4, 5))
    assert [study.trials[number].retry_of for number in (3, 4, 5)] == [2, 3, 4]


def test_a_device_that_is_lost_ends_it_and_the_trial_is_tried_again_three_times(night: Night) -> None:
    for _ in range(3):
        with pytest.raises(DeviceLostError):
            night.search(loses_device, trials=2)
    study = night.search(trials=2)
    assert statuses(study) == ["interrupted"] * 3 + ["scored"] * 2
    assert [study.trials[number].retry_of for number in (1, 2)] == [0, 1]


def loses_device(_run: int) -> None:
    raise DeviceLostError("the device is lost to this process")


def test_values_that_kill_the_process_each_time_are_left_out(night: Night) -> None:
    for _ in range(3):
        with pytest.raises(SystemExit):
            night.search(fails(SystemExit, 0), trials=2)  # which nobody catches: the trial is left running
    study = night.search(trials=2)
    assert statuses(study) == ["interrupted"] * 3 + ["scored"] * 2
    assert study.trials[3].params != study.trials[2].params


def test_a_kill_between_a_result_and_its_state_loses_no_result(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    first = night.search(trials=3).trials[0]
    study = night.stored()
    killed = study.ask({"retention": optuna.distributions.FloatDistribution(0.25, 1.0)})
    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", lambda *_arguments: None)
        result = ScoredModel(first.metrics, first.size_bytes)
        records.record_result(study, killed, list(first.values.values()), result, first.against_baseline)
    assert study.trials[3].state == TrialState.RUNNING
    resumed = night.search(trials=4)
    assert statuses(resumed) == ["scored"] * 4
    assert resumed.trials[3].values == first.values


def test_a_log_has_a_line_a_trial_with_what_was_found_and_an_eta(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.search(trials=2)
    text = capsys.readouterr().err
    assert "1/2 done, front 1, best wer 50.00%, ETA 1 s\n" in text
    assert "2/2 done, front 2, best wer 50.00%\n" in text
    assert "\r" not in text
    assert "\x1b" not in text


def test_on_a_terminal_one_line_is_redrawn_below_the_lines_of_finished_trials(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, end = os.openpty()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    with open(end, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(console, "is_interactive", True)  # what it is on a terminal from the start
        monkeypatch.setattr(StatusLine, "is_due", lambda _self: True)
        night.search(trials=2)
        monkeypatch.undo()
    shown = _all_of(terminal)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    assert re.search(r"trial 1: \d/8 answers, 0 s; 1/2 done, front 1, best", plain)
    assert re.search(r"\d\d:\d\d:\d\d trial 1 \(sampled: ", plain)


def _all_of(terminal: int) -> str:
    """What was written to a terminal whose other end is closed: one read may give a part of it."""
    parts = []
    with suppress(OSError):  # what Linux says at the end
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()
