"""Every command on a model without experts, a random Qwen2.5-Omni: what there is to cut are layers and vision."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import ask, needs_browser
from dense_project import SPACE, Capture, Run, make_project, measure_and_plan, runner, said, stock_answers
from measured import assert_same_bits
from random_qwen2_5_omni import save_hearing_model
from transformers import Qwen2_5OmniForConditionalGeneration

from autoreap.evaluation.outcomes import load_outcomes
from autoreap.models.loading import load, open_model
from autoreap.plan import load_plan
from autoreap.saliency import load_saliency
from autoreap.search.records import read_study
from autoreap.search.storage import open_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, a few rows, and what calibrate and plan make of them."""
    folder = tmp_path_factory.mktemp("dense")
    make_project(folder, save_hearing_model)
    measure_and_plan(folder, "--strip-vision")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Run:
    """Run a command in a folder of its own, beside the module's files; what it says as JSON."""
    return runner(folder, tmp_path, monkeypatch, capsys)


def test_inspect_lists_no_experts(run: Run) -> None:
    components = run("inspect", "model")["components"]
    assert set(components) == {
        *("audio", "vision", "speech", "total"),
        *("thinker attention", "thinker rest", "talker attention", "talker rest"),
    }


def test_layers_are_measured_the_same_one_by_one(folder: Path) -> None:
    saliency, streamed = (load_saliency(folder / f"{name}.safetensors") for name in ("saliency", "streamed"))
    assert_same_bits(saliency, streamed)
    assert saliency.components["thinker"].modalities["audio"].gate_norm_sum.shape == (6, 0)
    assert (saliency.components["thinker"].layer_cosine[0] < 1).all()


def test_what_a_plan_keeps_is_said_without_experts(run: Run, capsys: Capture) -> None:
    text = said(capsys, "plan", "saliency.safetensors", "--layers-cut", "2", "-o", "again.json")
    assert "thinker with 4 of 6 layers" in text
    assert "expert" not in text
    assert load_plan("again.json").thinker == load_plan("plan.json").thinker


def test_what_was_measured_is_shown_without_experts(run: Run, capsys: Capture) -> None:
    text = said(capsys, "saliency", "saliency.safetensors", "--html", "page.html", "--png", "picture.png")
    assert "6 dense layers" in text
    table = text.partition("\nlayer  ")[2]
    assert table.splitlines()[0].split() == ["cosine", "cut"]
    assert "expert" not in table
    assert Path("page.html").read_text().count("<svg") == 1


@pytest.mark.slow
def test_doctor_counts_what_a_dense_model_takes(run: Run) -> None:
    assert run("doctor", "model")["needs"]["arithmetic"].startswith("6 dense layers, rest ")


@pytest.mark.slow
def test_the_checkpoint_of_a_plan_answers_as_the_masked_model_and_as_stock_generation(run: Run) -> None:
    run("materialise", "model", "--plan", "plan.json", "-o", "out")
    assert "none: it is dense | 4 of 6" in Path("out/README.md").read_text()
    assert run("verify", "out")["verified"]["structure"].endswith("as the stock class expects them")
    answers = {}
    for name, model, *plan in (("masked", "model", "--plan", "plan.json"), ("out", "out"), ("unpruned", "model")):
        run("evaluate", model, *plan, "--evals", "evals.yaml", "--outcomes", f"{name}.jsonl")
        answers[name] = load_outcomes(Path(f"{name}.jsonl"))
    assert answers["masked"] == answers["out"] != answers["unpruned"]
    assert [outcome.output for outcome in answers["out"]["wer"]] == stock_answers(
        Path("out"), Qwen2_5OmniForConditionalGeneration
    )


def test_the_thinker_saved_alone_answers_as_the_whole_model_does_pruned_and_as_it_is(run: Run) -> None:
    loaded = load(open_model("model"))
    shutil.copytree("model", "thinker", ignore=shutil.ignore_patterns("model*", "config.json", "spk_dict.pt"))
    loaded.model_info.family.running.thinker(loaded.model).save_pretrained("thinker")
    for options, kept in ((["--strip-vision"], 6), (["--layers", "1,3", "--strip-vision"], 4)):
        answers = []
        for model in ("model", "thinker"):
            target = f"{model}-{kept}"
            assert run("prune", model, *options, "-o", target)["plan"]["thinker"]["layers"] == kept
            run("evaluate", target, "--evals", "evals.yaml", "--outcomes", f"{target}.jsonl")
            answers.append(load_outcomes(Path(f"{target}.jsonl")))
        assert answers[0] == answers[1]


def test_prune_cuts_the_layers_that_are_named_and_vision(run: Run) -> None:
    kept = run("prune", "model", "--layers", "1,3", "--strip-vision", "-o", "out")["plan"]
    assert kept["thinker"] == {"experts": 0, "layers": 4, "of_layers": 6}
    assert kept["strip_vision"]
    model: Any = Qwen2_5OmniForConditionalGeneration.from_pretrained("out")
    assert len(model.thinker.model.language_model.layers) == 4
    assert len(model.thinker.model.visual.blocks) == 1


def test_prune_measures_which_layers_to_cut_and_compares_answers(run: Run) -> None:
    written = run("prune", "model", "--layers-cut", "1", "--audio", "audio.jsonl", "-o", "out")
    assert written["plan"]["thinker"]["layers"] == 5
    assert written["verified"]["behaviour"].startswith("all 5 outputs match")


def test_a_preset_cuts_layers_and_vision_of_a_dense_model_and_says_so(run: Run, capsys: Capture) -> None:
    text = said(capsys, "prune", "model", "--preset", "aggressive", "--audio", "audio.jsonl", "--dry-run")
    assert "the thinker is dense: preset aggressive cuts 2 of its layers, no experts" in text
    run("plan", "saliency.safetensors", "--preset", "aggressive", "-o", "preset.json")
    assert load_plan("preset.json") == load_plan("plan.json")


def test_a_retention_is_refused_before_anything_is_loaded(run: Run, capsys: Capture) -> None:
    text = said(capsys, "prune", "model", "--retention", "0.5", "--audio", "audio.jsonl", "-o", "out", code=2)
    assert text.startswith("autoreap: retention: the thinker is dense, it has no experts to choose from")
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_search_over_cuts_tries_presets_shows_its_front_and_ships(run: Run, capsys: Capture) -> None:
    text = said(capsys, "search", "space.yaml", "--model", "model", "--study", "night")
    assert "lies outside the space" not in text
    assert re.search(r"trial \d with \d of 6 layers\n", text)
    assert "expert" not in text
    study = read_study(open_study("night"))
    assert [trial.origin for trial in study.trials][:3] == ["light", "medium", "aggressive"]
    assert [trial.params["layers_cut"] for trial in study.trials][:3] == [0, 1, 2]
    assert {trial.status for trial in study.trials} <= {"scored", "duplicate", "pruned"}
    (shipped,) = Path("mlruns/checkpoints").iterdir()
    assert Qwen2_5OmniForConditionalGeneration.from_pretrained(shipped)
    shown = said(capsys, "show", "night", "--trial", "2")
    assert re.search(r"thinker: 4 of 6 layers, without \d.*; it is dense\n", shown)
    assert "expert" not in shown


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("is_there", [True, False])
def test_the_report_draws_layers_without_experts_whether_the_model_is_still_there(run: Run, is_there: bool) -> None:
    run("search", "space.yaml", "--model", "model", "--study", "night", "--trials", "3", "--no-confirm")
    if not is_there:
        Path("model").unlink()
    run("report", "night", "-o", "report.html")
    steps = "return [details.querySelector('h3').textContent, details.querySelector('.map').getAttribute('aria-label')]"
    title, label = ask(Path("report.html").resolve(), steps, address="trial=2&split=search")
    assert title.startswith("trial 2")
    assert label == "thinker: 4 of 6 layers, without experts"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("  retention: {low: 0.5, high: 1.0}\n", "parameters.retention"),
        ("  lambda: {low: 0.1, high: 10.0}\n", "parameters.lambda"),
        ("  saliency: [affinity, reap]\n", "parameters.saliency"),
        ("  retention: 0.5\n  beta: [0.0, 1.0]\n", "parameters.retention, parameters.beta"),
        ("  experts: 4\n", "parameters.experts"),
        ("controls: [random]\n", "controls"),
    ],
)
def test_a_space_that_is_about_experts_is_refused_before_the_night_begins(
    run: Run, capsys: Capture, change: str, where: str
) -> None:
    indented = SPACE.replace("  strip_vision: true\n", f"  strip_vision: true\n{change}")
    Path("other.yaml").write_text(indented if change.startswith(" ") else SPACE + change)
    text = said(capsys, "search", "other.yaml", "--model", "model", code=2)
    assert text.startswith(f"autoreap: other.yaml: {where}: the thinker is dense, it has no experts to choose from (")
    assert not Path("mlruns").exists()
