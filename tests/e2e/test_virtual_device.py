"""The main job with a model on a device that is not the host's memory; see the helper `virtual_device`."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import copy_rows
from pages import ROOT
from virtual_device import VirtualDevice, is_on_device

from autoreap.cli import main
from autoreap.data.eval_set import EvalSet, open_evals
from autoreap.evaluation import device_limits, draft_passes
from autoreap.evaluation.evaluator import Evaluator
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import PruningPlan
from autoreap.search.records import read_study
from autoreap.search.storage import open_study

pytestmark = pytest.mark.slow

SPACE = """\
model: tiny
calibration: {audio: audio.jsonl, mixed: mixed.jsonl}
evals: evals.yaml
parameters:
  retention: {low: 0.5, high: 1.0, step: 0.0625}
  layers_cut: {low: 0, high: 1}
  strip_vision: true
  heal: stream
  bits: 8
  bits_rest: 8
  bits_group: 16
trials: 2
presets: [light]
materialise: knee
"""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualDevice]:
    with VirtualDevice().present(monkeypatch) as device:
        yield device


def test_a_search_mixes_no_tensors_of_two_devices(
    device: VirtualDevice, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated, healed, quantised, scored, scored on the report split, shipped and verified."""
    monkeypatch.setattr(device_limits, "_MANY_ROWS", 2)
    (project / "space.yaml").write_text(SPACE)
    for modality in ("audio", "mixed"):
        copy_rows(project / f"{modality}.jsonl", project / f"{modality}.jsonl", num_rows=3)
    evals = project / "evals.yaml"
    evals.write_text(evals.read_text().replace("}", ", limit: 4}"))
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    captured = capsys.readouterr()
    assert device.mismatches == []
    document = json.loads(captured.out)
    assert document["shipped"]["verified"]["where"] == "cuda (virtual, 9.0), bfloat16", captured.err
    study = read_study(open_study("night"))
    assert [trial.status for trial in study.trials] == ["scored"] * 2
    assert all(study.plan(trial.number).heals for trial in study.trials)
    assert study.held_out is not None


def few(num_rows: int) -> EvalSet:
    """The first rows of each task of the embedded sets, those with pictures too."""
    evals = open_evals(ROOT / "evals/tiny.yaml").search
    return replace(evals, tasks=tuple(replace(task, samples=task.samples[:num_rows]) for task in evals.tasks))


def evaluator_on(place: str, evals: EvalSet) -> tuple[Evaluator, Loaded]:
    loaded = load(open_model("tiny"), device=place, dtype="float32")
    return Evaluator(loaded.model, loaded.inputs, evals), loaded


def test_answers_on_the_device_are_those_of_the_host(device: VirtualDevice) -> None:
    """In float32; passes have other shapes."""
    evals = few(12)
    on_host, _ = evaluator_on("cpu", evals)
    on_device, loaded = evaluator_on("cuda", evals)
    assert all(map(is_on_device, loaded.model.parameters()))
    for likelihoods in (False, True):
        expected = on_host.run(likelihoods=likelihoods)
        assert on_device.run(likelihoods=likelihoods).outcomes == expected.outcomes
    assert device.mismatches == []


# Of the prompts: ids, which are real, those of their frames, embeddings. Of drafts: tokens, and where they end. What
# was accepted. It is sent while the device has nothing to do.
SENT_FOR_A_PASS = 7
# Tokens and where they end, how much of each answer is written, what was accepted; and which rows a pool keeps.
SENT_FOR_A_ROUND = 5


def test_the_host_waits_once_a_pass_for_what_was_chosen(
    device: VirtualDevice, plan: PruningPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the device idles; also where the logits of a pass are too many to be in memory at once."""
    monkeypatch.setattr(draft_passes, "_HEAD_ROWS", 16)
    evaluator, loaded = evaluator_on("cuda", few(24))
    evaluator.run()
    thinker: Any = loaded.model_info.family.running.thinker(loaded.model)
    calls: Counter[str] = Counter()
    thinker.model.register_forward_pre_hook(lambda *_: calls.update(["first pass"]))
    thinker.model.language_model.register_forward_pre_hook(lambda *_: calls.update(["any pass"]))
    for likelihoods in (False, True):
        for counter in (calls, device.waits, device.copies):
            counter.clear()
        evaluator.run(plan, likelihoods=likelihoods)
        num_rounds = calls["any pass"] - calls["first pass"]
        assert num_rounds > 0
        fetched = {place: number for place, number in device.waits.items() if place.startswith("evaluation/")}
        num_scored = calls["first pass"] if likelihoods else 0
        assert fetched == {"evaluation/draft_passes.py:choices": calls["any pass"] + num_scored}
        decoding = ("evaluation/", "models/prompts.py")
        num_sent = sum(number for place, number in device.copies.items() if place.startswith(decoding))
        assert num_sent <= SENT_FOR_A_PASS * calls["first pass"] + SENT_FOR_A_ROUND * num_rounds
    assert device.mismatches == []


def test_the_device_refuses_what_cuda_refuses(device: VirtualDevice) -> None:
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        there[:2] @ here[:2]
    with pytest.raises(RuntimeError, match="same device"):
        here[torch.tensor([0], device="cuda")]
    assert len(device.mismatches) == 3
    assert (there + torch.tensor(1.0))[torch.tensor([0, 2])].cpu().tolist() == [2, 2]
    here.copy_(there)
    assert device.waits.total() == 2
