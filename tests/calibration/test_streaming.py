"""Calibration with one layer in memory at a time equals the plain pass to the last bit."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import wav_bytes
from measured import assert_same_bits
from PIL import Image
from random_models import small_config
from safetensors.torch import load_file, save_file
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

import autoreap
from autoreap import cli, jobs
from autoreap.calibration.calibrator import Options
from autoreap.calibration.spool import spool_beside
from autoreap.data.samples import Sample
from autoreap.errors import AutoreapError, InputError
from autoreap.files import exclusive
from autoreap.models.loading import Loaded, load, open_model
from autoreap.saliency import load_saliency
from autoreap.tiny_omni import CHECKPOINT

PACKAGE = Path(autoreap.__file__).parent
NUM_LAYERS = 11  # more than spans of layers
Data = Mapping[str, Sequence[Sample]]
OPTIONS = Options(batch_tokens=120, max_unreadable=0.3)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random model of real structure: an expert a tensor in several files; and experts fused."""
    folder = tmp_path_factory.mktemp("models")
    saved = save_deep_model(folder / "separate")
    assert len(list(saved.glob("*.safetensors"))) > 1
    fused = folder / "fused"
    fused.mkdir()
    for path in saved.iterdir():
        if path.suffix != ".safetensors" and "index" not in path.name:
            shutil.copyfile(path, fused / path.name)
    tensors: dict[str, torch.Tensor] = {}
    for path in saved.glob("*.safetensors"):
        tensors |= load_file(path)
    save_file(with_fused_experts(tensors), fused / "model.safetensors", metadata={"format": "pt"})
    return {"separate": saved, "fused": fused}


def save_deep_model(path: Path) -> Path:
    """`NUM_LAYERS` layers, vision added after the first of them, one dense layer; without speech."""
    config = small_config()
    config["enable_audio_output"] = False
    thinker = config["thinker_config"]
    embedded = json.loads((CHECKPOINT / "config.json").read_text())["thinker_config"]
    sizes = {"num_hidden_layers": NUM_LAYERS, "vocab_size": embedded["text_config"]["vocab_size"]}
    thinker["text_config"] |= sizes | {"mlp_only_layers": [4]}
    thinker["audio_config"] |= {"num_mel_bins": embedded["audio_config"]["num_mel_bins"]}
    for key in ("patch_size", "temporal_patch_size", "spatial_merge_size", "in_channels"):
        thinker["vision_config"][key] = embedded["vision_config"][key]
    thinker |= {key: value for key, value in embedded.items() if key.endswith(("_token_id", "_id_per_seconds"))}
    torch.manual_seed(0)
    model = Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(path, max_shard_size="300KB")
    for source in CHECKPOINT.iterdir():
        if source.suffix != ".safetensors" and not (path / source.name).exists():
            shutil.copyfile(source, path / source.name)
    return path


def with_fused_experts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As transformers holds them in memory."""
    fused = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for prefix in sorted({name.partition(".experts.")[0] for name in tensors if ".experts." in name}):

        def stacked(projection: str, prefix: str = prefix) -> torch.Tensor:
            return torch.stack([tensors[f"{prefix}.experts.{expert}.{projection}_proj.weight"] for expert in range(8)])

        fused[f"{prefix}.experts.gate_up_proj"] = torch.cat([stacked("gate"), stacked("up")], dim=1)
        fused[f"{prefix}.experts.down_proj"] = stacked("down")
    return fused


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Audio, text, images and a video of several lengths, two weights, a broken recording."""
    folder = tmp_path_factory.mktemp("images")
    pictures = [folder / f"{colour}.png" for colour in ("red", "blue")]
    for picture in pictures:
        Image.new("RGB", (64, 96), picture.stem).save(picture)
    sounds = [wav_bytes(6_000 + 5_000 * number) for number in range(4)]
    spoken = [Sample(id=str(n), where=f"a:{n}", audio=sound, text="one") for n, sound in enumerate(sounds)]
    return {
        "audio": [
            *spoken,
            Sample(id="broken", where="a:4", audio=b"no audio"),
            Sample(id="text", where="a:5", text="one two three"),
            replace(spoken[2], id="heavy", weight=2.5),
        ],
        "video": [
            Sample(id="image", where="v:1", modality="video", image=pictures[0], text="red"),
            Sample(id="video", where="v:2", modality="video", video=tuple(pictures), text="red blue"),
            Sample(id="again", where="v:3", modality="video", image=pictures[1], weight=3.0),
        ],
        "mixed": [Sample(id="m", where="m:1", modality="mixed", audio=sounds[0], image=pictures[0], text="red")],
    }


def streamed(path: Path | str, **options: Any) -> Loaded:
    return load(open_model(str(path)), stream_layers=True, **options)


@pytest.mark.parametrize("gates", ["normalised", "raw"])
@pytest.mark.parametrize("stored", ["separate", "fused"])
@pytest.mark.parametrize("batch_tokens", [1, 120, 8192])
@pytest.mark.slow
def test_it_measures_what_the_plain_pass_measures_bit_for_bit(
    checkpoints: Mapping[str, Path], data: Data, tmp_path: Path, stored: str, gates: str, batch_tokens: int
) -> None:
    options = replace(OPTIONS, gates=gates, batch_tokens=batch_tokens)
    plain = jobs.calibrated(load(open_model(str(checkpoints[stored]))), data, options=options)
    output = tmp_path / "s.safetensors"
    ours = jobs.calibrated(streamed(checkpoints[stored]), data, options=options, output=output)
    assert_same_bits(ours, plain)
    assert_same_bits(load_saliency(output), plain)
    cosine = ours.components["thinker"].layer_cosine
    assert cosine.shape == (8, NUM_LAYERS)
    assert np.isfinite(cosine[0]).all()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.slow
def test_it_does_so_for_the_embedded_model_in_either_type_with_any_implementation(
    data: Data, tmp_path: Path, dtype: str, implementation: str
) -> None:
    loaded = [load(open_model("tiny"), dtype=dtype), streamed("tiny", dtype=dtype)]
    for each in loaded:
        each.model.set_experts_implementation(implementation)
    options = replace(OPTIONS, spool=tmp_path / "spool", tokens="answer")
    plain, ours = (jobs.calibrated(each, data, options=options) for each in loaded)
    assert_same_bits(ours, plain)
    assert ours.provenance["experts_implementation"] == implementation
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_plain_pass_wrote_is_taken_for_the_same_measurement(
    checkpoints: Mapping[str, Path], data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.safetensors"
    jobs.calibrated(load(open_model(str(checkpoints["fused"]))), data, options=OPTIONS, output=output)
    jobs.calibrated(streamed(checkpoints["fused"]), data, options=OPTIONS, output=output)
    assert "measured before" in capsys.readouterr().err


def test_a_layer_read_alone_holds_the_weights_of_the_stock_model(checkpoints: Mapping[str, Path]) -> None:
    stock: Any = load(open_model(str(checkpoints["separate"]))).model
    for stored in ("separate", "fused"):
        loaded = streamed(checkpoints[stored])
        for number, expected in enumerate(stock.thinker.model.language_model.layers):
            layer = loaded.layer_reader.read(number)
            assert not layer.training
            state = layer.state_dict()
            assert list(state) == list(expected.state_dict())
            assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())


@pytest.mark.slow
def test_loading_without_layers_says_nothing_of_the_tensors_it_leaves(checkpoints: Mapping[str, Path]) -> None:
    path = str(checkpoints["fused"])
    program = f"from autoreap.models.loading import open_model, load\nload(open_model({path!r}), stream_layers=True)"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert "UNEXPECTED" not in result.stdout + result.stderr


def test_the_talker_is_refused_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--stream-layers: the talker can't be calibrated or healed layer by layer"):
        streamed("tiny", speech=True)
    rows = PACKAGE.parent / "calibration" / "tiny" / "audio.parquet"
    arguments = ["calibrate", "tiny", "--audio", str(rows), "--calibration-samples", "1", "--component", "both"]
    assert cli.main([*arguments, "--stream-layers"]) == 2
    assert "the talker can't be calibrated or healed layer by layer" in capsys.readouterr().err


def test_calibration_without_audio_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--audio: calibration needs audio data"):
        jobs.calibrated(streamed("tiny"), {"mixed": data["mixed"]}, output=tmp_path / "s.safetensors")


def test_hidden_states_need_a_place(data: Data) -> None:
    with pytest.raises(InputError, match="spool: calibration layer by layer needs a folder"):
        jobs.calibrated(streamed("tiny"), data)


def without(path: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a checkpoint of one file, after `change` of its tensors."""
    shutil.copytree(path, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


LAST = "thinker.model.layers.10.mlp.experts.down_proj"
EXTRA = "thinker.model.layers.10.self_attn.q_proj.bias"
FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (
        lambda tensors: tensors.pop(LAST),
        r"tensor thinker.model.layers.10.mlp.experts.\d+.down_proj.weight is missing",
    ),
    "shape": (lambda tensors: tensors.update({LAST: tensors[LAST][:1]}), r"experts.\d+.down_proj.weight is missing"),
    "extra": (lambda tensors: tensors.update({EXTRA: torch.zeros(4)}), r"of shape \(4,\) fits no parameter"),
    "type": (lambda tensors: tensors.update({LAST: tensors[LAST].long()}), "is of type I64"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_layer_that_is_not_whole_is_refused_and_the_spool_goes(
    checkpoints: Mapping[str, Path], data: Data, tmp_path: Path, fault: str
) -> None:
    change, message = FAULTS[fault]
    path = without(checkpoints["fused"], tmp_path / "model", change)
    output = tmp_path / "out" / "s.safetensors"
    output.parent.mkdir()
    with pytest.raises(InputError, match=message):
        jobs.calibrated(streamed(path), data, options=OPTIONS, output=output)
    assert list(output.parent.iterdir()) == []


def test_a_row_that_breaks_it_leaves_no_spool(data: Data, tmp_path: Path) -> None:
    output = tmp_path / "s.safetensors"
    with pytest.raises(InputError, match="rows so far can't be read"):
        jobs.calibrated(streamed("tiny"), data, options=replace(OPTIONS, max_unreadable=0.0), output=output)
    assert list(tmp_path.iterdir()) == []


def test_a_spool_in_use_is_refused_and_what_a_killed_process_left_goes(data: Data, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "audio-3-7.safetensors").write_bytes(b"left")
    options = replace(OPTIONS, spool=spool)
    with (
        exclusive(tmp_path / "spool.lock", "", fix=""),
        pytest.raises(InputError, match="another calibration keeps its hidden states here"),
    ):
        jobs.calibrated(streamed("tiny"), data, options=options)
    assert [path.name for path in spool.iterdir()] == ["audio-3-7.safetensors"]
    jobs.calibrated(streamed("tiny"), data, options=options)
    assert not spool.exists()


def test_hidden_states_that_can_not_fit_are_refused_before_a_row_is_embedded(tmp_path: Path) -> None:
    """Thousands of rows of two hours each; the recording is a file of zeros that takes no room."""
    num_samples = 7_200 * 1_000
    header = bytearray(wav_bytes(1)[:44])
    header[24:28] = (1_000).to_bytes(4, "little")  # samples a second
    header[40:44] = (2 * num_samples).to_bytes(4, "little")
    recording = tmp_path / "long.wav"
    recording.write_bytes(header)
    os.truncate(recording, len(header) + 2 * num_samples)
    samples = [Sample(id=str(number), where=f"a:{number}", audio=recording) for number in range(3_000)]
    free = shutil.disk_usage(tmp_path).free
    needed = 3_000 * 7_200 * 13 * 9 * 4 * streamed("tiny").model.config.thinker_config.text_config.hidden_size
    assert needed > free
    with pytest.raises(InputError, match=r"hidden states need .* GB on disk, .* GB are free \(free some space"):
        jobs.calibrated(streamed("tiny"), {"audio": samples}, output=tmp_path / "s.safetensors")
    assert list(tmp_path.iterdir()) == [recording]


def test_a_disk_that_fills_up_meanwhile_is_one_line_and_the_spool_goes(data: Data, tmp_path: Path) -> None:
    """A file can't grow over 50 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(AutoreapError, match="hidden states can't be written"):
            jobs.calibrated(streamed("tiny"), data, options=Options(max_unreadable=0.3), output=tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import gc, resource, sys, torch
from pathlib import Path
from autoreap import jobs
from autoreap.calibration.calibrator import Options
from autoreap.models.loading import open_model, load
from autoreap.models.families.family import Family

model, folder, streams = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "streamed"
most = 0

def look(module, _arguments):
    global most
    if type(module).__name__.endswith("TopKRouter"):
        alive = [each for each in gc.get_objects() if type(each) is torch.nn.Parameter and not each.is_meta]
        most = max(most, sum(each.nbytes for each in alive))

data = jobs.read_calibration({"audio": folder / "rows.jsonl"})
loaded = load(open_model(model), stream_layers=streams)
torch.nn.modules.module.register_module_forward_pre_hook(look)
saliency = jobs.calibrated(loaded, data, options=Options(spool=folder / "spool", batch_tokens=200))
print(most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, saliency.digest())
"""


def memory_of(model: Path, folder: Path, how: str) -> tuple[int, int, str]:
    """Most bytes of parameters alive in any router's forward pass, peak bytes of the process, and what it measured."""
    command = [sys.executable, "-c", MEASURE, str(model), str(folder), how]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout
    parameters, resident, digest = output.split()
    return int(parameters), int(resident), digest


@pytest.mark.slow
def test_no_two_layers_are_in_memory_at_once(checkpoints: Mapping[str, Path], tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": "one two three four " * 4} for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = checkpoints["separate"]
    (plain, _, expected), (ours, _, digest) = (memory_of(path, tmp_path, how) for how in ("plain", "streamed"))
    stock: Any = load(open_model(str(path))).model
    layers = [sum(each.nbytes for each in layer.parameters()) for layer in stock.thinker.model.language_model.layers]
    assert digest == expected
    assert plain == sum(each.nbytes for each in stock.parameters())
    assert ours == plain - sum(layers) + max(layers)


@pytest.mark.slow
def test_the_command_line_streams(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = PACKAGE.parent / "calibration" / "tiny" / "audio.parquet"
    data = ["tiny", "--audio", str(rows), "--calibration-samples", "3"]
    for name, options in (("plain", []), ("streamed", ["--stream-layers"])):
        assert cli.main(["calibrate", *data, "-o", str(tmp_path / name), *options]) == 0
        assert cli.main(["prune", *data, "--preset", "medium", "-o", str(tmp_path / f"{name} model"), *options]) == 0
    printed = capsys.readouterr().out
    assert_same_bits(load_saliency(tmp_path / "streamed"), load_saliency(tmp_path / "plain"))
    plans = [(tmp_path / f"{name} model" / "plan.json").read_text() for name in ("plain", "streamed")]
    assert plans[0] == plans[1]
    assert "the base model was never completely in memory" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "plain model", "streamed", "streamed model"]


def test_a_spool_lies_beside_its_output() -> None:
    assert spool_beside(Path("a/s.safetensors")) == Path("a/.s.safetensors.spool")
