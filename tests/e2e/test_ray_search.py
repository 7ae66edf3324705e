"""A search whose candidates are scored by Ray actors, on a real cluster of two nodes: one dies, then a signal comes."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from autoreap.cli import main
from autoreap.search.records import StudyRecord, TrialStatus, read_study
from autoreap.search.storage import open_study

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoreap[ray]'")


def test_a_cluster_that_loses_a_node_goes_on_ends_tidily_and_is_resumed_without_actors(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**settings, "include_dashboard": False})
    try:
        second = cluster.add_node(**settings)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with (project / "log").open("w") as log:
            leader = start(project, log, "--trials", "500", "--workers", "2")
            wait_for(lambda: num_scored(project) >= 2)
            assert main(["search", "space.yaml", "--study", "night"]) == 2  # another search of this study is running
            cluster.remove_node(second, allow_graceful=False)
            before = num_scored(project)
            wait_for(lambda: num_scored(project) >= before + 3)  # two may have been under way when the node was lost
            leader.send_signal(signal.SIGTERM)
            code = leader.wait(120)
        said = (project / "log").read_text()
        assert code == 143, said
        assert "2 scorers on a Ray cluster of 2 nodes, no GPU" in said
    finally:
        cluster.shutdown()
    stopped = [trial for trial in check(project).trials if trial.status is not TrialStatus.WAITING]
    counted = [trial for trial in stopped if trial.status is not TrialStatus.INTERRUPTED]
    assert main(["search", "space.yaml", "--study", "night", "--trials", str(len(counted) + 2)]) == 0
    resumed = [trial for trial in check(project).trials if trial.status is not TrialStatus.INTERRUPTED]
    assert len(resumed) == len(counted) + 2
    assert len(list((project / "mlruns/checkpoints").iterdir())) == 1


def num_scored(project: Path) -> int:
    return len(list((project / "mlruns/trials/night").glob("[0-9]*")))


def start(project: Path, log: Any, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "autoreap.cli", "search", "space.yaml", "--study", "night", *options]
    return subprocess.Popen(command, cwd=project, stderr=log, stdout=log)


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check(project: Path) -> StudyRecord:
    """What must hold of any search that has ended: no plan is scored twice, and MLflow has each trial once."""
    study = read_study(open_study("night"))
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    assert not [trial for trial in study.trials if trial.status is TrialStatus.RUNNING]
    scored = Counter(trial.plan_digest for trial in study.trials if trial.status is TrialStatus.SCORED)
    assert set(scored.values()) == {1}, "a plan was scored twice"
    finished = [trial.number for trial in study.trials if trial.is_finished]
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("autoreap")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.status != 'RUNNING'", max_results=1000)
    logged = Counter(run.data.tags["autoreap.trial"] for run in runs if "autoreap.trial" in run.data.tags)
    assert logged == Counter(f"night/{number}" for number in finished)
    return study
