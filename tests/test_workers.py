"""Several workers at one study: locks that end with their holder, signs of life, retries, and what each is given."""

import multiprocessing
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from builders import FINGERPRINT, SHAPE, identity_plan
from optuna.trial import Trial, TrialState
from postgres import Postgres, postgres_server
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from autoreap.cli import command_parser
from autoreap.errors import InputError
from autoreap.plan import PruningPlan
from autoreap.study.group import Group, seat_of
from autoreap.study.heartbeat import Heartbeat, fail_dead_trials
from autoreap.study.options import SearchOptions
from autoreap.study.retries import DEATHS, RETRY_OF, num_taken, retry_cut_off
from autoreap.study.storage import Pulse, open_storage, patiently, shown
from autoreap.study.trial_queue import TrialQueue
from autoreap.study.trials import ERROR, PLAN
from autoreap.study.workers import code_digest, gpu_shares, run_workers, seated

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")
FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).parent.parent
SPACE, DOCS = ROOT / "search_spaces" / "tiny.yaml", ROOT / "docs"
PULSE = Pulse(interval_seconds=1, grace_seconds=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a storage in which several processes may work."""
    return f"sqlite:///{tmp_path}/studies.db" if request.param == "sqlite" else request.getfixturevalue("server").url


@pytest.fixture
def group(storage: str, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Makes the group anew, as each process does."""
    return lambda: seat_of(storage, request.node.name, tmp_path / "locks", PULSE).group


def _hold(group: Any, name: str, held: Any) -> None:
    with group().only(name):
        held.set()
        time.sleep(60)


def test_what_one_holds_another_waits_for_until_it_is_killed(group: Any) -> None:
    held = FORK.Event()
    holder = FORK.Process(target=_hold, args=(group, "baseline", held))
    holder.start()
    assert held.wait(30)
    with group().only("another thing"):
        assert holder.is_alive()
    threading.Timer(0.5, holder.kill).start()
    with group().only("baseline"):
        assert not holder.is_alive()
    holder.join()


def _come_and_go(group: Any, number: int, here: Any, results: Any) -> None:
    joined: Group = group()
    found_nobody: list[bool] = []
    with joined.joined(lambda: found_nobody.append(True)):
        here.wait(30)
        time.sleep(0.1 * number)
    with joined.last() as last:
        results.put((bool(found_nobody), last))
        time.sleep(0.3)


def test_one_is_the_first_and_one_is_the_last(group: Any, storage: str) -> None:
    here, results = FORK.Barrier(3), FORK.Queue()
    workers = [FORK.Process(target=_come_and_go, args=(group, number, here, results)) for number in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=30) for _ in workers]
    # Two that come at once may both find nobody, before either has a trial. A server may have forgotten who is there.
    assert any(first for first, _ in found) == storage.startswith("sqlite")
    assert [last for _, last in found].count(True) == 1
    for worker in workers:
        worker.join()


def test_one_stands_by_and_the_next_may_leave(group: Any) -> None:
    with group().standing_by() as first, group().standing_by() as second:
        assert (first, second) == (True, False)


def _study(url: str, name: str, pulse: Pulse = PULSE) -> tuple[optuna.Study, Heartbeat]:
    backend = open_storage(url, pulse)
    study = optuna.create_study(study_name=name, storage=backend, directions=["minimize"], load_if_exists=True)
    return study, Heartbeat(backend, name, pulse)


def _ask(study: optuna.Study) -> Trial:
    trial = study.ask()
    trial.suggest_float("retention", 0.25, 1.0)
    return trial


def test_a_dead_workers_trial_is_tried_again_once_and_a_living_ones_is_left_alone(
    storage: str, request: pytest.FixtureRequest
) -> None:
    study, living = _study(storage, request.node.name)
    _, dead = _study(storage, request.node.name)
    _, judge = _study(storage, request.node.name)
    with living, judge:
        for worker in (living, dead):
            trial = _ask(study)
            worker.start(trial.number)
            trial.set_user_attr(PLAN, {})
        deadline = time.monotonic() + 20
        while not study.get_trials(states=(TrialState.WAITING,)) and time.monotonic() < deadline:
            fail_dead_trials(study, judge)
            retry_cut_off(study)
            time.sleep(0.1)
        fail_dead_trials(study, judge)
        retry_cut_off(study)
    states = [trial.state.name for trial in study.trials]
    assert states == ["RUNNING", "FAIL", "WAITING"]
    retry = study.trials[2]
    assert retry.user_attrs == {RETRY_OF: 1, DEATHS: 1}
    assert study.ask().suggest_float("retention", 0.25, 1.0) == study.trials[1].params["retention"]
    assert num_taken(study.trials) == 2  # one runs, the retry began; the dead one does not count


def test_a_trial_that_was_left_before_it_had_a_plan_is_dead_at_once(tmp_path: Path) -> None:
    study, judge = _study(f"sqlite:///{tmp_path}/studies.db", "s")
    _ask(study)
    fail_dead_trials(study, judge)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_nobody_is_judged_before_everybody_had_the_time_to_give_a_sign(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study, dead = _study(url, "s")
    trial = _ask(study)
    dead.start(trial.number)
    trial.set_user_attr(PLAN, {})
    time.sleep(PULSE.grace_seconds + 1.1)
    _, just_back = _study(url, "s")
    with just_back:
        fail_dead_trials(study, just_back)
        assert study.trials[0].state == TrialState.RUNNING


def test_values_that_bring_every_worker_down_are_given_up(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/studies.db"))
    for _ in range(5):
        trial = _ask(study)
        study.tell(trial, state=TrialState.FAIL)
        retry_cut_off(study)
    assert [trial.user_attrs.get(RETRY_OF) for trial in study.trials] == [None, 0, 1, None, 3, 4]
    assert num_taken(study.trials) == 0


def test_what_failed_for_a_reason_is_not_tried_again(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/studies.db"))
    trial = _ask(study)
    trial.set_user_attr(ERROR, "ScoringError: metric wer is nan")
    study.tell(trial, state=TrialState.FAIL)
    retry_cut_off(study)
    assert len(study.trials) == 1


def test_a_database_that_is_away_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS t (x)"))

    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OperationalError, match="database is locked"):
            patiently(write, outage_seconds=0.5)
        threading.Timer(0.5, other.rollback).start()
        patiently(write, outage_seconds=30)
        time.sleep(0.1)


def test_a_server_that_went_down_is_waited_for_and_nothing_that_was_told_is_lost(server: Postgres) -> None:
    study, heartbeat = _study(server.url, "outage")
    with heartbeat:
        trial = _ask(study)
        heartbeat.start(trial.number)
        server.stop()
        back = threading.Timer(3, server.start)
        back.start()
        study.tell(trial, 0.5)
        heartbeat.stop(trial.number)
    back.join()
    assert [(trial.state, trial.value) for trial in study.trials] == [(TrialState.COMPLETE, 0.5)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@localhost:1/x", r"me:\*\*\*@localhost:1/x: can't be opened: .*refused"),
        ("nonsense://x", "can't be opened: Can't load plugin"),
        ("not a url", "can't be opened: Could not parse"),
    ],
)
def test_a_storage_that_cant_be_opened_is_named_without_its_password(url: str, message: str) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(InputError, match=message) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert shown("sqlite:///mlruns/studies.db") == "sqlite:///mlruns/studies.db"


def test_each_worker_sees_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert gpu_shares(3, None) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "456"]
    assert gpu_shares(2, "auto") == [{"CUDA_VISIBLE_DEVICES": gpus} for gpus in ("4,5", "6,7")]
    assert gpu_shares(8, "cpu") == [{}] * 8
    with pytest.raises(InputError, match="there are 4 GPUs"):
        gpu_shares(5, None)
    with pytest.raises(InputError, match="can't share it"):
        gpu_shares(2, "cuda:1")


def test_the_code_is_told_apart_by_its_sources(tmp_path: Path) -> None:
    copy = tmp_path / "autoreap"
    shutil.copytree(Path(__file__).parent.parent / "autoreap", copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_digest(copy) == code_digest()
    with (copy / "scores.py").open("a") as source:
        source.write("\n")
    assert code_digest(copy) != code_digest()


def test_what_a_worker_says_comes_out_with_its_number_and_a_refusal_is_passed_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = SearchOptions(model="no/such/model", study="s", storage="sqlite:///s.db", workers=2, device="cpu")
    with pytest.raises(InputError, match="worker 1: refused its input"):
        run_workers(SPACE, options, lambda: None)
    said = capfd.readouterr().err.splitlines()
    assert {line.partition(":")[0] for line in said} == {"worker 1", "worker 2"}
    assert all("no/such/model" in line for line in said)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.sbatch")), ids=lambda path: path.name)
def test_the_files_to_copy_for_slurm_are_shell_scripts(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize("path", sorted(DOCS.rglob("kubernetes/*.yaml")), ids=lambda path: path.name)
def test_the_files_to_copy_for_kubernetes_name_kinds_and_real_options(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata"} <= document.keys()
        if document["kind"] == "Job":
            (worker,) = document["spec"]["template"]["spec"]["containers"]
            words: list[str] = worker["command"] + worker["args"]
            assert words[0] == "autoreap"
            assert command_parser().parse_args(words[1:]).storage == "postgresql://autoreap@autoreap-db/autoreap"


def test_a_plan_that_another_worker_scores_now_waits_until_it_is_known(tmp_path: Path) -> None:
    seat = seat_of(f"sqlite:///{tmp_path}/studies.db", "s", tmp_path / "locks", PULSE)
    storage = open_storage(seat.storage, seat.pulse)
    study = optuna.create_study(study_name="s", storage=storage)
    first, second = (TrialQueue(study, storage, seat) for _ in range(2))
    plan = identity_plan(FINGERPRINT, SHAPE)

    def take(queue: TrialQueue, plan: PruningPlan) -> tuple[int | None, bool]:
        """The trial that is taken, and whether it waits."""
        if (trial := queue.take(3, lambda _number: None)) is None:
            return None, False
        trial.suggest_float("retention", 0.25, 1.0)
        trial.set_user_attr(PLAN, plan.as_dict())
        return trial.number, queue.defers(trial, plan.digest())

    assert take(first, plan) == (0, False)
    assert take(second, plan) == (1, True)
    assert take(second, identity_plan("0" * 16, SHAPE)) == (2, False)
    assert take(second, plan) == (None, False)  # three are taken, and the one that waits still waits
    study.tell(0, 0.5)
    first.done(0)
    assert take(second, plan) == (1, False)
    assert take(first, plan) == (None, False)


def test_of_two_that_wait_for_a_plan_one_scores_it_if_the_first_failed(tmp_path: Path) -> None:
    seat = seat_of(f"sqlite:///{tmp_path}/studies.db", "s", tmp_path / "locks", PULSE)
    storage = open_storage(seat.storage, seat.pulse)
    study = optuna.create_study(study_name="s", storage=storage)
    queues = [TrialQueue(study, storage, seat) for _ in range(3)]
    plan = identity_plan(FINGERPRINT, SHAPE)

    def waits(queue: TrialQueue) -> tuple[int, bool]:
        trial = queue.take(3, lambda _number: None)
        assert trial is not None
        trial.set_user_attr(PLAN, plan.as_dict())
        return trial.number, queue.defers(trial, plan.digest())

    assert [waits(queue) for queue in queues] == [(0, False), (1, True), (2, True)]
    study.tell(0, state=TrialState.FAIL)
    assert waits(queues[1]) == (1, False)
    assert waits(queues[2]) == (3, True)  # its own still waits, for the second worker now


def test_a_cluster_needs_a_storage_that_all_nodes_reach(tmp_path: Path) -> None:
    options = SearchOptions(study="s", storage="sqlite:///s.db", engine="ray", root=tmp_path)
    with pytest.raises(InputError, match="--engine ray: needs a storage that all nodes reach"), seated(options):
        pass


def test_workers_that_outlived_the_process_that_started_them_are_not_joined(tmp_path: Path) -> None:
    options = SearchOptions(study="s", storage=f"sqlite:///{tmp_path}/s.db", root=tmp_path)
    refused = pytest.raises(InputError, match="workers of an earlier search of it still run")
    with seated(replace(options, is_worker=True)) as left, left.group.joined(lambda: None), refused, seated(options):
        pass
    with seated(options) as seat:
        assert seat.pulse is None
