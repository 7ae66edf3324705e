"""MLflow's model registry: a checkpoint that was chosen becomes a version of a registered model."""

import os
from pathlib import Path
from typing import Any

from autoreap.errors import AutoreapError
from autoreap.study.mlflow_runs import EXPERIMENT, TRIAL_TAG, connect

_ARTIFACT_PATH = "checkpoint"


def register(checkpoint: Path, name: str, trial: str, *, folder: Path, tracking_uri: str | None = None) -> str:
    """Make `checkpoint` a version of the registered model `name`, unless the trial is one already; the version.

    A server takes a copy of the checkpoint into the trial's run, as only that is a source it accepts; a database on
    this machine refers to where the checkpoint lies.

    Args:
        trial: `<study>/<number>`, as its run is tagged.
        folder: where the runs are without a tracking URI (argument, or MLFLOW_TRACKING_URI).

    Raises:
        AutoreapError: MLflow did not take it.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    try:
        client = connect(folder, uri)
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(TRIAL_TAG) == trial:
                return str(version.version)
        run = _run_of(client, trial)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = checkpoint.resolve().as_uri()
        if uri and uri.startswith(("http://", "https://")):
            client.log_artifacts(run.info.run_id, str(checkpoint), _ARTIFACT_PATH)
            source = f"{run.info.artifact_uri}/{_ARTIFACT_PATH}"
        version = client.create_model_version(name, source, run.info.run_id, tags={TRIAL_TAG: trial})
    except AutoreapError:
        raise
    except Exception as error:  # MLflow raises what its many back ends raise
        raise AutoreapError(f"{checkpoint} is written, but MLflow did not register it: {error}") from None
    return str(version.version)


def _run_of(client: Any, trial: str) -> Any:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    query = f"tags.`{TRIAL_TAG}` = '{trial}' and attributes.status != 'RUNNING'"
    found = client.search_runs([experiment.experiment_id], query) if experiment else []
    if not found:
        raise AutoreapError(f"MLflow has no run of trial {trial}; resume the search, which logs what is missing")
    return found[0]
