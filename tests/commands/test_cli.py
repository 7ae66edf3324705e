"""The commands as a user calls them: exit codes, one clear line for each bad input, and JSON with nothing beside it."""

import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from builders import FINGERPRINT, SHAPE, as_jsonl, copy_rows, measured, parse, saliency_of
from pages import ROOT
from safetensors.torch import load_file, save_file
from studies import add_trial, new_study
from transformers import Qwen3OmniMoeForConditionalGeneration

import autoreap
from autoreap import cli
from autoreap.candidate import Candidate
from autoreap.cli import main
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.models.loading import open_model
from autoreap.plan import BaseModel, ComponentShape, ModelShape, load_plan
from autoreap.planning import make_plan
from autoreap.saliency import Saliency, load_saliency
from autoreap.scores import Counts, Metric, score
from autoreap.search.records import record_failure, record_plan
from autoreap.tiny_omni import CHECKPOINT

COMMANDS = (
    "search", "pareto", "report", "select", "materialise", "materialize", "calibrate", "plan", "evaluate", "prune",
    "inspect", "verify", "saliency", "compare", "show", "init", "doctor", "completion", "heal",
)  # fmt: skip
NUM_LAYERS = 8
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as it is now, a few rows, what calibrate and plan make of them, and a study of one trial."""
    folder = tmp_path_factory.mktemp("cli")
    shutil.copytree(CHECKPOINT, folder / "model")
    copy_rows(as_jsonl("calibration/tiny") / "audio.jsonl", folder / "audio.jsonl", 3)
    copy_rows(as_jsonl("evals/tiny") / "asr_search.jsonl", folder / "asr.jsonl", 3)
    (folder / "evals.yaml").write_text("search:\n  - {task: asr, dataset_path: asr.jsonl, doc_to_text: transcribe}\n")
    saliency = str(folder / "saliency.safetensors")
    assert cli.main(["calibrate", str(folder / "model"), "--audio", str(folder / "audio.jsonl"), "-o", saliency]) == 0
    assert cli.main(["plan", saliency, "--preset", "light", "-o", str(folder / "plan.json")]) == 0
    make_study(folder)
    return folder


def make_study(folder: Path) -> None:
    """A study `night` as `autoreap search` leaves one: trial 0 is scored, trial 1 failed."""
    wer = score([Counts(100, 500), Counts(0, 500)])
    plan = load_plan(folder / "plan.json")
    study = new_study(storage=storage(folder), baseline={"wer": wer})
    metrics = {"wer": wer, "size_4bit_bytes": Metric.static(400_000)}
    add_trial(study, (0.001, wer.value), plan=plan, metrics=metrics)
    failed = study.ask()
    record_plan(failed, plan, plan.digest())
    record_failure(study, failed, "ScoringError: none")


def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def plan_with(folder: Path, target: Path, **changes: Any) -> Path:
    """The plan of `folder` with some keys changed."""
    return write(target, json.loads((folder / "plan.json").read_text()) | changes)


def model_with_config(folder: Path, target: Path, content: Any) -> Path:
    target.mkdir()
    (target / "model.safetensors").hardlink_to(folder / "model" / "model.safetensors")
    write(target / "config.json", content)
    return target


def saliency_file(
    target: Path, saliency: Saliency | None = None, *, shape: ModelShape | None, **provenance: str
) -> Path:
    """Measurements (random ones of SHAPE) whose file carries `shape`, if there is one, and `provenance`."""
    saliency = saliency or saliency_of(SHAPE)
    known = {} if shape is None else {"shape": json.dumps(asdict(shape))}
    path = target / "measured.safetensors"
    replace(saliency, provenance={**saliency.provenance, **known, **provenance}).save(path)
    return path


# ---------------------------------------------------------------- bad input


def assert_refused(arguments: Sequence[object], capsys: Capture, *expected: str) -> None:
    """Exit code 2, nothing on stdout, and one line of stderr that says `expected`; what came before is progress."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = (line for line in captured.err.splitlines() if "autoreap:" in line)
    assert captured.err.endswith(f"{line}\n")
    assert line.startswith("autoreap: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    for part in expected:
        assert part in line


def assert_refused_at_once(arguments: Sequence[object], capsys: Capture, *expected: str) -> None:
    """As `assert_refused`, before anything was loaded: the line stands alone."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("autoreap: ")
    assert captured.out == ""
    for part in expected:
        assert part in captured.err


def test_a_calibration_without_audio(capsys: Capture) -> None:
    assert_refused_at_once(["calibrate", "tiny"], capsys, "--audio: calibration needs audio data")


def test_a_space_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    assert_refused_at_once(["search", tmp_path / "none.yaml"], capsys, f"{tmp_path}/none.yaml: no such file")


def test_a_space_that_cuts_more_layers_than_may_be_cut(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    parameters = "{layers_cut: {low: 0, high: 7}, strip_vision: true}"
    text = f"calibration: {{audio: {folder}/audio.jsonl}}\nevals: {folder}/evals.yaml\nparameters: {parameters}\n"
    space = write(tmp_path / "space.yaml", text)
    message = f"{space}: parameters.layers_cut: at most 6 of 8 layers may be cut, got 7"
    assert_refused(["search", space, "--model", folder / "model"], capsys, message)


@pytest.mark.parametrize(
    ("rest", "key", "fix"),
    [
        ("parameters: {retention: 0.5, strip_vision: true}", "parameters.strip_vision", "set it to false"),
        ("parameters: {retention: 0.5, strip_vision: [true, false]}", "parameters.strip_vision", "set it to false"),
        ("parameters: {retention: 0.5}\ncontrols: [random]", "controls", "leave controls out"),
    ],
)
def test_a_search_that_strips_vision_is_not_scored_on_pictures(
    rest: str, key: str, fix: str, folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    rows = as_jsonl("evals/tiny") / "caption_report.jsonl"
    write(tmp_path / "evals.yaml", f"search: [{{task: audio_qa, dataset_path: {rows}}}]\n")
    objectives = "objectives: {size_bytes: minimise, accuracy: maximise}"
    text = f"calibration: {{audio: {folder}/audio.jsonl}}\nevals: evals.yaml\n{rest}\n{objectives}\n"
    space = write(tmp_path / "space.yaml", text)
    message = f"{space}: {key}: strips vision, but accuracy is scored on pictures, the first one at {rows}:1 ({fix}"
    assert_refused_at_once(["search", space, "--model", folder / "model"], capsys, message)


def test_a_folder_as_a_space(capsys: Capture, tmp_path: Path) -> None:
    assert_refused_at_once(["search", tmp_path], capsys, f"{tmp_path}: is a folder, not a file")


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [("{mer: minimise}", "unknown metric 'mer' (known: size_bytes, wer,"), ("{wer: maximise}", "(wer: minimise)")],
)
def test_an_objective_that_is_none_is_refused_with_its_file(
    objectives: str, expected: str, folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    data = f"calibration: {{audio: {folder}/audio.jsonl}}\nevals: {folder}/evals.yaml\nparameters: {{retention: 0.5}}\n"
    space = write(tmp_path / "space.yaml", f"{data}objectives: {objectives}\n")
    assert_refused_at_once(["search", space, "--model", "tiny"], capsys, f"{space}: objectives: ", expected)


def test_a_space_without_a_model_is_searched_on_none(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    data = f"calibration: {{audio: {folder}/audio.jsonl}}\nevals: {folder}/evals.yaml\nparameters: {{retention: 0.5}}\n"
    space = write(tmp_path / "space.yaml", data)
    assert_refused_at_once(["search", space], capsys, f"{space}: does not say which model to search (--model MODEL")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("margins: {mer: 1}", "margins.mer: is for a metric that the evals do not have (known: wer)"),
        ("parameters: {lambda: [0, 1]}", "parameters.lambda: has no effect without mixed calibration rows"),
        ("parameters: {beta: {low: 0, high: 1}}", "parameters.beta: has no effect without mixed calibration rows"),
        ("parameters: {saliency: reap, lambda: [0, 1]}", "parameters.lambda: has no effect without saliency: affinity"),
        ("parameters: {seed: [0, 1]}", "parameters.seed: has no effect without saliency: random"),
    ],
)
def test_what_would_waste_a_night_is_refused_before_it(
    lines: str, expected: str, folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    data = f"calibration: {{audio: {folder}/audio.jsonl}}\nevals: {folder}/evals.yaml\n"
    parameters = "" if "parameters" in lines else "parameters: {retention: 0.5}\n"
    space = write(tmp_path / "space.yaml", f"{data}{parameters}{lines}\n")
    assert_refused_at_once(["search", space, "--model", folder / "model"], capsys, f"{space}: {expected}")


@pytest.mark.slow
def test_layers_that_loss_can_not_rank_are_refused_before_a_model_is_loaded(
    folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (folder / "audio.jsonl").read_text().splitlines()]
    silent = [json.dumps({key: row[key] for key in ("id", "audio")}) for row in rows]
    audio = write(tmp_path / "audio.jsonl", "\n".join(silent))
    parameters = "parameters: {layers_cut: {low: 0, high: 2}, layer_selection: [single, loss]}"
    space = write(
        tmp_path / "space.yaml", f"calibration: {{audio: {audio}}}\nevals: {folder}/evals.yaml\n{parameters}\n"
    )
    no_answers = f"{audio}:1: no audio row has an answer, so layers can't be ranked by loss"
    loss = ["--layer-selection", "loss", "--layers-cut"]
    measure = ["calibrate", folder / "model", "--audio", folder / "audio.jsonl", "--layer-losses"]
    refused: dict[str, list[Any]] = {
        no_answers: ["calibrate", folder / "model", "--audio", audio, "--layer-losses", "1"],
        f"{no_answers} ": ["prune", folder / "model", "--audio", audio, *loss, "1", "--dry-run"],
        "--layer-losses: at most 3 of 8 layers": [*measure, "4"],
        "layers_cut: at most 3 of 8 layers": ["prune", folder / "model", "--audio", audio, *loss, "4", "--dry-run"],
        "layers were not ranked": ["plan", folder / "saliency.safetensors", *loss, "1", "-o", tmp_path / "plan.json"],
        "the talker's layers can't be ranked": [
            *("prune", folder / "model", "--audio", audio, *loss, "1", "--dry-run", "--component", "both")
        ],
    }
    for message, arguments in refused.items():
        assert_refused_at_once(arguments, capsys, message)
    assert_refused(["search", space, "--model", folder / "model", "--storage", storage(tmp_path)], capsys, no_answers)
    assert_refused([*measure, "1", "--component", "talker"], capsys, "--component: the talker's layers can't be ranked")
    assert_refused([*measure, "1", "--stream-layers"], capsys, "--stream-layers: layers can't be ranked")


def test_an_evals_file_that_contains_itself(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    evals = write(tmp_path / "evals.yaml", "search: &a\n  - *a\n")
    assert_refused_at_once(["evaluate", folder / "model", "--evals", evals], capsys, f"{evals}: a part of it contains")


@pytest.mark.parametrize(("place", "problem"), [("taken", "is a directory"), ("file/below", "can't be made")])
def test_outcomes_that_can_not_be_written_are_found_before_the_model_is_loaded(
    place: str, problem: str, folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    arguments = ["evaluate", folder / "model", "--evals", folder / "evals.yaml", "--outcomes", tmp_path / place]
    assert_refused_at_once(arguments, capsys, f"--outcomes {tmp_path / place}: {problem}")


def without_tensor(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def of_another_shape(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name][:5].clone()


@pytest.mark.parametrize("damaged", [without_tensor, of_another_shape])
@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.experts.3.up_proj"])
def test_a_checkpoint_whose_weights_would_be_random_is_not_loaded(
    damaged: Callable[[dict[str, torch.Tensor], str], None], part: str, folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    name = f"thinker.model.layers.3.{part}.weight"
    damaged(tensors, name)
    save_file(tensors, weights, metadata={"format": "pt"})
    arguments = ["evaluate", tmp_path / "model", "--evals", folder / "evals.yaml"]
    assert_refused_at_once(arguments, capsys, f"{tmp_path}/model: tensor {name} is ", "fetch the checkpoint again")


def test_a_checkpoint_without_its_tokenizer(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    arguments = ["evaluate", tmp_path / "model", "--evals", folder / "evals.yaml"]
    assert_refused(arguments, capsys, f"{tmp_path}/model: its tokenizer or preprocessor can't be read")


@pytest.mark.parametrize(
    "command", [["pareto"], ["show"], ["show", "--trial", "0"], ["report"], ["select"], ["materialise", "--trial", "0"]]
)
def test_a_study_of_another_program(command: list[str], capsys: Capture, tmp_path: Path) -> None:
    study = optuna.create_study(storage=storage(tmp_path), study_name="day", directions=["minimize", "minimize"])
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 0.0), n_trials=1)
    arguments = [command[0], "day", *command[1:], "--storage", storage(tmp_path)]
    assert_refused_at_once(arguments, capsys, "study day: is not an autoreap study: it records no objectives")


def test_a_search_leaves_the_study_of_another_program_as_it_is(
    folder: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage=storage(tmp_path), study_name="day")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    data = f"calibration: {{audio: {folder}/audio.jsonl}}\nevals: {folder}/evals.yaml\nparameters: {{retention: 0.5}}\n"
    space = write(tmp_path / "space.yaml", data)
    arguments = ["search", space, "--model", folder / "model", "--study", "day", "--storage", storage(tmp_path)]
    assert_refused_at_once(arguments, capsys, "study day: is not an autoreap study")
    assert study.user_attrs == {}
    assert len(study.trials) == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["materialise", "night", "--trial", "0", "--dry-run", "--evals", "x"],
            "--evals: compares answers, which --dry-run",
        ),
        (
            ["materialise", "night", "--trial", "0", "--skip-behaviour", "--evals", "x"],
            "which --skip-behaviour leaves out",
        ),
        (["select", "night", "--max-size", "20GB"], "--rule safe: has no --max-size (--rule best has it)"),
        (
            ["select", "night", "--rule", "best", "--max-wer-increase", "1"],
            "--rule best: has no --max-wer-increase (--rule smallest has it)",
        ),
    ],
)
def test_an_option_that_would_have_no_effect(command: list[str], expected: str, capsys: Capture) -> None:
    assert_refused_at_once(command, capsys, expected)


def test_an_unknown_key_of_a_space(capsys: Capture, tmp_path: Path) -> None:
    write(tmp_path / "audio.jsonl", "")
    text = "calibration: {audio: audio.jsonl}\nevals: evals.yaml\nparameters: {retention: 0.5}\ntrails: 3\n"
    space = write(tmp_path / "space.yaml", text)
    assert_refused_at_once(["search", space], capsys, f"{space}:4: trails: unknown key", "trials")


def test_an_unknown_key_of_an_evals_file(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    evals = write(tmp_path / "evals.yaml", "search:\n  - {task: asr, dataset_path: a.jsonl, limits: 3}\n")
    assert_refused(["evaluate", folder / "model", "--evals", evals], capsys, f"{evals}:2: search.0.limits: unknown key")


def test_an_evals_file_whose_data_is_not_there(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    evals = write(tmp_path / "evals.yaml", "search:\n  - {task: asr, dataset_path: none.jsonl}\n")
    assert_refused(["evaluate", folder / "model", "--evals", evals], capsys, f"{tmp_path}/none.jsonl: no such file")


def test_a_split_without_tasks(folder: Path, capsys: Capture) -> None:
    arguments = ["evaluate", folder / "model", "--evals", folder / "evals.yaml", "--split", "report"]
    assert_refused(arguments, capsys, "split 'report' has no tasks")


@pytest.mark.parametrize("command", [["calibrate"], ["prune", "--preset", "light"]])
def test_a_broken_row_of_calibration_data(folder: Path, capsys: Capture, tmp_path: Path, command: list[str]) -> None:
    rows = write(tmp_path / "rows.jsonl", '{"id": "a", "text": "one"}\n{"id": "b", "text": \n')
    arguments = [*command, folder / "model", "--audio", rows, "-o", tmp_path / "out"]
    assert_refused(arguments, capsys, f"{rows}:2", "not JSON")
    assert not (tmp_path / "out").exists()


def test_a_row_whose_audio_is_not_there(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", {"id": "a", "audio": "none.wav"})
    assert_refused(["calibrate", folder / "model", "--audio", rows], capsys, f"{rows}:1", "no such media file")


@pytest.mark.parametrize(
    ("retention", "problem"),
    [("0", "above 0"), ("1.5", "at most 1, got 1.5"), ("-1", "above 0, got -1"), ("nan", "a finite number")],
)
def test_a_retention_that_is_no_fraction(
    folder: Path, capsys: Capture, tmp_path: Path, retention: str, problem: str
) -> None:
    arguments = ["plan", folder / "saliency.safetensors", f"--retention={retention}", "-o", tmp_path / "plan.json"]
    assert_refused_at_once(arguments, capsys, f"retention: must be {problem}")
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--layers", ",".join(map(str, range(NUM_LAYERS))), "--strip-vision"], "cuts all layers"),
        (["--layers", str(NUM_LAYERS)], f"there is no layer {NUM_LAYERS}"),
        (["--layers", "0"], "receives vision features"),
        (["--layers-cut", "99"], "can cut at most"),
        (["--layers-cut", "-1"], "at least 0"),
        (["--lambda", "nan"], "a finite number"),
        (["--component", "talker", "--retention", "0.5"], "holds no measurements of the talker"),
    ],
)
def test_a_plan_that_can_not_be_made(
    folder: Path, capsys: Capture, tmp_path: Path, options: list[str], expected: str
) -> None:
    arguments = ["plan", folder / "saliency.safetensors", *options, "-o", tmp_path / "plan.json"]
    assert_refused_at_once(arguments, capsys, expected)
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("content", ["", "no tensors", '{"a": 1}'])
@pytest.mark.parametrize("command", ["plan", "saliency"])
def test_a_saliency_file_that_is_none(capsys: Capture, tmp_path: Path, command: str, content: str) -> None:
    file = write(tmp_path / "saliency.safetensors", content)
    assert_refused_at_once([command, file], capsys, str(file))


@pytest.mark.parametrize("shape", [None, SHAPE])
def test_the_saliency_of_another_model(
    random_checkpoint: Path, capsys: Capture, tmp_path: Path, shape: ModelShape | None
) -> None:
    file = saliency_file(tmp_path, shape=shape, model="test/model")
    arguments = ["plan", file, "--model", random_checkpoint]
    assert_refused_at_once(arguments, capsys, "was measured on another model")


def test_a_saliency_file_with_a_broken_shape_or_without_a_model(capsys: Capture, tmp_path: Path) -> None:
    other = replace(SHAPE, components={name: replace(each, num_layers=9) for name, each in SHAPE.components.items()})
    wrong = saliency_file(tmp_path, shape=other, model="test/model")
    for command in ("plan", "saliency"):
        assert_refused_at_once([command, wrong], capsys, "shape is broken", "calibrate again")
    unnamed = saliency_file(tmp_path, shape=SHAPE)
    assert_refused_at_once(["plan", unnamed], capsys, "does not name the model", "--model")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--retention", "0"], "retention: must be above 0"),
        (["--lambda", "nan"], "lambda: must be a finite number"),
        (["--beta", "-1"], "beta: must be at least 0"),
        (["--component", "talker"], "holds no measurements of the talker"),
    ],
)
def test_a_summary_that_can_not_be_made(folder: Path, capsys: Capture, options: list[str], expected: str) -> None:
    assert_refused_at_once(["saliency", folder / "saliency.safetensors", *options], capsys, expected)


@pytest.mark.parametrize("model", ["nowhere", "./nowhere", "/nowhere/at/all"])
@pytest.mark.parametrize("command", ["inspect", "calibrate", "evaluate", "prune", "materialise"])
def test_a_model_that_is_not_there(folder: Path, capsys: Capture, command: str, model: str) -> None:
    options = {
        "calibrate": ["--audio", folder / "audio.jsonl"],
        "evaluate": ["--evals", folder / "evals.yaml"],
        "prune": ["--audio", folder / "audio.jsonl", "--dry-run"],
        "materialise": ["--plan", folder / "plan.json", "--dry-run"],
    }
    assert_refused_at_once([command, model, *options.get(command, [])], capsys, f"{model}: no such model directory")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not supported"),
        ({"model_type": "qwen3_omni_moe"}, "is missing"),
        ("{", "not JSON"),
        ([], "must be a JSON object"),
    ],
)
def test_a_model_of_another_kind(folder: Path, capsys: Capture, tmp_path: Path, config: Any, expected: str) -> None:
    model = model_with_config(folder, tmp_path / "model", config)
    assert_refused_at_once(["inspect", model], capsys, "config.json", expected)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("thinker_config",), "text"),
        (("thinker_config", "text_config"), []),
        (("thinker_config", "text_config", "num_hidden_layers"), "8"),
        (("thinker_config", "text_config", "mlp_only_layers"), "a"),
        (("thinker_config", "vision_config"), None),
        (("thinker_config", "vision_config", "num_heads"), "2"),
        (("thinker_config", "vision_config", "deepstack_visual_indexes"), None),
        (("talker_config", "accept_hidden_layer"), "4"),
    ],
    ids=str,
)
def test_a_config_whose_values_are_of_another_kind(
    folder: Path, capsys: Capture, tmp_path: Path, path: tuple[str, ...], value: Any
) -> None:
    config = json.loads((folder / "model" / "config.json").read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    model = model_with_config(folder, tmp_path / "model", config)
    assert_refused(["prune", model, "--strip-vision", "-o", tmp_path / "out"], capsys, "config")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_tensor_of_a_layer_that_the_config_does_not_have(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    config = json.loads((folder / "model" / "config.json").read_text())
    config["thinker_config"]["text_config"]["num_hidden_layers"] = NUM_LAYERS - 1
    model = model_with_config(folder, tmp_path / "model", config)
    assert_refused_at_once(["prune", model, "--strip-vision", "--dry-run"], capsys, "of a layer that config.json")


def test_verify_of_what_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    assert_refused_at_once(["verify", tmp_path / "none"], capsys, "no such model directory")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.jsonl", "none.jsonl: no such file"),
        ("night/7", "study night: has no trial 7"),
        ("night/1", "trial 1 was not scored"),
        ("night/0", "outcomes.jsonl: no such outcomes"),
        ("day/0", "no study 'day'"),
        ("model", "model: carries no utterances"),
        ("empty.jsonl", "empty.jsonl: holds no outcomes"),
        ("evals.yaml", "evals.yaml:1: not JSON"),
    ],
)
def test_what_can_not_be_compared(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    monkeypatch.chdir(folder)
    write(folder / "empty.jsonl", "")
    assert_refused_at_once(["compare", name, name, "--storage", storage(folder)], capsys, expected)


def test_a_reader_that_leaves_is_no_crash() -> None:
    command = [sys.executable, "-m", "autoreap.cli", "inspect", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_the_plan_of_another_model(folder: Path, random_checkpoint: Path, capsys: Capture) -> None:
    arguments = ["materialise", random_checkpoint, "--plan", folder / "plan.json", "--dry-run"]
    assert_refused_at_once(arguments, capsys, "the plan was made for another model")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"more": 1},
        {"base_model": None},
        {"base_model": {"name": "x"}},
        {"strip_vision": "no"},
        {"thinker": None},
        {"thinker": {"experts": 5, "layers": [0]}},
        {"thinker": {"experts": [[0, 1]] * NUM_LAYERS, "layers": []}},
        {"thinker": {"experts": [[0, 99]] * NUM_LAYERS, "layers": list(range(NUM_LAYERS))}},
        {"thinker": {"experts": [["0"]] * NUM_LAYERS, "layers": list(range(NUM_LAYERS))}},
        {"thinker": {"experts": [[0, 1]], "layers": [0]}},
    ],
    ids=str,
)
def test_a_plan_that_is_not_of_its_form(
    folder: Path, capsys: Capture, tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    plan = plan_with(folder, tmp_path / "plan.json", **changes)
    assert_refused_at_once(["materialise", folder / "model", "--plan", plan, "--dry-run"], capsys, "plan")


def test_a_plan_that_is_no_json(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", '{"format": 1,')
    assert_refused_at_once(["materialise", folder / "model", "--plan", plan], capsys, f"{plan}:1:14: not JSON")


def test_a_target_that_is_not_empty(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    mine = write(tmp_path / "out" / "mine.txt", "mine")
    arguments = ["materialise", folder / "model", "--plan", folder / "plan.json", "-o", tmp_path / "out"]
    assert_refused_at_once(arguments, capsys, f"{tmp_path}/out: exists and is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("options", [[], ["--trial", "0", "--plan", "plan.json"]])
def test_materialise_needs_either_a_trial_or_a_plan(capsys: Capture, options: list[str]) -> None:
    assert_refused_at_once(["materialise", "tiny", *options], capsys, "needs STUDY with --trial, or MODEL with --plan")


def test_materialise_without_a_target(folder: Path, capsys: Capture) -> None:
    arguments = ["materialise", folder / "model", "--plan", folder / "plan.json"]
    assert_refused_at_once(arguments, capsys, "needs -o OUT, or --dry-run")


@pytest.mark.parametrize("command", [["pareto"], ["report"], ["select"], ["materialise", "--trial", "0"]])
def test_a_study_that_is_not_there(folder: Path, capsys: Capture, tmp_path: Path, command: list[str]) -> None:
    unknown = [command[0], "day", *command[1:], "--storage", storage(folder)]
    assert_refused_at_once(unknown, capsys, "no study 'day'", "known: night")
    nothing = [command[0], "day", *command[1:], "--storage", storage(tmp_path)]
    assert_refused_at_once(nothing, capsys, "no studies here")


@pytest.mark.parametrize(("trial", "expected"), [("99", "has no trial 99"), ("1", "trial 1 was not scored")])
def test_a_trial_that_is_not_there_or_was_not_scored(folder: Path, capsys: Capture, trial: str, expected: str) -> None:
    arguments = ["materialise", "night", "--trial", trial, "--storage", storage(folder), "--dry-run"]
    assert_refused_at_once(arguments, capsys, "night", expected)


@pytest.mark.parametrize("size", ["20 bananas", "", "GB", "-1GB", "1..2GB", "."])
def test_a_size_that_is_none(folder: Path, capsys: Capture, size: str) -> None:
    arguments = ["select", "night", "--storage", storage(folder), "--rule", "best", f"--max-size={size}"]
    assert_refused_at_once(arguments, capsys, "--max-size")


@pytest.mark.parametrize("rule", ["smallest", "best"])
def test_a_rule_without_its_bound(folder: Path, capsys: Capture, rule: str) -> None:
    arguments = ["select", "night", "--storage", storage(folder), "--rule", rule]
    assert_refused_at_once(arguments, capsys, f"--rule {rule}: needs --max-")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing command"),
        (["dance"], "No such command 'dance'"),
        (["selec"], "Did you mean 'select'"),
        (["inspect"], "Missing argument 'MODEL'"),
        (["inspect", "tiny", "more"], "unexpected extra argument(s) (more)"),
        (["evaluate", "tiny"], "Missing option '--evals'"),
        (["inspect", "tiny", "--loudly"], "No such option: --loudly"),
        (["search", "space.yaml", "--trial", "3"], "No such option: --trial (Possible options: --storage, --trials)"),
        (["search", "space.yaml", "--trials"], "Option '--trials' requires an argument"),
        (["search", "space.yaml", "--trials", "0"], "'--trials': Input should be greater than or equal to 1, got '0'"),
        (["search", "space.yaml", "--trials", "many"], "'--trials': Input should be a valid integer, "),
        (["search", "space.yaml", "--seed", "-1"], "'--seed': Input should be greater than or equal to 0, got '-1'"),
        (["search", "space.yaml", "--workers", "0"], "'--workers': Input should be greater than or equal to 1"),
        (["inspect", "--loudly"], "(`autoreap inspect --help` shows what is right)"),
        (["search", "space.yaml", "--hours", "-1"], "'--hours': must be a number above 0, got -1"),
        (["search", "space.yaml", "--hours", "0"], "'--hours': must be a number above 0, got 0"),
        (["search", "space.yaml", "--hours", "nan"], "'--hours': must be a number above 0, got nan"),
        (["search", "space.yaml", "--dtype", "int8"], "'--dtype': 'int8' is not one of 'auto', 'bfloat16'"),
        (["plan", "s.safetensors", "--layers", "1-3"], "'--layers': must be layer numbers such as 12,16, got '1-3'"),
        (["plan", "s.safetensors", "--preset", "gentle"], "'gentle' is not one of 'light', 'medium', 'aggressive'"),
        (["plan", "s.safetensors", "--layer-selection", "many"], "'many' is not one of 'single', 'block'"),
        (["plan", "s.safetensors", "--retention", "half"], "'--retention': Input should be a valid number, "),
        (["saliency", "s.safetensors", "--component", "ear"], "'--component': 'ear' is not one of 'thinker'"),
        (["select", "night", "--rule", "cheapest"], "'--rule': 'cheapest' is not one of 'safe', 'knee', 'smallest'"),
        (["prune", "tiny", "--strip-vision", "--carry", "-3"], "'--carry': Input should be greater than"),
        (["select", "night", "--rule", "smallest", "--max-wer-increase", "nan"], "must be a finite number, got nan"),
        (["materialise", "night", "--trial", "-1", "--dry-run"], "'--trial': Input should be greater than"),
        (["calibrate", "tiny", "--audio", "a.jsonl=0"], "'--audio': a weight must be a finite number above 0, got '0'"),
        (["completion", "tcsh"], "'SHELL': 'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)  # fmt: skip
def test_a_command_line_that_is_refused(arguments: list[str], expected: str, capsys: Capture) -> None:
    assert_refused_at_once(arguments, capsys, expected)


@pytest.mark.parametrize("make_arguments", [
    lambda folder, taken: ["plan", folder / "saliency.safetensors", "-o", taken],
    lambda folder, taken: ["saliency", folder / "saliency.safetensors", "--png", taken],
    lambda folder, taken: ["saliency", folder / "saliency.safetensors", "--html", taken],
    lambda folder, taken: ["report", "night", "--storage", storage(folder), "-o", taken],
    lambda folder, taken: ["pareto", "night", "--storage", storage(folder), "--png", taken],
], ids=["plan", "png", "html", "report", "pareto"])  # fmt: skip
def test_a_file_to_write_whose_name_is_taken_by_a_folder(
    folder: Path, capsys: Capture, tmp_path: Path, make_arguments: Callable[[Path, Path], list[object]]
) -> None:
    taken = tmp_path / "taken.png"
    taken.mkdir()
    assert_refused_at_once(make_arguments(folder, taken), capsys, str(taken))


@pytest.mark.parametrize("url", ["night.db", "unheard-of://server/night"])
def test_a_storage_that_is_none(capsys: Capture, url: str) -> None:
    assert_refused_at_once(["pareto", "night", "--storage", url], capsys, url)


# ---------------------------------------------------------------- good input


def json_of(arguments: Sequence[object], capsys: Capture) -> dict[str, Any]:
    """What `--json` prints: one object on one line, and nothing else."""
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--json"]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    document: dict[str, Any] = json.loads(output)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_ends_in_an_example_that_it_takes(command: str, capsys: Capture) -> None:
    assert cli.main([command, "--help"]) == 0
    *_, heading, example = capsys.readouterr().out.splitlines()
    assert heading == "  example:"
    program, name, *arguments = shlex.split(example.partition(" > ")[0])
    assert (program, name) == ("autoreap", command.replace("materialize", "materialise"))  # two spellings of one
    parse([command, *arguments])


def test_the_help_lists_every_command(capsys: Capture) -> None:
    assert cli.main(["--help"]) == 0
    assert set(COMMANDS) <= set(re.findall(r"\w+", capsys.readouterr().out.partition("Commands:\n")[2]))


def test_the_version_is_printed(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{autoreap.__version__}\n"


def test_inspect_counts_the_bytes_of_the_file(folder: Path, capsys: Capture) -> None:
    document = json_of(["inspect", folder / "model"], capsys)
    file = folder / "model" / "model.safetensors"
    with file.open("rb") as opened:
        (header_bytes,) = struct.unpack("<Q", opened.read(8))
    total = document["components"].pop("total")
    assert total["num_bytes"] == file.stat().st_size - 8 - header_bytes
    for key, value in total.items():
        assert value == sum(size[key] for size in document["components"].values())


def test_inspect_prints_a_line_for_each_component(folder: Path, capsys: Capture) -> None:
    components = json_of(["inspect", folder / "model"], capsys)["components"]
    assert cli.main(["inspect", str(folder / "model")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:18].strip() for line in lines[1:-1]] == list(components)


def test_calibrate_writes_what_it_measured_and_says_how_much(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    output = tmp_path / "saliency.safetensors"
    document = json_of(["calibrate", folder / "model", "--audio", folder / "audio.jsonl", "-o", output], capsys)
    assert document["path"] == str(output)
    assert document["tokens"]["audio"] > 0
    assert load_saliency(output).digest() == load_saliency(folder / "saliency.safetensors").digest()


def test_calibrate_and_prune_measure_as_they_are_told(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    saliency, plan, pruned = (tmp_path / name for name in ("saliency.safetensors", "plan.json", "pruned"))
    measure = ["--audio", folder / "audio.jsonl", "--tokens", "answer", "--gates", "raw"]
    document = json_of(["calibrate", folder / "model", *measure, "-o", saliency], capsys)
    all_tokens = load_saliency(folder / "saliency.safetensors").components["thinker"].modalities["audio"].tokens
    assert 0 < document["tokens"]["audio"] < all_tokens / 2
    told = load_saliency(saliency).provenance
    assert (told["tokens"], told["gates"]) == ("answer", "raw")
    json_of(["plan", saliency, "--retention", "0.25", "-o", plan], capsys)
    json_of(["prune", folder / "model", *measure, "--retention", "0.25", "--carry", "0", "-o", pruned], capsys)
    assert load_plan(pruned / "plan.json").thinker == load_plan(plan).thinker


def test_calibrate_leaves_a_file_that_holds_the_same_measurement(folder: Path, capsys: Capture) -> None:
    output = folder / "saliency.safetensors"
    written = output.stat().st_mtime_ns
    arguments = ["calibrate", folder / "model", "--audio", folder / "audio.jsonl", "-o", output]
    assert cli.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert f"saliency measured before: {output}\n" in captured.err
    assert output.stat().st_mtime_ns == written
    assert captured.out.startswith(f"{output}: tokens ")


@pytest.mark.slow
def test_layers_are_ranked_by_loss_where_asked_and_cut_by_plan_and_prune(
    folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    file, plan, pruned = (tmp_path / name for name in ("saliency.safetensors", "plan.json", "pruned"))
    shutil.copy(folder / "saliency.safetensors", file)
    measure = [folder / "model", "--audio", folder / "audio.jsonl"]
    arguments = ["calibrate", *measure, "-o", file, "--layer-losses", "2"]
    document = json_of(arguments, capsys)
    order = load_saliency(file).components["thinker"].layer_order
    assert document["layer_order"] == {"layers": [*order.layers], "losses": [*order.losses]}
    assert len(order.layers) == 3  # with vision layer 1 is passed over
    assert load_saliency(file).provenance == load_saliency(folder / "saliency.safetensors").provenance

    assert cli.main([*map(str, arguments)]) == 0
    assert capsys.readouterr().out.endswith(f"\nlayers cut first by loss: {order.description}\n")
    assert json_of(["saliency", file], capsys)["components"]["thinker"]["layer_order"] == document["layer_order"]
    assert cli.main(["saliency", str(file)]) == 0
    assert f"layers cut first by loss: {order.description}\n" in capsys.readouterr().out

    cut = ["--layers-cut", "2", "--layer-selection", "loss", "--strip-vision"]
    json_of(["plan", file, *cut, "-o", plan], capsys)
    kept = [layer for layer in range(NUM_LAYERS) if layer not in order.layers[:2]]
    assert load_plan(plan).thinker.layers == tuple(kept)
    json_of(["prune", *measure, *cut, "--carry", "0", "-o", pruned], capsys)
    assert load_plan(pruned / "plan.json").thinker == load_plan(plan).thinker


def test_plan_writes_the_preset_with_what_is_said_over_it(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    options = ["--preset", "medium", "--retention", "0.25", "-o", tmp_path / "plan.json"]
    document = json_of(["plan", folder / "saliency.safetensors", *options], capsys)
    plan = load_plan(tmp_path / "plan.json")
    assert document["thinker"] == {"experts": 4, "layers": 7, "of_layers": NUM_LAYERS}
    assert plan.thinker.num_retained_experts == 4
    assert (plan.strip_vision, plan.talker) == (True, None)


def test_plan_cuts_exactly_the_layers_named(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    options = ["--layers", "7,5", "--strip-vision", "-o", tmp_path / "plan.json"]
    json_of(["plan", folder / "saliency.safetensors", *options], capsys)
    assert load_plan(tmp_path / "plan.json").thinker.layers == (0, 1, 2, 3, 4, 6)


def test_a_plan_needs_the_saliency_file_alone(capsys: Capture, tmp_path: Path) -> None:
    file = saliency_file(tmp_path, shape=SHAPE, model="gone/model")
    options = ["--retention", "0.5", "--layers-cut", "2", "-o", tmp_path / "plan.json"]
    document = json_of(["plan", file, *options], capsys)
    plan = load_plan(tmp_path / "plan.json")
    values = Candidate(retention=0.5, layers_cut=2)
    assert plan == make_plan(values, load_saliency(file), SHAPE, BaseModel("gone/model", FINGERPRINT))
    assert document["thinker"] == {"experts": 4, "layers": 6, "of_layers": 8}


def test_a_plan_from_the_file_alone_is_that_from_the_model(
    random_checkpoint: Path, capsys: Capture, tmp_path: Path
) -> None:
    model_info = open_model(str(random_checkpoint))
    plans = []
    for shape in (None, model_info.shape):
        saliency = saliency_of(model_info.shape, fingerprint=model_info.checkpoint.fingerprint)
        file = saliency_file(tmp_path, saliency, shape=shape, model=str(random_checkpoint))
        for model in ([], ["--model", random_checkpoint]):
            options = ["--component", "both", "--retention", "0.5", *model, "-o", tmp_path / "plan.json"]
            json_of(["plan", file, *options], capsys)
            plans.append(load_plan(tmp_path / "plan.json"))
    assert all(plan == plans[0] for plan in plans)


@pytest.mark.parametrize(("selection", "layers"), [("single", (0, 2, 3, 5)), ("block", (0, 1, 2, 5))])
def test_plan_cuts_single_layers_or_a_block(
    capsys: Capture, tmp_path: Path, selection: str, layers: tuple[int, ...]
) -> None:
    cosine = np.array([[0.0, 0.9, 0.1, 0.5, 0.8, 0.0], [0.0, 0.2, 0.3, 0.4, 0.1, np.nan]])
    saliency = Saliency({"thinker": replace(measured(6, 8), layer_cosine=cosine)}, {"model_fingerprint": FINGERPRINT})
    shape = ModelShape({"thinker": ComponentShape(6, 8, 2)})
    file = saliency_file(tmp_path, saliency, shape=shape, model="gone/model")
    options = ["--layers-cut", "2", "--layer-selection", selection, "-o", tmp_path / "plan.json"]
    json_of(["plan", file, *options], capsys)
    assert load_plan(tmp_path / "plan.json").thinker.layers == layers


def test_saliency_says_where_it_comes_from_and_has_each_layer(folder: Path, capsys: Capture) -> None:
    arguments = ["saliency", folder / "saliency.safetensors", "--retention", "0.25"]
    document = json_of(arguments, capsys)
    assert document["provenance"] == load_saliency(folder / "saliency.safetensors").provenance
    thinker = document["components"]["thinker"]
    assert (thinker["num_retained"], len(thinker["layers"])) == (4, NUM_LAYERS)
    assert cli.main([*map(str, arguments)]) == 0
    text = capsys.readouterr().out
    assert document["provenance"]["model_fingerprint"] in text
    assert f"audio {thinker['tokens']['audio']:,}" in text
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+  ", line)]
    assert [int(row[0]) for row in rows] == list(range(NUM_LAYERS))


@pytest.mark.slow
def test_saliency_draws_a_picture_and_a_page_of_what_is_named(capsys: Capture, tmp_path: Path) -> None:
    file = saliency_file(tmp_path, shape=SHAPE, model="test/model")
    targets = ["--png", tmp_path / "new" / "s.png", "--html", tmp_path / "new" / "s.html"]
    assert set(json_of(["saliency", file, *targets], capsys)["components"]) == {"thinker", "talker"}
    assert (tmp_path / "new" / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2>talker</h2>" in (tmp_path / "new" / "s.html").read_text()
    assert set(json_of(["saliency", file, "--component", "talker"], capsys)["components"]) == {"talker"}


def test_evaluate_gives_each_metric_with_its_interval_and_writes_outcomes(
    folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    options = ["--plan", folder / "plan.json", "--outcomes", tmp_path / "outcomes.jsonl"]
    document = json_of(["evaluate", folder / "model", "--evals", folder / "evals.yaml", *options], capsys)
    (measured,) = document["metrics"].values()
    assert set(measured) == {
        *("value", "low", "high", "numerator", "denominator", "num_samples", "num_failed", "num_unreadable")
    }
    rows = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert sum(row["numerator"] for row in rows) == measured["numerator"]
    assert len(rows) == measured["num_samples"] == 3


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "this machine has no CUDA device"), ("moon", "unknown device 'moon'")]
)
def test_a_device_that_is_not_there_is_one_clear_line(folder: Path, capsys: Capture, device: str, message: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    arguments = ["evaluate", folder / "model", "--evals", folder / "evals.yaml", "--device", device]
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert f"autoreap: --device: {message}" in capsys.readouterr().err


def test_evaluate_measures_likelihoods_where_asked(folder: Path, capsys: Capture) -> None:
    options = ["--evals", folder / "evals.yaml", "--likelihood"]
    metrics = json_of(["evaluate", folder / "model", *options], capsys)["metrics"]
    likelihood = metrics["nll.wer"]
    assert 0 < likelihood["low"] <= likelihood["value"] <= likelihood["high"]
    assert cli.main([str(option) for option in ["evaluate", folder / "model", *options]]) == 0
    assert re.search(r"^nll\.wer .* nats \[", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_evaluate_times_a_plan_beside_the_unpruned_model_where_asked(folder: Path, capsys: Capture) -> None:
    options = ["--evals", folder / "evals.yaml", "--plan", folder / "plan.json", "--latency"]
    metrics = json_of(["evaluate", folder / "model", *options], capsys)["metrics"]
    assert {"wer", "size_4bit_bytes", "mask_seconds", "real_time_factor_ratio"} <= set(metrics)
    ratio = metrics["first_token_ratio"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert cli.main([str(option) for option in ["evaluate", folder / "model", *options]]) == 0
    assert re.search(r"^active_parameters +[\d.]+ M$", capsys.readouterr().out, re.MULTILINE)


def test_compare_takes_files_trials_and_checkpoints(
    folder: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "studies.db", tmp_path / "studies.db")
    monkeypatch.chdir(tmp_path)
    first = tuple(Outcome(str(number), "red", "red dog", Counts(1, 2), False) for number in range(8))
    second = tuple(replace(outcome, output="red dog", counts=Counts(0, 2)) for outcome in first)
    for name, outcomes in (("baseline", first), ("0", second)):
        Evaluation({"wer": outcomes}, 1.0).save_outcomes(tmp_path / "mlruns/trials/night" / name / "outcomes.jsonl")
    shutil.copytree(tmp_path / "mlruns/trials/night/0", tmp_path / "pruned" / "verification")
    at = ["--storage", storage(tmp_path)]
    for b in ("night/0", "pruned", "mlruns/trials/night/0/outcomes.jsonl"):
        document = json_of(["compare", "night/baseline", b, *at, "--html", "page.html"], capsys)
        assert document["metrics"]["wer"]["difference"] == {
            "value": -0.5,
            "low": -0.5,
            "high": -0.5,
            "verdict": "better",
        }
        assert document["worst"] == []
    assert "<title>autoreap: night/baseline and mlruns" in (tmp_path / "page.html").read_text()
    worse = json_of(["compare", "night/0", "night/baseline", *at, "--worst", "3"], capsys)["worst"]
    assert [(one["id"], one["growth"], one["b"]["output"]) for one in worse] == [(n, 1, "red") for n in "012"]
    assert cli.main(["compare", "night/baseline", "night/0", *at]) == 0
    assert re.search(r"^wer .* better$", capsys.readouterr().out, re.MULTILINE)


def test_select_shows_every_score_with_its_interval(folder: Path, capsys: Capture) -> None:
    assert cli.main(["select", "night", "--storage", storage(folder)]) == 0
    said = capsys.readouterr().out
    assert re.match(r"trial 0: 1\.00 MB, wer 10\.00% \[[\d.]+%, [\d.]+%\]\nwhy: smallest that is non-inferior ", said)
    assert re.search(
        r"\n  wer 10\.00% .* on the search split, \+0\.00 points \[.*\] .*: non-inferior \(margin 0\.5\)\n", said
    )


@pytest.mark.parametrize("command", ["materialise", "materialize"])
def test_a_dry_run_says_what_the_real_one_writes(folder: Path, capsys: Capture, tmp_path: Path, command: str) -> None:
    arguments = [command, folder / "model", "--plan", folder / "plan.json"]
    dry = json_of([*arguments, "--dry-run"], capsys)
    assert list(tmp_path.iterdir()) == []
    real = json_of([*arguments, "-o", tmp_path / "pruned"], capsys)
    assert (dry.pop("path"), real.pop("path")) == (None, str(tmp_path / "pruned"))
    assert dry.pop("verified") == {}
    assert list(real.pop("verified")) == ["structure", "content", "behaviour"]
    assert dry == real
    total = json_of(["inspect", tmp_path / "pruned"], capsys)["components"]["total"]
    predicted = json_of(["inspect", folder / "model", "--plan", folder / "plan.json"], capsys)["components"]
    assert predicted == json_of(["inspect", tmp_path / "pruned"], capsys)["components"]
    assert (total["num_bytes"], total["num_tensors"]) == (real["size_bytes"], real["num_tensors"])


def test_a_trial_is_materialised_from_its_study_as_from_its_plan(folder: Path, capsys: Capture) -> None:
    of_trial = json_of(["materialise", "night", "--trial", "0", "--storage", storage(folder), "--dry-run"], capsys)
    of_plan = json_of(["materialise", folder / "model", "--plan", folder / "plan.json", "--dry-run"], capsys)
    assert of_trial == of_plan


def test_prune_writes_a_checkpoint_that_stock_transformers_loads_whole(
    folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    options = ["--preset", "medium", "--strip-vision", "--audio", folder / "audio.jsonl", "-o", tmp_path / "pruned"]
    document = json_of(["prune", folder / "model", *options], capsys)
    assert document["plan"] == {
        "strip_vision": True,
        "drop_speech": False,
        "thinker": {"experts": 8, "layers": 7, "of_layers": NUM_LAYERS},
    }
    model, loading = Qwen3OmniMoeForConditionalGeneration.from_pretrained(
        tmp_path / "pruned", dtype="auto", output_loading_info=True
    )
    assert {kind: names for kind, names in loading.items() if names} == {}
    assert model.dtype == torch.bfloat16
    assert sum(parameter.numel() for parameter in model.parameters()) == document["num_parameters"]


@pytest.mark.slow
def test_prune_compares_what_the_mask_said_with_what_the_checkpoint_says(
    folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    options = ["--retention", "0.5", "--audio", folder / "audio.jsonl", "-o", tmp_path / "pruned", "--carry", "2"]
    document = json_of(["prune", folder / "model", *options], capsys)
    assert document["verified"]["behaviour"] == "all 3 outputs match (cpu, float32)"
    verified = json_of(["verify", tmp_path / "pruned"], capsys)
    assert verified["verified"] == document["verified"] | {"behaviour": "all 2 outputs match (cpu, float32)"}
    assert json_of(["verify", tmp_path / "pruned", "--skip-behaviour"], capsys)["metrics"] == {}


@pytest.mark.slow
def test_prune_by_what_needs_no_measurement_loads_no_weight(folder: Path, tmp_path: Path) -> None:
    """Each step alone, and some together; the stock class is built only on the meta device, to verify."""
    kept = {
        ("--layers", "2,3"): (6, 16, False, False),
        ("--strip-vision",): (8, 16, True, False),
        ("--drop-speech",): (8, 16, False, True),
        ("--retention", "0.25", "--saliency", "random", "--layers", "6", "--strip-vision"): (7, 4, True, False),
    }
    targets = [str(tmp_path / str(number)) for number in range(len(kept))]
    commands = [
        ["prune", str(folder / "model"), *options, "-o", target, "--json"]
        for options, target in zip(kept, targets, strict=True)
    ]
    program = (
        "from autoreap import cli\nfrom transformers import PreTrainedModel\n"
        "def refuse(*_, **__): raise AssertionError('weights were loaded')\n"
        f"PreTrainedModel.from_pretrained = refuse\nfor command in {commands!r}: assert cli.main(command) == 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    for target, expected in zip(targets, kept.values(), strict=True):
        plan = load_plan(Path(target) / "plan.json")
        edit = plan.thinker
        assert (len(edit.layers), edit.num_retained_experts, plan.strip_vision, plan.drop_speech) == expected


@pytest.mark.parametrize("command", ["inspect", "materialise", "prune"])
def test_what_headers_say_is_said_without_heavy_libraries(folder: Path, command: str) -> None:
    arguments = {
        "inspect": [],
        "materialise": ["--plan", str(folder / "plan.json"), "--dry-run"],
        "prune": ["--layers", "3", "--strip-vision", "--drop-speech", "--dry-run"],
    }
    line = [command, str(folder / "model"), *arguments[command]]
    program = (
        f"import sys\nfrom autoreap import cli\nassert cli.main({line!r}) == 0\n"
        "assert not {'torch', 'transformers', 'optuna', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_prune_without_a_target_says_what_it_would_write(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    options = ["--audio", folder / "audio.jsonl", "--retention", "0.5", "--dry-run"]
    assert json_of(["prune", folder / "model", *options], capsys)["path"] is None


def test_the_front_of_a_study_has_its_points_with_intervals(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    options = ["--storage", storage(folder), "--png", tmp_path / "front.png"]
    (point,) = json_of(["pareto", "night", *options], capsys)["points"]
    assert set(point) == {"trial", "params", "metrics", "size_bytes", "against_baseline"}
    assert set(point["params"]) == {"retention", "beta"}
    assert {"value", "low", "high"} <= set(point["metrics"]["wer"])
    assert (tmp_path / "front.png").stat().st_size > 0


@pytest.mark.parametrize(
    "options", [[], ["--rule", "smallest", "--max-wer-increase", "0.5"], ["--rule", "best", "--max-size", "1.5 MB"]]
)
def test_each_rule_selects_a_trial_and_says_why(folder: Path, capsys: Capture, options: list[str]) -> None:
    document = json_of(["select", "night", "--storage", storage(folder), *options], capsys)
    assert document["trial"] == 0
    assert document["reason"]


def test_the_report_is_one_page_with_the_failures(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    found = json_of(["report", "night", "--storage", storage(folder), "-o", page], capsys)
    told = {"study": "night", "num_trials": 2, "front": [0]}
    assert found == {"report": str(page), "bytes": page.stat().st_size, **told}
    assert '{"reason":"ScoringError: none","trials":[1]}' in page.read_text()


def test_presets_and_values_go_to_the_component_that_is_named(
    capsys: Capture, tmp_path: Path, random_checkpoint: Path
) -> None:
    saliency = saliency_of(open_model(str(random_checkpoint)).shape, fingerprint=_fingerprint(random_checkpoint))
    saliency.save(tmp_path / "saliency.safetensors")
    arguments = ["plan", str(tmp_path / "saliency.safetensors"), "--model", str(random_checkpoint), "--json"]
    arguments += ["-o", str(tmp_path / "plan.json")]
    assert main([*arguments, "--component", "talker", "--retention", "0.5"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["thinker"] == {"experts": 8, "layers": 6, "of_layers": 6}
    assert summary["talker"]["experts"] == 3
    assert main([*arguments, "--component", "both", "--preset", "medium", "--layers-cut", "1"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["thinker"]["experts"], summary["thinker"]["layers"]) == (4, 5)
    assert (summary["talker"]["experts"], summary["talker"]["layers"]) == (3, 3)


def test_a_study_name_that_is_no_file_name_is_refused(capsys: Capture) -> None:
    space = ROOT / "search_spaces" / "tiny.yaml"
    assert main(["search", str(space), "--study", "a/b"]) == 2
    assert "--study" in capsys.readouterr().err


def _fingerprint(path: Path) -> str:
    return open_model(str(path)).checkpoint.fingerprint
