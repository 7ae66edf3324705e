"""Healing of what speaks: the talker is fitted on what the unpruned one says."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_component
from pages import ROOT
from safetensors.torch import load_file, save_file

from autoreap.calibration.batching import encode
from autoreap.calibration.calibrator import speak
from autoreap.calibration.measure import read_calibration
from autoreap.data.samples import Sample, digest
from autoreap.errors import InputError
from autoreap.healing.calls import DecoderCall, spoken_calls
from autoreap.healing.healer import Healer
from autoreap.healing.read_back import with_written_weights
from autoreap.masking import masked
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import Healing, PruningPlan
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing.materialiser import materialise

NUM_TOKENS = 600

pytestmark = pytest.mark.slow
Data = Mapping[str, Sequence[Sample]]
Said = Mapping[str, Sequence[DecoderCall]]


@pytest.fixture(scope="module")
def data() -> Data:
    sets = read_calibration({"audio": ROOT / "calibration" / "tiny" / "audio.parquet"})
    return {"audio": sets["audio"][:4]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, whose talker has experts of zeros, with random ones."""
    path = tmp_path_factory.mktemp("speaking") / "model"
    shutil.copytree(CHECKPOINT, path)
    generator = torch.Generator().manual_seed(0)
    for file in path.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if name.startswith("talker.model.layers") and ".mlp." in name:
                random = torch.randn(tensor.shape, generator=generator) * 1.5 / tensor.shape[-1] ** 0.5
                tensors[name] = random.to(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def speaking(base: Path) -> Loaded:
    """It with its talker."""
    return load(open_model(str(base)), speech=True)


@pytest.fixture(scope="module")
def said(base: Path, data: Data) -> Said:
    """What the unpruned model says, by the type that it computes in."""
    calls: dict[str, Sequence[DecoderCall]] = {}
    for dtype in ("float32", "bfloat16"):
        calls[dtype] = spoken_calls(load(open_model(str(base)), speech=True, dtype=dtype), data["audio"], NUM_TOKENS)
    return calls


@pytest.fixture(scope="module")
def healed(speaking: Loaded, data: Data) -> PruningPlan:
    """Fewer experts of both decoders and a layer less of the talker, to be healed."""
    shape = speaking.model_info.shape.components
    depth, num_experts = shape["talker"].num_layers, shape["talker"].num_experts
    talker = random_component(shape["talker"], num_experts=num_experts // 2, layers=(0, *range(2, depth)))
    thinker = random_component(shape["thinker"], num_experts=shape["thinker"].num_experts // 2)
    heal = Healing("stream", 0.01, {"audio": digest(data["audio"])}, tokens="both")
    return PruningPlan(speaking.model_info.base_model, True, thinker, talker, heal=heal, talker_heal=heal)


@torch.inference_mode()
def talker_states(loaded: Loaded, said: Said) -> torch.Tensor:
    """What the talker's decoder makes of what the unpruned model says."""
    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "talker")
    calls = said[str(loaded.model.dtype).removeprefix("torch.")]
    states = [decoder(inputs_embeds=call.hidden, **call.arguments).last_hidden_state[0] for call in calls]
    return torch.cat(states)


def test_one_call_computes_what_the_steps_of_an_answer_did(speaking: Loaded, data: Data) -> None:
    decoder: Any = speaking.model_info.family.running.decoder(speaking.model, "talker")
    steps: list[torch.Tensor] = []
    handle = decoder.register_forward_hook(lambda _decoder, _given, output: steps.append(output.last_hidden_state))
    try:
        speak(speaking, encode(speaking.inputs, data["audio"][0], with_answer=False))
    finally:
        handle.remove()
    assert len(steps) > 10
    (call,) = spoken_calls(speaking, data["audio"][:1], NUM_TOKENS)
    with torch.inference_mode():
        at_once = decoder(inputs_embeds=call.hidden, **call.arguments).last_hidden_state
    torch.testing.assert_close(at_once, torch.cat(steps, dim=1), rtol=1e-3, atol=1e-3)


def test_the_healed_talker_is_nearer_to_the_unpruned_one(
    speaking: Loaded, healed: PruningPlan, data: Data, said: Said, tmp_path: Path
) -> None:
    unpruned = talker_states(speaking, said)
    with masked(speaking.model, healed.unhealed()):
        pruned = talker_states(speaking, said)
    with masked(speaking.model, Healer(speaking, data, tmp_path).fit(healed)):
        mended = talker_states(speaking, said)
    assert (mended - unpruned).norm() < 0.8 * (pruned - unpruned).norm()
    assert torch.equal(talker_states(speaking, said), unpruned)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_healed_talker_under_its_mask_equals_the_checkpoints(
    base: Path, healed: PruningPlan, data: Data, said: Said, dtype: str, tmp_path: Path
) -> None:
    loaded = load(open_model(str(base)), speech=True, dtype=dtype)
    plan = Healer(loaded, data, tmp_path / "streams").fit(healed)
    materialise(loaded.model_info.checkpoint.path, plan, tmp_path / "pruned")
    written = load(open_model(str(tmp_path / "pruned")), speech=True, dtype=dtype)
    with masked(loaded.model, plan):
        by_mask = talker_states(loaded, said)
    assert torch.equal(by_mask, talker_states(written, said))


def test_the_talker_is_not_needed_to_score_and_is_to_write(
    base: Path, speaking: Loaded, healed: PruningPlan, data: Data, tmp_path: Path
) -> None:
    loaded = load(open_model(str(base)))
    scored = Healer(loaded, data, tmp_path / "streams").fit(healed)
    assert {component for component, _ in scored.fitted or {}} == {"thinker"}
    with masked(loaded.model, scored):
        pass
    with pytest.raises(InputError, match="heals the talker, but its weights are not fitted yet"):
        materialise(loaded.model_info.checkpoint.path, scored, tmp_path / "pruned")
    with (
        pytest.raises(InputError, match="heals the talker, but its weights are not fitted yet"),
        masked(speaking.model, scored),
    ):
        pass
    shipped = Healer(speaking, data, tmp_path / "streams").fit(healed)
    assert shipped.heal == scored.heal
    assert shipped.talker_heal is not None
    assert shipped.talker_heal.weights is not None
    assert shipped.digest() == scored.digest() == healed.digest()
    again = Healer(speaking, data, tmp_path / "others").fit(healed)
    assert again.talker_heal == shipped.talker_heal


def test_healed_weights_of_both_are_read_back(
    speaking: Loaded, healed: PruningPlan, data: Data, tmp_path: Path
) -> None:
    plan = Healer(speaking, data, tmp_path / "streams").fit(healed)
    materialise(speaking.model_info.checkpoint.path, plan, tmp_path / "pruned")
    read = with_written_weights(replace(plan, fitted=None), speaking.model_info, open_checkpoint(tmp_path / "pruned"))
    assert plan.fitted is not None
    assert read.fitted is not None
    assert read.fitted.keys() == plan.fitted.keys()
    assert all(torch.equal(read.fitted[place], plan.fitted[place]) for place in plan.fitted)
