"""The main job, whole: real audio, the embedded model, a study on disk, a checkpoint that stock transformers loads."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from full_memory import Memory
from mlflow import MlflowClient
from nights import start_search
from transformers import Qwen3OmniMoeForConditionalGeneration

import autoreap
from autoreap.cli import main
from autoreap.errors import InputError
from autoreap.files import exclusive
from autoreap.plan import load_plan
from autoreap.saliency import load_saliency
from autoreap.search.records import StudyRecord, TrialRecord, TrialStatus, read_study
from autoreap.search.run import search
from autoreap.search.scorers import Job, JobResult, OnOutcome, Scorer
from autoreap.search.search_options import SearchOptions
from autoreap.search.storage import open_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def searched_once(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with a study `night` of one trial, whose checkpoint is still to be written."""
    folder = tmp_path_factory.mktemp("searched") / "project"
    shutil.copytree(template, folder)
    space = (folder / "space.yaml").read_text()
    (folder / "space.yaml").write_text(space.replace("materialise: knee", "materialise: false"))
    process = start_search(folder, "--trials", "1")
    process.join()
    assert process.exitcode == 0, (folder / "night.log").read_text()
    (folder / "space.yaml").write_text(space)
    return folder


@pytest.fixture
def begun(searched_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the project whose study has a trial, and the current folder."""
    shutil.copytree(searched_once, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_one_command_goes_from_calibration_to_a_verified_checkpoint(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    path = Path(document["shipped"]["path"])
    model, info = Qwen3OmniMoeForConditionalGeneration.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), info
    shipped = next(point for point in document["points"] if point["trial"] == document["shipped"]["trial"])
    assert document["shipped"]["metrics"] == shipped["metrics"]
    assert sum(p.numel() * p.element_size() for p in model.parameters()) <= shipped["size_bytes"] * 2  # fp32 of bf16

    study = read_study(open_study("night"))
    assert len(study.trials) == 6
    assert all(trial.status in ("scored", "duplicate", "pruned") and trial.plan for trial in study.trials)
    runs = _runs(project)
    assert sorted(run.data.tags["autoreap.trial"] for run in runs) == [f"night/{n}" for n in range(6)]
    (preset,) = [run for run in runs if run.data.tags["autoreap.trial"] == "night/0"]
    assert {"wer", "wer.low", "wer.high", "accuracy", "size_bytes"} <= set(preset.data.metrics)
    assert (project / "mlruns/trials/night/front.png").stat().st_size > 10_000
    (saliency,) = (project / "mlruns/saliency").glob("*.safetensors")
    assert load_saliency(saliency).provenance["gates"] == "raw"

    for command in (["pareto", "night"], ["select", "night", "--rule", "knee"], ["report", "night", "-o", "r.html"]):
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)
    assert "night" in (project / "r.html").read_text()
    number = str(document["shipped"]["trial"])
    assert main(["materialise", "night", "--trial", number, "-o", "again", "--register", "small"]) == 0
    (version,) = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db").search_model_versions("name = 'small'")
    assert (version.source, version.tags) == ((project / "again").as_uri(), {"autoreap.trial": f"night/{number}"})
    assert load_plan(project / "again/plan.json") == load_plan(path / "plan.json")
    weights = "model.safetensors"
    assert (project / "again" / weights).read_bytes() == (path / weights).read_bytes()


def test_a_candidate_for_which_memory_is_full_fails_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = Scorer.score

    def score_with_little_memory(scorer: Scorer, job: Job, on_outcome: OnOutcome) -> JobResult:
        if job.key != 1:
            return score(scorer, job, on_outcome)
        with Memory(1000, stays_full=True):
            return score(scorer, job, on_outcome)

    monkeypatch.setattr(Scorer, "score", score_with_little_memory)
    assert main(["search", "space.yaml", "--study", "night", "--trials", "3", "--no-confirm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shipped"]["verified"]["num_compared"] == 36
    failed = [trial for trial in read_study(open_study("night")).trials if trial.status is TrialStatus.FAILED]
    assert [trial.number for trial in failed] == [1]
    assert "OutOfMemoryError: " in (failed[0].reason or "")


def test_what_was_healed_in_the_search_ships_and_is_fitted_again_to_the_same_bits(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = (project / "space.yaml").read_text().replace("presets: [light, medium]", "presets: []")
    space = space.replace("{low: 0.25, high: 1.0, step: 0.0625}", "0.4375\n  heal: stream\n  heal_ridge: 0.01")
    (project / "space.yaml").write_text(space.replace("layers_cut: {low: 0, high: 2}", "layers_cut: 0"))
    assert main(["search", "space.yaml", "--study", "night", "--trials", "1", "--json"]) == 0
    shipped = Path(json.loads(capsys.readouterr().out)["shipped"]["path"])
    study = read_study(open_study("night"))
    healing = study.plan(0).heal
    assert healing is not None
    assert healing.weights is not None
    assert (
        load_plan(project / "mlruns/trials/night/0/plan.json").heal == healing == load_plan(shipped / "plan.json").heal
    )

    assert main(["materialise", "night", "--trial", "0", "-o", "again"]) == 0
    weights = "model.safetensors"
    assert (project / "again" / weights).read_bytes() == (shipped / weights).read_bytes()
    assert main(["verify", "again"]) == 0
    capsys.readouterr()
    by_plan = ["--plan", str(shipped / "plan.json"), "--evals", "evals.yaml"]
    assert main(["evaluate", "tiny", *by_plan, "--calibration", "space.yaml", "--json"]) == 0
    by_mask = json.loads(capsys.readouterr().out)["metrics"]
    assert by_mask["wer"]["value"] == study.trial(0).metrics["wer"].value
    assert main(["evaluate", "tiny", *by_plan]) == 2
    assert "needs its calibration set" in capsys.readouterr().err


def test_a_talker_that_is_pruned_in_the_search_is_healed_where_it_is_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = (project / "space.yaml").read_text().replace("presets: [light, medium]", "presets: []")
    space = space.replace("{low: 0.25, high: 1.0, step: 0.0625}", "0.4375\n  heal: stream\n  heal_ridge: 0.01")
    space = space.replace("layers_cut: {low: 0, high: 2}", "layers_cut: 0\n  talker.retention: 0.5")
    (project / "space.yaml").write_text(space)
    assert main(["search", "space.yaml", "--study", "night", "--trials", "1", "--json"]) == 0
    shipped = load_plan(Path(json.loads(capsys.readouterr().out)["shipped"]["path"]) / "plan.json")
    scored = read_study(open_study("night")).plan(0)
    assert scored.digest() == shipped.digest()
    assert scored.heal == shipped.heal
    assert scored.talker_heal is not None
    assert scored.talker_heal.weights is None
    assert shipped.talker_heal is not None
    assert shipped.talker_heal.weights is not None

    assert main(["materialise", "night", "--trial", "0", "-o", "again"]) == 0
    assert load_plan(project / "again/plan.json") == shipped


def test_a_night_that_found_nothing_of_use_ships_nothing_and_says_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quarter of the experts and four layers less: it hears nothing any more."""
    space = (project / "space.yaml").read_text().replace("{low: 0.25, high: 1.0, step: 0.0625}", "0.25")
    space = space.replace("{low: 0, high: 2}", "4").replace("presets: [light, medium]", "presets: []")
    (project / "space.yaml").write_text(space)
    assert main(["search", "space.yaml", "--study", "night", "--trials", "1", "--json"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert [point["trial"] for point in document["points"]] == [0]
    assert "shipped" not in document
    assert "no checkpoint is written: --rule knee: no point of the front has" in told.err
    assert not (project / "mlruns" / "checkpoints").exists()
    assert main(["report", "night", "-o", "report.html"]) == 0
    assert '"knee":null' in (project / "report.html").read_text()


def test_a_page_that_can_not_be_drawn_costs_neither_the_checkpoint_nor_that_it_is_known(begun: Path) -> None:
    def draw(study: StudyRecord, folder: Path, root: Path) -> list[Path]:
        if study.shipped is not None:
            raise OSError("no space left")
        return [folder / "report.html"]

    options = SearchOptions(study="night", trials=1, confirm=False)
    assert read_study(open_study("night")).shipped is None
    result = search(begun / "space.yaml", options, draw)
    assert result.missing == ["front.png and report.html"]
    assert result.shipped is not None
    assert result.shipped.path.is_dir()
    assert read_study(open_study("night")).shipped == result.shipped.trial


def test_the_same_command_resumes_and_repeats_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "space.yaml", "--study", "night", "--trials", "2"]) == 0
    first = _results()
    assert main(["search", "space.yaml", "--study", "night", "--trials", "4"]) == 0
    assert _results()[:2] == first
    assert len(_results()) == 4
    assert len(_runs(project)) == 4
    assert "saliency measured before" in capsys.readouterr().err


def test_a_search_cuts_layers_by_loss_and_goes_on_where_more_may_be_cut(project: Path) -> None:
    text = (project / "space.yaml").read_text().replace("presets: [light, medium]", "presets: []")
    for high in (1, 2):  # the second run has one more layer put in order, and the study goes on with it
        layers = f"layers_cut: {{low: {high}, high: {high}}}\n  layer_selection: loss"
        (project / "space.yaml").write_text(text.replace("layers_cut: {low: 0, high: 2}", layers))
        assert main(["search", "space.yaml", "--study", "night", "--trials", str(high)]) == 0
        (saliency,) = (project / "mlruns/saliency").glob("*.safetensors")
        order = load_saliency(saliency).components["thinker"].layer_order
        assert len(order.layers) == high
        trial = read_study(open_study("night")).trials[-1]
        assert trial.plan is not None
        assert {*range(8)} - {*trial.plan.thinker.layers} == {*order.layers}


def test_what_changed_since_the_study_began_is_refused(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (begun / "asr_search.jsonl").read_text().splitlines()
    (begun / "asr_search.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    assert main(["search", "space.yaml", "--study", "night", "--trials", "2"]) == 2
    assert "was started with evals" in capsys.readouterr().err


def test_what_no_trial_could_sample_any_more_is_refused_before_the_model_is_loaded(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (begun / "space.yaml").read_text()
    (begun / "space.yaml").write_text(text.replace("layers_cut: {low: 0, high: 2}", "layers_cut: [0, 1, 2]"))
    assert main(["search", "space.yaml", "--study", "night", "--trials", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("autoreap: space.yaml: parameters.layers_cut: study night has sampled from")
    assert len(_results()) == 1


def test_equal_plans_are_scored_once(project: Path) -> None:
    text = (project / "space.yaml").read_text().replace("low: 0.25, high: 1.0, step: 0.0625", "low: 0.5, high: 0.5")
    text = text.replace("presets: [light, medium]", "presets: []").replace("low: 0, high: 2", "low: 0, high: 0")
    text = text.replace("  lambda: {low: 0.0, high: 4.0}\n", "").replace("trials: 6", "trials: 3")
    (project / "space.yaml").write_text(text)
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    first, *others = [trial.duplicate_of for trial in _results()]
    assert first is None
    assert set(others) == {0}


def test_a_kill_loses_nothing_that_was_finished(project: Path) -> None:
    process = start_search(project, "--trials", "50")
    deadline = time.monotonic() + 300
    scored = project / "mlruns" / "trials" / "night"  # opening the storage would create its tables beside the search
    while time.monotonic() < deadline and len(list(scored.glob("[0-9]*/outcomes.jsonl"))) < 3:
        time.sleep(0.02)
    process.kill()
    process.join()
    finished = _results()
    assert len(finished) >= 2
    assert main(["search", "space.yaml", "--study", "night", "--trials", str(len(finished) + 2)]) == 0
    assert _results()[: len(finished)] == finished
    study = read_study(open_study("night"))
    assert not [trial for trial in study.trials if trial.status is TrialStatus.RUNNING]
    tags = [run.data.tags["autoreap.trial"] for run in _runs(project)]
    assert len(tags) == len(set(tags))
    done = [trial.number for trial in study.trials if trial.is_finished]
    assert sorted(tags) == sorted(f"night/{number}" for number in done)


def test_a_second_search_of_the_same_study_is_refused(project: Path) -> None:
    (project / "mlruns").mkdir(exist_ok=True)
    lock = project / "mlruns" / "night.lock"
    with exclusive(lock, "held", fix="wait"):
        with pytest.raises(InputError, match="held"), exclusive(lock, "held", fix="wait"):
            pass
        assert main(["search", "space.yaml", "--study", "night", "--trials", "1"]) == 2


def _results() -> list[TrialRecord]:
    """Every trial that was scored or pruned, in order."""
    if not Path("mlruns/studies.db").exists():
        return []
    ends = (TrialStatus.SCORED, TrialStatus.DUPLICATE, TrialStatus.PRUNED)
    return [trial for trial in read_study(open_study("night")).trials if trial.status in ends]


def _runs(project: Path) -> list[Any]:
    """The finished child runs of the study."""
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("autoreap")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.status != 'RUNNING'", max_results=1000)
    return [run for run in runs if "autoreap.trial" in run.data.tags]


LOSES_ITS_DEVICE = """\
import os, sys
import torch
from autoreap.cli import main
from autoreap.evaluation.draft_passes import DraftPasses

begin, passes = DraftPasses.begin, []

def lose(self, *arguments):
    passes.append(1)
    if len(passes) > 8 and "AUTOREAP_RESTARTS" not in os.environ:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return begin(self, *arguments)

DraftPasses.begin = lose
sys.exit(main(sys.argv[1:]))
"""


def test_where_the_device_is_lost_a_new_process_goes_on_and_ships(project: Path) -> None:
    (project / "lost.py").write_text(LOSES_ITS_DEVICE)
    command = [sys.executable, "lost.py", "search", "space.yaml", "--study", "night", "--no-confirm", "--hours", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(autoreap.__file__).parent.parent)}
    finished = subprocess.run([*command, "--json"], cwd=project, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "illegal memory access was encountered; a new process resumes (1 of 10)" in finished.stderr
    assert Path(project / json.loads(finished.stdout)["shipped"]["path"]).is_dir()
    trials = read_study(open_study("night")).trials
    assert [trial.status for trial in trials].count(TrialStatus.INTERRUPTED) == 1
    assert sum(trial.is_spent for trial in trials) == 6


FAILS_AFTER_THREE_CANDIDATES = """\
import sys
from autoreap.cli import main
from autoreap.evaluation.evaluator import Evaluator

run, candidates = Evaluator.run, []

def fail(self, plan=None, *arguments, **more):
    if plan is not None:
        candidates.append(plan)
    if len(candidates) > 3 and plan is not None:
        raise ZeroDivisionError("no candidate any more")
    return run(self, plan, *arguments, **more)

Evaluator.run = fail
sys.exit(main(sys.argv[1:]))
"""


def test_where_trials_fail_one_after_the_other_what_was_found_before_ships(project: Path) -> None:
    (project / "failing.py").write_text(FAILS_AFTER_THREE_CANDIDATES)
    command = [sys.executable, "failing.py", "search", "space.yaml", "--study", "night", "--no-confirm", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(autoreap.__file__).parent.parent)}
    finished = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert finished.returncode == 1, finished.stderr
    assert "missing: the rest of the trials: 3 trials failed in a row; the last: ZeroDivisionError" in finished.stderr
    document = json.loads(finished.stdout)
    assert Path(project / document["shipped"]["path"]).is_dir()
