"""A search under constraints, with controls, whole: on the embedded model and a few utterances."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import as_jsonl

from autoreap.cli import main
from autoreap.search.front import front_of
from autoreap.search.records import StudyRecord, TrialStatus, read_study
from autoreap.search.storage import open_study

pytestmark = pytest.mark.slow

SPACE = """\
calibration: {audio: audio.jsonl, mixed: mixed.jsonl}
model: tiny
evals: evals.yaml
parameters:
  experts: {low: 4, high: 16, step: 4}
  saliency: [affinity, frequency]
  lambda: {low: 0.1, high: 4.0, log: true, when: {saliency: affinity}}
  layers_cut: {low: 0, high: 2}
  strip_vision: true
constraints:
  - size <= SIZE
  - wer <= baseline + 60 points
presets: [light, aggressive]
controls: [random, uniform-reap]
trials: 10
seed: 1
batch_size: 16
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few rows of evals and calibration, and the current one."""
    for source, name, limit in (
        ("evals/tiny", "asr_search", 8), ("calibration/tiny", "audio", 6), ("calibration/tiny", "mixed", 6)
    ):  # fmt: skip
        rows = (as_jsonl(source) / f"{name}.jsonl").read_text().splitlines()[:limit]
        for row in map(json.loads, rows):
            for media in (row[key] for key in ("audio", "image") if key in row):
                (tmp_path / media).parent.mkdir(exist_ok=True)
                shutil.copy(as_jsonl(source) / media, tmp_path / media)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "evals.yaml").write_text("search: [{task: asr, dataset_path: asr_search.jsonl}]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_space(project: Path, size: str) -> None:
    (project / "space.yaml").write_text(SPACE.replace("SIZE", size))


def night() -> StudyRecord:
    return read_study(open_study("night"))


def test_what_breaks_a_size_is_not_scored_and_the_front_keeps_every_constraint(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_space(project, "65% of baseline")
    assert main(["search", "space.yaml", "--study", "night", "--trials", "4"]) == 0
    controls = night().controls
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    study = night()
    assert study.controls == controls  # a resumed search does not score them again
    assert set(controls) == {"random", "uniform-reap"}
    assert sum(trial.is_spent for trial in study.trials) == 10

    ruled_out = [trial for trial in study.trials if trial.status is TrialStatus.INFEASIBLE]
    scored = [trial for trial in study.trials if trial.is_scored]
    assert ruled_out
    assert scored
    for trial in ruled_out:
        assert trial.violations["size <= 65% of baseline"] > 0
        assert trial.metrics == {}
        assert "size <= 65% of baseline (it is" in (trial.reason or "")
        assert not (project / f"mlruns/trials/night/{trial.number}").exists()
    for trial in scored:
        assert trial.size_bytes <= 0.65 * study.baseline.size_bytes
    assert ("lambda" in study.trials[-1].params) == (study.trials[-1].params["saliency"] == "affinity")

    bound = study.baseline.metrics["wer"].value + 0.6
    assert all(point.values["wer"] <= bound for point in front_of(study))
    capsys.readouterr()
    assert main(["pareto", "night"]) == 0
    shown = capsys.readouterr().out
    assert "uniform-reap" in shown
    assert "random" in shown

    write_space(project, "70% of baseline")
    assert main(["search", "space.yaml", "--study", "night"]) == 2
    assert "was started with constraints" in capsys.readouterr().err


def test_a_bound_that_nothing_keeps_ends_with_an_empty_front_and_says_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_space(project, "1 MB")
    assert main(["search", "space.yaml", "--study", "night", "--trials", "3"]) == 0
    said = capsys.readouterr().out
    assert "no trial was scored; of 50 that a constraint ruled out before scoring, the nearest is trial" in said
    assert "which violates size <= 1 MB (it is" in said
    text = (project / "space.yaml").read_text().replace("size <= 1 MB", "wer <= 0%")
    (project / "space.yaml").write_text(text)
    assert main(["search", "space.yaml", "--study", "deaf", "--trials", "1"]) == 0
    assert main(["pareto", "deaf", "--json"]) == 0
    *_, document = capsys.readouterr().out.splitlines()
    nearest: dict[str, Any] = json.loads(document)
    assert nearest["points"] == []
    assert nearest["nearest"][0]["broken"].keys() == {"wer <= 0%"}


def test_a_constraint_on_what_the_evals_do_not_measure_is_refused_before_anything_is_loaded(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_space(project, "1 MB")
    text = (project / "space.yaml").read_text().replace("wer <=", "wer.noisy <=")
    (project / "space.yaml").write_text(text)
    assert main(["search", "space.yaml", "--study", "night"]) == 2
    assert "constraints: unknown metric in 'wer.noisy <= baseline + 60 points'" in capsys.readouterr().err
    assert not (project / "mlruns").exists()
