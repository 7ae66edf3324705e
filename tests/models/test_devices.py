"""Models whose layers do not lie on one device, as `--device auto` may load them.

Layers on disk are the case that a machine without accelerators has: accelerate's hooks load each before it runs. Mapped
from a file, weights are aligned otherwise than in memory, and products of two matrices round otherwise; those of
`batched_mm` do not. So bits are compared with that one.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from builders import wav_bytes, write_sparse_checkpoint
from measured import assert_same_bits
from PIL import Image
from random_models import save_random_model
from transformers import Qwen3OmniMoeForConditionalGeneration

from autoreap import jobs
from autoreap.calibration.calibrator import Options
from autoreap.calibration.meter import Meter
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.models.loading import Loaded, ModelInfo, default_device, load, open_model, shortage
from autoreap.models.places import choose_device, place_of
from autoreap.models.prompts import audio_of, embedded
from autoreap.plan import ComponentShape
from autoreap.tiny_omni import CHECKPOINT

WHOLE = ("thinker.model.audio_tower", "thinker.model.visual", "thinker.lm_head", "talker", "code2wav")
AROUND = tuple(f"thinker.model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb"))
LAYER = "thinker.model.language_model.layers.{}"
RELATIVE = 1e-4  # float32 rounds at 6e-8, in every layer
RUNNING = QWEN3_OMNI.running
Data = Mapping[str, Sequence[Sample]]


@pytest.fixture(scope="module")
def model_info() -> ModelInfo:
    return open_model("tiny")


@pytest.fixture(scope="module")
def plain(model_info: ModelInfo) -> Loaded:
    loaded = load(model_info, speech=True)
    loaded.model.set_experts_implementation("batched_mm")
    return loaded


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    picture = tmp_path_factory.mktemp("images") / "red.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    sounds = [wav_bytes(number) for number in (6_000, 17_000, 9_000)]
    return {
        "audio": [Sample(id=str(n), where=f"a:{n}", audio=sound, text="one") for n, sound in enumerate(sounds)],
        "video": [Sample(id="v", where="v:1", modality="video", image=picture, text="red")],
    }


def spread(model_info: ModelInfo, folder: Path, on_disk: Sequence[str]) -> Loaded:
    """The model with the modules named `on_disk` there, and the others in memory."""
    layers = [LAYER.format(number) for number in range(model_info.shape.components["thinker"].num_layers)]
    device_map: dict[str, Any] = dict.fromkeys((*WHOLE, *AROUND, *layers), "cpu") | dict.fromkeys(on_disk, "disk")
    model: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(
        model_info.checkpoint.path, device_map=device_map, offload_folder=folder, dtype=torch.float32
    )
    return Loaded(model_info, model.eval(), model_info.family.running.inputs(model_info.checkpoint.path))


PLACES = {
    "some layers": [LAYER.format(number) for number in (1, 2, 5)],
    "last layers": [LAYER.format(number) for number in (6, 7)],
    "all but layers": [*WHOLE[:3], *AROUND],
    "everything": [*WHOLE[:3], *AROUND, *(LAYER.format(number) for number in range(8))],
}


@pytest.mark.parametrize("gates", ["normalised", "raw"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.slow
def test_layers_elsewhere_measure_the_same_bit_for_bit(
    model_info: ModelInfo, plain: Loaded, data: Data, tmp_path: Path, places: str, gates: str
) -> None:
    loaded = spread(model_info, tmp_path, PLACES[places])
    assert any(parameter.is_meta for parameter in loaded.model.parameters())
    options = Options(gates=gates)
    loaded.model.set_experts_implementation("batched_mm")
    assert_same_bits(jobs.calibrated(loaded, data, options=options), jobs.calibrated(plain, data, options=options))


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_other_implementations_of_experts_measure_the_same_within_rounding(
    model_info: ModelInfo, data: Data, tmp_path: Path, implementation: str
) -> None:
    pair = [spread(model_info, tmp_path, PLACES["some layers"]), load(model_info)]
    for each in pair:
        each.model.set_experts_implementation(implementation)
    ours, other = (jobs.calibrated(each, data).components["thinker"] for each in pair)
    np.testing.assert_allclose(ours.layer_cosine, other.layer_cosine, rtol=RELATIVE)
    for modality, sums in ours.modalities.items():
        assert sums.tokens == other.modalities[modality].tokens
        np.testing.assert_array_equal(sums.routed_tokens, other.modalities[modality].routed_tokens)
        np.testing.assert_allclose(sums.gate_norm_sum, other.modalities[modality].gate_norm_sum, rtol=RELATIVE)


@pytest.mark.slow
def test_a_talker_elsewhere_measures_the_same_bit_for_bit(
    model_info: ModelInfo, plain: Loaded, data: Data, tmp_path: Path
) -> None:
    spoken = {"audio": data["audio"][:1]}
    loaded = spread(model_info, tmp_path, ["talker", *PLACES["some layers"]])
    loaded.model.set_experts_implementation("batched_mm")
    ours, other = (jobs.calibrated(each, spoken, ("talker",)) for each in (loaded, plain))
    assert_same_bits(ours, other)


def test_a_model_with_hooks_that_load_nothing_measures_the_same_bit_for_bit(model_info: ModelInfo, data: Data) -> None:
    loaded, hooked = load(model_info), load(model_info)
    dispatch_model(hooked.model, {"": "cpu"}, force_hooks=True)
    assert_same_bits(jobs.calibrated(hooked, data), jobs.calibrated(loaded, data))


def test_experts_elsewhere_run_no_pair_by_itself(tmp_path: Path) -> None:
    """The weights see through the hooks: no slower second way is taken."""
    running = QWEN3_OMNI.running
    path = save_random_model(tmp_path / "model", speech=False)
    device_map: Any = dict.fromkeys((*WHOLE[:3], *AROUND), "cpu")
    device_map |= {LAYER.format(number): "disk" for number in range(6)}
    model: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(
        path, device_map=device_map, offload_folder=tmp_path / "disk"
    )
    decoder: Any = running.decoder(model, "thinker")
    given: list[int] = []
    experts = decoder.layers[0].mlp.experts
    run = experts._old_forward

    def watched(hidden: torch.Tensor, *routing: torch.Tensor) -> Any:
        given.append(len(hidden))
        return run(hidden, *routing)

    experts._old_forward = watched
    meter = Meter(running, ComponentShape(6, 8, 3), "cpu")
    with meter.attach(decoder.layers), torch.inference_mode():
        decoder(inputs_embeds=torch.randn((1, 7, 32)), use_cache=False)
    assert given == [7]


def test_inputs_go_where_the_embeddings_run(model_info: ModelInfo, plain: Loaded, data: Data, tmp_path: Path) -> None:
    """Not where their weights rest."""
    loaded = spread(model_info, tmp_path, PLACES["everything"])
    assert loaded.model.thinker.get_input_embeddings().weight.is_meta
    assert model_info.family.running.device(loaded.model) == torch.device("cpu")
    batch = [loaded.inputs.encode(sample, "what?", sample.text) for sample in (*data["audio"], *data["video"])]
    given = []
    for each in (loaded, plain):
        audio = [audio_of(model_info.family.running, each.model, encoded) for encoded in batch]
        given.append(embedded(model_info.family.running, each.model, each.inputs, batch, audio))
    assert given[0].keys() == given[1].keys()
    assert all(torch.equal(tensor, given[1][name]) for name, tensor in given[0].items())


def test_auto_is_this_machines_cpu_where_there_is_nothing_else(model_info: ModelInfo) -> None:
    if default_device() != "cpu":
        pytest.skip("there is an accelerator")
    loaded = load(model_info, device="auto")
    assert place_of(RUNNING, loaded.model) == "cpu, float32"
    assert shortage(model_info, "auto", "auto") is None


def test_a_model_in_several_places_is_said_to_be_so(model_info: ModelInfo, plain: Loaded, tmp_path: Path) -> None:
    assert place_of(RUNNING, spread(model_info, tmp_path, PLACES["everything"]).model) == "auto, float32"
    assert place_of(RUNNING, plain.model) == "cpu, float32"


def test_an_accelerator_is_told_with_its_name_and_capability(plain: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards of two kinds are two places, and either is found on another machine by its kind of device."""
    monkeypatch.setattr(type(RUNNING), "device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert place_of(RUNNING, plain.model) == "cuda (NVIDIA A100-SXM4-80GB, 8.0), float32"


@pytest.mark.parametrize(
    ("where", "device"),
    [("cpu, bfloat16", "cpu"), ("auto (NVIDIA H200, 9.0), bfloat16", "auto"), ("auto, bfloat16", "auto")],
)
def test_the_device_of_a_place_is_found_with_or_without_a_name(where: str, device: str) -> None:
    assert choose_device(where) == (device, "bfloat16")


def test_where_a_machine_has_no_such_device_its_own_is_taken() -> None:
    if default_device() != "cpu":
        pytest.skip("there is an accelerator")
    assert choose_device("cuda (NVIDIA H200, 9.0), bfloat16") == ("cpu", "auto")
    assert choose_device("cuda, bfloat16") == ("cpu", "auto")


def too_large(folder: Path) -> ModelInfo:
    """160 GB in float32; a hole on the disk."""
    config = json.loads((CHECKPOINT / "config.json").read_text())
    names = {"thinker.model.embed_tokens.weight": (40_000_000_000, 1)}
    return open_model(str(write_sparse_checkpoint(folder, config, names)))


@pytest.mark.parametrize("device", [None, "auto"])
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(device: str | None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the model does not fit: it needs 176\.0 GB .*--device cpu to load it"):
        load(too_large(tmp_path), device=device)


def test_who_asks_for_the_cpu_is_not_asked_whether_it_fits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the stock class expects"):  # the next check, of a checkpoint with a hole
        load(too_large(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("message", "is_refused"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver", True),
        ("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", True),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", False),
        ("No CUDA GPUs are available", False),
    ],
)
@pytest.mark.slow
def test_an_accelerator_that_can_not_be_used_is_no_reason_to_take_the_cpu_in_silence(
    model_info: ModelInfo, monkeypatch: pytest.MonkeyPatch, message: str, is_refused: bool
) -> None:
    if default_device() != "cpu":
        pytest.skip("there is an accelerator")

    def init() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    if is_refused:
        with pytest.raises(InputError, match=f"--device: the accelerator can't be used: {re.escape(message[:30])}"):
            load(model_info)
    else:
        assert place_of(RUNNING, load(model_info).model) == "cpu, float32"
    assert place_of(RUNNING, load(model_info, device="cpu").model) == "cpu, float32"
