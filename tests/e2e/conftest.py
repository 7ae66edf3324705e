"""A project as a user has it, with a search that takes seconds."""

import json
import shutil
from pathlib import Path

import pytest
from builders import as_jsonl

from autoreap.search.tracking import Tracker

EVALS = """\
search:
  - {task: asr, dataset_path: asr_search.jsonl, doc_to_text: transcribe}
  - {task: audio_qa, dataset_path: qa_search.jsonl}
report:
  - {task: asr, dataset_path: asr_report.jsonl, doc_to_text: transcribe}
"""
SPACE = """\
model: tiny
calibration: {audio: audio.jsonl, mixed: mixed.jsonl, gates: raw}
evals: evals.yaml
parameters:
  retention: {low: 0.25, high: 1.0, step: 0.0625}
  lambda: {low: 0.0, high: 4.0}
  layers_cut: {low: 0, high: 2}
  strip_vision: true
trials: 6
presets: [light, medium]
materialise: knee
batch_size: 16
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: a space, its evals and calibration with a few rows each; MLflow's schema is built."""
    folder = tmp_path_factory.mktemp("project")
    sources = {
        "evals/tiny": (("asr_search", 24), ("qa_search", 12), ("asr_report", 4)),
        "calibration/tiny": (("audio", 8), ("mixed", 8)),
    }
    for source, files in sources.items():
        for name, limit in files:
            rows = (as_jsonl(source) / f"{name}.jsonl").read_text().splitlines()[:limit]
            for row in map(json.loads, rows):
                for media in (row[key] for key in ("audio", "image") if key in row):
                    (folder / media).parent.mkdir(exist_ok=True)
                    shutil.copy(as_jsonl(source) / media, folder / media)
            (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "evals.yaml").write_text(EVALS)
    (folder / "space.yaml").write_text(SPACE)
    Tracker(folder / "mlruns", "another study")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the template, and the current folder."""
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"
