"""A search under constraints, with controls, whole: on the embedded model and a few utterances."""

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import as_jsonl

from autoreap.cli import main
from autoreap.study.front import pareto
from autoreap.study.trials import CONTROLS, INFEASIBLE, RESULT, objectives_of, open_study, points_of

pytestmark = pytest.mark.slow

SPACE = """\
calibration: {audio: audio.jsonl, mixed: mixed.jsonl}
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


def trials() -> list[optuna.trial.FrozenTrial]:
    return open_study("night").get_trials(deepcopy=False)


def test_what_breaks_a_size_is_not_scored_and_the_front_keeps_every_constraint(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_space(project, "65% of baseline")
    assert main(["search", "space.yaml", "--study", "night", "--trials", "4"]) == 0
    controls = open_study("night").user_attrs[CONTROLS]
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    study = open_study("night")
    assert study.user_attrs[CONTROLS] == controls  # a resumed search does not score them again
    assert set(controls) == {"random", "uniform-reap"}
    assert len(trials()) == 10

    ruled_out = [trial for trial in trials() if trial.state.name == "PRUNED"]
    scored = [trial for trial in trials() if trial.state.name == "COMPLETE"]
    assert ruled_out
    assert scored
    baseline = study.user_attrs["baseline"]
    for trial in ruled_out:
        assert trial.constraints["size <= 65% of baseline"] > 0
        assert RESULT not in trial.user_attrs
        assert "size <= 65% of baseline (it is" in trial.user_attrs[INFEASIBLE]
        assert not (project / f"mlruns/trials/night/{trial.number}").exists()
    for trial in scored:
        assert trial.user_attrs[RESULT]["size_bytes"] <= 0.65 * baseline["size_bytes"]
        assert set(trial.constraints) == {"size <= 65% of baseline", "wer <= baseline + 60 points"}
    assert ("lambda" in trials()[-1].params) == (trials()[-1].params["saliency"] == "affinity")

    bound = baseline["metrics"]["wer"]["value"] + 0.6
    front = pareto(points_of(study), objectives_of(study))
    assert all(point.values["wer"] <= bound for point in front)
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
    assert "no trial is scored; of 3 that a constraint ruled out beforehand the nearest is trial" in said
    assert "which breaks size <= 1 MB (it is" in said
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
