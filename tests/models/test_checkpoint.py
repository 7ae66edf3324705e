import json
import struct
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from autoreap.errors import InputError
from autoreap.models.checkpoint import INDEX_NAME, SINGLE_NAME, open_checkpoint, resolve_model
from autoreap.models.headers import read_header

Weights = Mapping[str, NDArray[np.float32]]
ROUTER = "thinker.model.layers.0.mlp.gate.weight"


def weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    shapes = {"thinker.lm_head.weight": (512, 600), "thinker.model.norm.weight": (8,), ROUTER: (4, 8)}
    return {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}


def write(folder: Path, tensors: Weights, *shards: list[str]) -> Path:
    """A checkpoint in one file, or with the named tensors in a shard each and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "some_model"}')
    if not shards:
        save_file(dict(tensors), folder / SINGLE_NAME)
        return folder
    for number, names in enumerate(shards):
        save_file({name: tensors[name] for name in names}, folder / f"{number}.safetensors")
    index = {name: f"{number}.safetensors" for number, names in enumerate(shards) for name in names}
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def write_sharded(folder: Path, tensors: Weights | None = None) -> Path:
    tensors = weights() if tensors is None else tensors
    head, *rest = sorted(tensors)
    return write(folder, tensors, rest, [head])


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_headers_tell_where_every_tensor_lies(sharded: bool, tmp_path: Path) -> None:
    expected = weights()
    checkpoint = open_checkpoint(write_sharded(tmp_path) if sharded else write(tmp_path, expected))
    assert checkpoint.config == {"model_type": "some_model"}
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in checkpoint.tensors.items():
        assert (tensor.dtype, tensor.shape, tensor.num_parameters) == ("F32", expected[name].shape, expected[name].size)
        stored = tensor.shard.read_bytes()[tensor.offset : tensor.offset + tensor.num_bytes]
        assert stored == expected[name].tobytes()
    assert checkpoint.num_bytes == sum(array.nbytes for array in expected.values())


def test_the_tensors_of_a_shard_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    tensors = read_header(write(tmp_path, weights()) / SINGLE_NAME)
    ends = [tensor.offset + tensor.num_bytes for tensor in tensors]
    assert [tensor.offset for tensor in tensors][1:] == ends[:-1]


def test_the_fingerprint_is_the_same_however_the_model_is_sharded(tmp_path: Path) -> None:
    whole, sharded = write(tmp_path / "a", weights()), write_sharded(tmp_path / "b")
    assert open_checkpoint(whole).fingerprint == open_checkpoint(sharded).fingerprint
    again = write(tmp_path / "c", dict(reversed(weights().items())))
    assert open_checkpoint(whole).fingerprint == open_checkpoint(again).fingerprint


def test_the_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    one_value, renamed, other_shape = weights(), weights(), weights()
    one_value[ROUTER][3, 7] += 1e-6
    renamed["thinker.model.other.weight"] = renamed.pop("thinker.model.norm.weight")
    other_shape[ROUTER] = other_shape[ROUTER].reshape(8, 4)
    models = [weights(), one_value, renamed, other_shape, {ROUTER: weights()[ROUTER]}]
    fingerprints = {
        open_checkpoint(write(tmp_path / str(number), tensors)).fingerprint for number, tensors in enumerate(models)
    }
    assert len(fingerprints) == 5


@pytest.mark.parametrize("kept_bytes", [0, 7, 50, 1000, -1])
def test_a_truncated_file_is_refused_by_name(kept_bytes: int, tmp_path: Path) -> None:
    path = write(tmp_path, weights()) / SINGLE_NAME
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match=f"^{path}: .*truncated.*fetch it again"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"not a safetensors file at all", struct.pack("<Q", 4) + b"\xff{}x"])
def test_a_file_of_another_kind_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, weights()) / SINGLE_NAME
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: "):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    shard = write_sharded(tmp_path) / "1.safetensors"
    shard.unlink()
    with pytest.raises(InputError, match=f"^{shard}: this shard is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"new.weight": "0.safetensors"}, "tensor new.weight is listed in 0.safetensors, stored in none"),
        ({ROUTER: None}, f"tensor {ROUTER} is listed in no shard, stored in "),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(
    listed: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    index = write_sharded(tmp_path) / INDEX_NAME
    weight_map = json.loads(index.read_text())["weight_map"] | listed
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {name: shard for name, shard in weight_map.items() if shard}})
    )
    with pytest.raises(InputError, match=f"^{index}: {message}"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_stored_twice_is_refused_with_both_shards(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({**weights()}, tmp_path / "1.safetensors")
    with pytest.raises(InputError, match=r"1\.safetensors: tensor .* is also in 0\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", INDEX_NAME])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000], ids=["empty", "cut", "list", "deep"])
def test_json_that_is_broken_is_refused_by_name(name: str, content: str, tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"^{tmp_path / name}:"):
        open_checkpoint(tmp_path)


def test_an_index_without_a_weight_map_is_refused_by_name(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / INDEX_NAME).write_text("{}")
    with pytest.raises(InputError, match="has no weight_map"):
        open_checkpoint(tmp_path)


def test_a_folder_that_holds_no_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file; this is not a model directory"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="none: no such model directory"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=SINGLE_NAME):
        open_checkpoint(tmp_path)


def test_a_directory_and_the_embedded_model_resolve_to_their_place(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    assert open_checkpoint(resolve_model("tiny")).tensors


@pytest.mark.parametrize("model", ["nothing", "./nothing", "/nothing/here", "~/nothing", "a/b/c"])
def test_what_is_neither_a_directory_nor_a_hub_name_is_refused(model: str) -> None:
    with pytest.raises(InputError, match=f"^{model}: no such model directory .*hub name as in org/name, or tiny"):
        resolve_model(model)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(InputError, match="no such model directory"):
        resolve_model(str(tmp_path / "model"))


@pytest.mark.parametrize("model", ["org/no-such-model", "org/not a name"])
def test_a_hub_name_that_cannot_be_fetched_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    with pytest.raises(InputError, match=f"^{model}: no such directory, and the hub could not provide it: "):
        resolve_model(model)


def header_of(path: Path, header: str, num_bytes: int) -> None:
    encoded = header.encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(num_bytes))


def entry(dtype: str = "F32", shape: str = "[2]", offsets: str = "[0, 8]") -> str:
    return f'{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}'


@pytest.mark.parametrize(
    ("header", "num_bytes", "message"),
    [
        (f'{{"a": {entry()}, "a": {entry()}}}', 8, "a.* twice"),
        (f'{{"a": {entry()}, "b": {entry()}}}', 8, "tensor [ab] begins at byte"),
        (f'{{"a": {entry()}, "b": {entry(offsets="[4, 12]")}}}', 12, "tensor b begins at byte"),
        (f'{{"a": {entry()}, "b": {entry(offsets="[12, 20]")}}}', 20, "tensor b begins at byte"),
        (f'{{"a": {entry(offsets="[4, 12]")}}}', 12, "tensor a begins at byte"),
        (f'{{"a": {entry(offsets="[-8, 0]")}}}', 8, "tensor a has invalid data_offsets"),
        (f'{{"a": {entry(offsets="[8, 0]")}}}', 8, "tensor a has invalid data_offsets"),
        (f'{{"a": {entry(offsets="[0.0, 8.0]")}}}', 8, "tensor a has invalid data_offsets"),
        (f'{{"a": {entry(offsets="[0]")}}}', 8, "tensor a has invalid data_offsets"),
        (f'{{"a": {entry(shape="[-2]", offsets="[0, 0]")}}}', 0, "tensor a has an invalid shape"),
        (f'{{"a": {entry(shape="[true, 2]")}}}', 8, "tensor a has an invalid shape"),
        (f'{{"a": {entry(shape="null")}}}', 8, "tensor a has an invalid shape"),
        (f'{{"a": {entry(shape="[3]")}}}', 8, r"tensor a of shape \(3,\) in F32 has 8 bytes"),
        (f'{{"a": {entry(shape="[0]")}}}', 8, "tensor a of shape"),
        (f'{{"a": {entry("F33")}}}', 8, "tensor a has an unknown type, 'F33'"),
        (f'{{"a": {entry("f32")}}}', 8, "tensor a has an unknown type"),
        ('{"a": 7}', 0, "header is not that"),
        ("[]", 0, "header is not that"),
        (f'{{"__metadata__": {{"format": 1}}, "a": {entry()}}}', 8, "__metadata__ must be"),
        (f'{{"a": {entry()}}}', 9, "has 1 bytes after its last tensor"),
        (f'{{"a": {entry()}}}', 7, "truncated"),
    ],
)
def test_what_safetensors_refuses_is_refused_with_tensor_and_file(
    header: str, num_bytes: int, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, weights()) / SINGLE_NAME
    header_of(path, header, num_bytes)
    with pytest.raises(InputError, match=f"^{path}: .*{message}"):
        open_checkpoint(tmp_path)
    if "twice" not in message:  # the library keeps the last
        with pytest.raises(SafetensorError):
            safe_open(path, framework="numpy")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("x.weight", "F8_E4M3"), ("x.weight", "F8_E5M2"), ("x.weight", "I8"), ("x.weight", "U8"), ("x.weight", "F4")),
        *(("x.qweight", "I32"), ("x.weight_scale_inv", "F32"), ("x.weight_scale", "BF16"), ("x.scales", "F16")),
    ],
)
def test_codes_and_scales_of_quantised_weights_are_refused_with_tensor_and_file(
    name: str, dtype: str, tmp_path: Path
) -> None:
    path = write(tmp_path, weights()) / SINGLE_NAME
    bits = {"F32": 32, "I32": 32, "BF16": 16, "F16": 16, "F4": 4}.get(dtype, 8)
    header_of(path, f'{{"{name}": {entry(dtype, "[8]", f"[0, {bits}]")}}}', bits)
    with pytest.raises(InputError, match=f"^{path}: tensor {name} is stored in {dtype}: quantised"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("part", [None, "thinker_config"])
def test_a_config_of_quantised_weights_is_refused(part: str | None, tmp_path: Path) -> None:
    write(tmp_path, weights())
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps({part: quantised} if part else quantised))
    with pytest.raises(InputError, match=r"config\.json: quantization_config: quantised models are not read"):
        open_checkpoint(tmp_path)


def test_an_index_without_metadata_is_refused_since_the_stock_class_looks_into_it(tmp_path: Path) -> None:
    index = write_sharded(tmp_path) / INDEX_NAME
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    with pytest.raises(InputError, match=rf'^{index}: has no metadata .*"metadata": {{}}'):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", INDEX_NAME])
def test_a_key_that_is_there_twice_is_refused(name: str, tmp_path: Path) -> None:
    write_sharded(tmp_path)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text('{"a": 1, "a": 2, ' + text[1:])
    with pytest.raises(InputError, match=f"^{tmp_path / name}: key 'a' is there twice"):
        open_checkpoint(tmp_path)
