"""A project around a random model without experts, and commands run in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl, copy_rows

from autoreap import cli
from autoreap.data.eval_set import read_task
from autoreap.data.evals_config import load_evals
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.families import family_of

EVALS = """\
search: [{task: asr, dataset_path: asr.jsonl, doc_to_text: transcribe, generation_kwargs: {max_new_tokens: 6}}]
report: [{task: asr, dataset_path: asr_report.jsonl, doc_to_text: transcribe, generation_kwargs: {max_new_tokens: 6}}]
"""
SPACE = """\
calibration: {audio: audio.jsonl}
evals: evals.yaml
parameters:
  layers_cut: {low: 0, high: 4}
  strip_vision: true
trials: 5
materialise: knee
batch_size: 4
"""
Run = Callable[..., dict[str, Any]]
Capture = pytest.CaptureFixture[str]


def make_project(folder: Path, save_model: Callable[[Path], Path]) -> None:
    """The model that `save_model` saves, rows, evals and a space."""
    save_model(folder / "model")
    copy_rows(as_jsonl("calibration/tiny") / "audio.jsonl", folder / "audio.jsonl", 5)
    copy_rows(as_jsonl("evals/tiny") / "asr_search.jsonl", folder / "asr.jsonl", 4)
    copy_rows(as_jsonl("evals/tiny") / "asr_report.jsonl", folder / "asr_report.jsonl", 2)
    (folder / "evals.yaml").write_text(EVALS)
    (folder / "space.yaml").write_text(SPACE)


def measure_and_plan(folder: Path, *options: str) -> None:
    """Measure the model, at once and layer by layer, and plan two layers less, with `options` of `plan`."""
    calibrate = ["calibrate", str(folder / "model"), "--audio", str(folder / "audio.jsonl")]
    assert cli.main([*calibrate, "-o", str(folder / "saliency.safetensors")]) == 0
    assert cli.main([*calibrate, "-o", str(folder / "streamed.safetensors"), "--stream-layers"]) == 0
    plan = ["plan", str(folder / "saliency.safetensors"), "--layers-cut", "2", *options]
    assert cli.main([*plan, "-o", str(folder / "plan.json")]) == 0


def runner(project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Run:
    """Runs a command in `folder`, where the files of `project` are linked; returns what it says as JSON."""
    monkeypatch.chdir(folder)
    for path in project.iterdir():
        (folder / path.name).symlink_to(path)

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert cli.main([*arguments, "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def said(capsys: Capture, *arguments: str, code: int = 0) -> str:
    """All that a command says to people."""
    capsys.readouterr()
    assert cli.main([*arguments]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@torch.inference_mode()
def stock_answers(path: Path, stock: Any) -> list[str]:
    """What `generate` of the `stock` class answers to the search split, one utterance at a time."""
    model = stock.from_pretrained(path, dtype=torch.float32).eval()
    family = family_of(open_checkpoint(path).config)
    inputs, thinker = family.running.inputs(path), family.running.thinker(model)
    (task,) = load_evals(Path("evals.yaml")).splits["search"]
    answers = []
    for sample in read_task(task, Path()):
        prompt = inputs.collate([inputs.encode(sample, "transcribe")])
        end = {"eos_token_id": inputs.end_token_id, "pad_token_id": inputs.pad_token_id}
        tokens = thinker.generate(**prompt, **end, do_sample=False, max_new_tokens=6)
        answers.append(inputs.decode(tokens[0, prompt["input_ids"].shape[1] :]))
    return answers
