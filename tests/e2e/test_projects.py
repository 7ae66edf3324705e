"""A project in any folder, moved, and shared by two studies."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from nights import start_search

from autoreap.search.addresses import sqlite_url
from autoreap.search.records import TrialStatus, read_study
from autoreap.search.storage import default_storage, open_study

pytestmark = pytest.mark.slow

EVALS = "search:\n  - {task: asr, dataset_path: asr_search.jsonl, doc_to_text: transcribe, limit: 8}\n"


def logged(project: Path, study: str) -> list[str]:
    """The trials of `study` that MLflow holds."""
    client = MlflowClient(sqlite_url(project / "mlruns/mlflow.db", "sqlite+pysqlite"))
    experiment = client.get_experiment_by_name("autoreap")
    assert experiment is not None
    query = f"tags.`autoreap.trial` LIKE '{study}/%' and attributes.status != 'RUNNING'"
    found = client.search_runs([experiment.experiment_id], query)
    return sorted(run.data.tags["autoreap.trial"] for run in found)


@pytest.mark.parametrize("name", ["a?b%20c#d"])
def test_a_search_in_a_folder_of_any_name_and_after_a_move_stays_within_it(name: str, project: Path) -> None:
    (project / "evals.yaml").write_text(EVALS)
    folder = project.parent / "projects"
    folder.mkdir()
    odd = project.rename(folder / name)
    for number, here in ((2, odd), (3, folder / "moved")):
        if here != odd:
            odd.rename(here)
        search = start_search(here, "--trials", str(number))
        search.join()
        assert search.exitcode == 0, (here / "night.log").read_text()[-2000:]
        assert [path.name for path in folder.iterdir()] == [here.name]
        study = read_study(open_study("night", default_storage(here / "mlruns")))
        over = [trial.number for trial in study.trials if trial.status is not TrialStatus.WAITING]
        assert logged(here, "night") == sorted(f"night/{each}" for each in over)
    assert "MLflow" not in (here / "night.log").read_text()


def test_two_studies_that_begin_at_once_in_one_new_folder_are_whole(project: Path) -> None:
    (project / "evals.yaml").write_text(EVALS)
    for path in (project / "mlruns").iterdir():
        path.unlink()
    searches = [start_search(project, "--trials", "2", "--study", study) for study in ("first", "second")]
    for search in searches:
        search.join()
    assert [search.exitcode for search in searches] == [0, 0], (project / "night.log").read_text()[-3000:]
    for study in ("first", "second"):
        assert logged(project, study) == [f"{study}/{number}" for number in range(2)]
        assert json.loads((project / f"mlruns/trials/{study}/0/plan.json").read_text())
    assert len(list((project / "mlruns/saliency").glob("*.safetensors"))) == 1
