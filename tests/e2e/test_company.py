"""Several workers at one study, whole: on PostgreSQL with kills, on one machine, and without a common folder."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from crews import start_worker
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState
from postgres import postgres_server

from autoreap.cli import main
from autoreap.study.retries import RETRY_OF
from autoreap.study.trials import RESULT, is_cut_off

pytestmark = pytest.mark.slow
KILLS, WORKERS, TRIALS = 8, 4, 36


@pytest.fixture
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


def test_workers_that_are_killed_lose_nothing_and_do_nothing_twice(project: Path, postgres: str) -> None:
    draw = random.Random(0)
    workers = {number: _start(project, postgres, number) for number in range(WORKERS)}
    trials = project / "mlruns" / "trials" / "night"
    _wait_for(lambda: len(list(trials.glob("[0-9]*"))) >= 2)
    for number in range(WORKERS, WORKERS + KILLS):
        time.sleep(draw.uniform(0.2, 3))
        victim = draw.choice([number for number, worker in workers.items() if worker.is_alive()] or [None])
        assert victim is not None, "the search was over before the last kill"
        workers.pop(victim).kill()
        workers[number] = _start(project, postgres, number)
    for worker in workers.values():
        worker.join(240)
    said = _said(project)
    assert {worker.exitcode for worker in workers.values()} == {0}, said

    study = _check(project, postgres)
    counted = [trial for trial in study if not is_cut_off(trial)]
    assert len(counted) == TRIALS
    assert {trial.state for trial in counted} <= {TrialState.COMPLETE, TrialState.PRUNED}
    late = _start(project, postgres, WORKERS + KILLS)
    late.join(240)
    assert late.exitcode == 0
    assert _said(project).count("front of ") == 1  # who comes too late draws nothing again
    assert len(list((project / "mlruns" / "checkpoints").iterdir())) == 1
    assert said.count(" baseline: ") == 1


def _start(project: Path, storage: str, number: int) -> BaseProcess:
    return start_worker(project, storage, TRIALS, f"worker{number}.log")


def _said(project: Path) -> str:
    return "".join(path.read_text() for path in project.glob("worker*.log"))


def _check(project: Path, storage: str) -> list[FrozenTrial]:
    """What must hold of any study that has come to its end; its trials."""
    study = optuna.load_study(study_name="night", storage=storage)
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    results = [trial.user_attrs[RESULT] for trial in study.trials if trial.state == TrialState.COMPLETE]
    scored = Counter(result["plan_digest"] for result in results if "duplicate_of" not in result)
    assert set(scored.values()) == {1}, "a plan was scored twice"
    retries = Counter(trial.user_attrs[RETRY_OF] for trial in study.trials if RETRY_OF in trial.user_attrs)
    assert set(retries.values()) <= {1}, "values were tried again twice"
    assert all(is_cut_off(study.trials[number]) for number in retries)
    logged = Counter(run.data.tags["autoreap.trial"] for run in _runs(project))
    assert logged == Counter(f"night/{trial.number}" for trial in study.trials)
    return study.trials


def _runs(project: Path) -> list[Any]:
    """The finished child runs of the study; there is one parent."""
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("autoreap")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert [run.data.tags.get("autoreap.study") for run in runs].count("night") == 1
    return [run for run in runs if "autoreap.trial" in run.data.tags and run.info.status != "RUNNING"]


def _wait_for(condition: Any, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_without_the_others_folder_answers_and_ships_by_itself(
    project: Path, postgres: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project, elsewhere)
    for folder in (project, elsewhere):
        worker = start_worker(folder, postgres, 3, "worker.log")
        worker.join(240)
        assert worker.exitcode == 0, (folder / "worker.log").read_text()
        study = optuna.load_study(study_name="night", storage=postgres)
        study.set_user_attr("concluded", 0)  # as if it had died while it drew and shipped
    said = (elsewhere / "worker.log").read_text()
    assert "it is scored again here" in said
    assert " trial " not in said.replace("of trial", "")
    first, second = (next((folder / "mlruns" / "checkpoints").iterdir()) for folder in (project, elsewhere))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_workers_of_one_machine_end_tidily_and_the_same_command_goes_on(project: Path) -> None:
    command = [sys.executable, "-m", "autoreap.cli", "search", "space.yaml", "--study", "night", "--workers", "2"]
    with (project / "log").open("w") as log:
        leader = subprocess.Popen([*command, "--trials", "500"], cwd=project, stderr=log, stdout=subprocess.DEVNULL)
        _wait_for(lambda: len(list((project / "mlruns" / "trials" / "night").glob("[0-9]*"))) >= 3)
        assert main(["search", "space.yaml", "--study", "night"]) == 2  # another search of this study is running
        leader.send_signal(signal.SIGTERM)
        assert leader.wait(120) == 143, (project / "log").read_text()
    before = len(_check_ended(project))
    assert main([*command[3:], "--trials", str(before + 2)]) == 0
    done = _check(project, "sqlite:///mlruns/studies.db")
    assert len([trial for trial in done if not is_cut_off(trial)]) == before + 2


def _check_ended(project: Path) -> list[FrozenTrial]:
    """The finished trials of a study that was interrupted: nothing runs, and what was cut off waits."""
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{project}/mlruns/studies.db")
    assert not [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    cut_off = [trial.number for trial in study.trials if is_cut_off(trial)]
    waiting = [trial.user_attrs[RETRY_OF] for trial in study.trials if trial.state == TrialState.WAITING]
    assert cut_off == waiting
    return [trial for trial in study.trials if trial.state.is_finished() and not is_cut_off(trial)]


def test_other_code_does_not_go_on_with_a_study_unless_told_to(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "space.yaml", "--study", "night", "--trials"]
    assert main([*command, "1"]) == 0
    study = optuna.load_study(study_name="night", storage="sqlite:///mlruns/studies.db")
    study.set_user_attr("code", "0.0.1-0123456789ab")
    assert main([*command, "2"]) == 2
    assert "was started with code 0.0.1-0123456789ab" in capsys.readouterr().err
    assert main([*command, "2", "--allow-other-code"]) == 0
    assert len(study.trials) == 2


def test_a_ray_cluster_of_two_nodes_goes_on_with_one(
    project: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoreap[ray]'")
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**settings, "include_dashboard": False})
    try:
        second = cluster.add_node(**settings)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        command = [sys.executable, "-m", "autoreap.cli", "search", "space.yaml", "--study", "night", "--trials", "12"]
        command += ["--storage", postgres, "--engine", "ray", "--workers", "2"]
        with (project / "worker.log").open("w") as log:
            driver = subprocess.Popen(command, cwd=project, stderr=log, stdout=log)
            _wait_for(lambda: len(list((project / "mlruns" / "trials" / "night").glob("[0-9]*"))) >= 2)
            cluster.remove_node(second, allow_graceful=False)
            code = driver.wait(300)
        said = (project / "worker.log").read_text()
        assert code == 0, said
        assert "2 workers on a Ray cluster of 2 nodes" in said
    finally:
        cluster.shutdown()
    done = _check(project, postgres)
    assert len([trial for trial in done if not is_cut_off(trial)]) == 12
    assert len(list((project / "mlruns" / "checkpoints").iterdir())) == 1
