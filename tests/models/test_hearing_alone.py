"""Every command on a model that hears and writes, and neither sees nor speaks: a random Qwen2-Audio."""

import json
from pathlib import Path

import pytest
import torch
from builders import wav_bytes
from dense_project import EVALS, SPACE, Capture, Run, make_project, measure_and_plan, runner, said, stock_answers
from measured import assert_same_bits
from pages import ROOT
from random_qwen2_audio import QWEN2_AUDIO, save_hearing_model

from autoreap.data.samples import SAMPLING_RATE, Sample
from autoreap.evaluation.latency import Stopwatch
from autoreap.evaluation.outcomes import load_outcomes
from autoreap.models.loading import load, open_model
from autoreap.plan import load_plan
from autoreap.saliency import load_saliency
from autoreap.search.records import read_study
from autoreap.search.storage import open_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, a few rows, and what calibrate and plan make of them."""
    folder = tmp_path_factory.mktemp("hearing")
    make_project(folder, save_hearing_model)
    measure_and_plan(folder)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Run:
    """Run a command in a folder of its own, beside the module's files; what it says as JSON."""
    return runner(folder, tmp_path, monkeypatch, capsys)


def test_inspect_lists_what_hears_and_writes(run: Run) -> None:
    assert set(run("inspect", "model")["components"]) == {"audio", "thinker attention", "thinker rest", "total"}


@pytest.mark.slow
def test_doctor_counts_no_vision(run: Run) -> None:
    arithmetic = run("doctor", "model")["needs"]["arithmetic"]
    assert arithmetic.startswith("6 dense layers, rest ")
    assert "vision" not in arithmetic


def test_layers_are_measured_the_same_one_by_one(folder: Path) -> None:
    saliency, streamed = (load_saliency(folder / f"{name}.safetensors") for name in ("saliency", "streamed"))
    assert_same_bits(saliency, streamed)
    assert (saliency.components["thinker"].layer_cosine[0] < 1).all()


def test_the_checkpoint_of_a_plan_answers_as_the_masked_model_and_as_stock_generation(run: Run) -> None:
    run("materialise", "model", "--plan", "plan.json", "-o", "out")
    assert run("verify", "out")["verified"]["structure"].endswith("as the stock class expects them")
    answers = {}
    for name, model, *options in (
        ("masked", "model", "--plan", "plan.json"),
        ("alone", "model", "--plan", "plan.json", "--batch-size", "1"),
        ("out", "out"),
        ("unpruned", "model"),
    ):
        run("evaluate", model, *options, "--evals", "evals.yaml", "--outcomes", f"{name}.jsonl")
        answers[name] = load_outcomes(Path(f"{name}.jsonl"))
    assert answers["masked"] == answers["alone"] == answers["out"] != answers["unpruned"]
    assert [outcome.output for outcome in answers["out"]["wer"]] == stock_answers(Path("out"), QWEN2_AUDIO.stock)


def test_the_card_of_a_checkpoint_has_no_line_for_what_the_model_never_had(run: Run) -> None:
    run("materialise", "model", "--plan", "plan.json", "-o", "out")
    rows = [line.split(" | ")[0] for line in Path("out/README.md").read_text().splitlines() if line.startswith("| ")]
    assert rows == ["| component", "| thinker"]


def test_prune_cuts_the_layers_that_are_named(run: Run) -> None:
    assert run("prune", "model", "--layers", "1,3", "-o", "out")["plan"]["thinker"]["layers"] == 4
    model = QWEN2_AUDIO.stock.from_pretrained("out")
    assert len(model.model.language_model.layers) == 4


def test_a_preset_goes_without_vision_where_there_is_none(run: Run) -> None:
    written = run("prune", "model", "--preset", "aggressive", "--audio", "audio.jsonl", "-o", "out")
    assert not written["plan"]["strip_vision"]
    assert load_plan(Path("out/plan.json")).digest() == load_plan(Path("plan.json")).digest()
    assert written["verified"]["behaviour"].startswith("all 5 outputs match")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("prune", "model", "--layers", "1", "--strip-vision", "-o", "out"),
            "--strip-vision: this model has no vision",
        ),
        (
            ("plan", "saliency.safetensors", "--strip-vision", "-o", "p.json"),
            "--strip-vision: this model has no vision",
        ),
        (("materialise", "model", "--plan", "blind.json", "-o", "out"), "plan: strip_vision: this model has no vision"),
        (
            ("evaluate", "model", "--plan", "blind.json", "--evals", "evals.yaml"),
            "plan: strip_vision: this model has no vision",
        ),
        (
            ("search", "choice.yaml", "--model", "model"),
            "choice.yaml: parameters.strip_vision: this model has no vision",
        ),
        (
            ("calibrate", "model", "--audio", "audio.jsonl", "--component", "talker", "-o", "s"),
            "--component: this model ",
        ),
        (
            ("calibrate", "model", "--audio", "audio.jsonl", "--video", "video.jsonl", "-o", "s"),
            "video.jsonl:1: this mo",
        ),
    ],
)
def test_what_the_model_has_not_is_refused(run: Run, capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    Path("blind.json").write_text(json.dumps(load_plan(Path("plan.json")).as_dict() | {"strip_vision": True}))
    Path("choice.yaml").write_text(SPACE.replace("strip_vision: true", "strip_vision: [true, false]"))
    Path("picture.png").write_bytes((ROOT / "docs/front.png").read_bytes())
    Path("video.jsonl").write_text(json.dumps({"id": "a", "modality": "video", "image": "picture.png"}) + "\n")
    text = said(capsys, *arguments, code=2)
    assert text.splitlines()[-1].startswith(f"autoreap: {message}")
    assert not Path("out").exists()


def test_a_recording_longer_than_the_model_hears_is_a_row_that_cannot_be_read(run: Run, capsys: Capture) -> None:
    Path("long.wav").write_bytes(wav_bytes(31 * SAMPLING_RATE))
    rows = Path("asr.jsonl").read_text() + json.dumps({"id": "long", "audio": "long.wav", "text": "one"}) + "\n"
    Path("rows.jsonl").write_text(rows)
    for share, code in (("0.5", 0), ("0.1", 2)):
        Path("long.yaml").write_text(EVALS.replace("asr.jsonl,", f"rows.jsonl, max_unreadable: {share},"))
        text = said(capsys, "evaluate", "model", "--evals", "long.yaml", code=code)
        assert (
            "rows.jsonl:5: recording of 31.0 s is longer than the 30 s that this model takes (cut it into piec" in text
        )


def test_the_stopwatch_times_what_stock_generation_answers(folder: Path) -> None:
    loaded = load(open_model(str(folder / "model")), device="cpu")
    sample = Sample(id="clip", where="clip", audio=wav_bytes(2 * SAMPLING_RATE))
    encoded = loaded.inputs.encode(sample, "transcribe")
    timing = Stopwatch(loaded.model, loaded.inputs, [(encoded, 6)]).answer(encoded, 6)
    with torch.inference_mode():
        tokens = loaded.model.generate(
            **loaded.inputs.collate([encoded]),
            do_sample=False,
            max_new_tokens=6,
            eos_token_id=loaded.inputs.end_token_id,
        )
    assert list(timing.tokens) == tokens[0, len(encoded.input_ids) :].tolist()
    assert timing.first_token_seconds <= 2 * timing.real_time_factor


@pytest.mark.slow
def test_a_search_over_cuts_scores_three_trials_and_ships_one(run: Run, capsys: Capture) -> None:
    text = said(capsys, "search", "space.yaml", "--model", "model", "--study", "night", "--trials", "3")
    assert "without vision" not in text
    study = read_study(open_study("night"))
    assert [trial.params["layers_cut"] for trial in study.trials] == [0, 1, 2]
    (shipped,) = Path("mlruns/checkpoints").iterdir()
    assert QWEN2_AUDIO.stock.from_pretrained(shipped)
    assert "vision" not in said(capsys, "show", "night", "--trial", "2")
