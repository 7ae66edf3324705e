"""Checkpoints of few bits: which are read, what they count, and what can be made of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import identity_plan, random_component
from compressed_tensors.utils.match import is_match
from healed import HEALING, fitted_at_random
from random_models import QWEN3_OMNI, random_prompt
from safetensors.torch import load_file, save_file
from torch import nn

from autoreap.candidate import Candidate
from autoreap.errors import InputError
from autoreap.healing.read_back import with_written_weights
from autoreap.masking import masked
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.loading import ModelInfo, open_model
from autoreap.models.packed import CODES
from autoreap.plan import PruningPlan, Quantisation, load_plan
from autoreap.planning import check_candidate
from autoreap.writing.materialiser import materialise

BITS = Quantisation(experts=4, rest=8, group_size=8)
PREFIX = "thinker.model.layers.0.mlp.experts.0.gate_proj.weight"


@pytest.fixture(scope="module")
def plan(random_checkpoint: Path) -> PruningPlan:
    """Fewer experts and layers, nothing quantised."""
    shape = QWEN3_OMNI.shape
    thinker = random_component(shape.components["thinker"], num_experts=5, layers=(0, 1, 3, 5), seed=1)
    return PruningPlan(identity_plan(open_checkpoint(random_checkpoint).fingerprint, shape).base_model, True, thinker)


@pytest.fixture(scope="module")
def packed(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole model, packed."""
    everything = identity_plan(open_checkpoint(random_checkpoint).fingerprint, QWEN3_OMNI.shape)
    target = tmp_path_factory.mktemp("packed") / "model"
    materialise(random_checkpoint, replace(everything, bits=BITS), target)
    return target


def test_a_packed_checkpoint_counts_the_weights_that_it_stands_for(random_checkpoint: Path, packed: Path) -> None:
    plain, small = open_checkpoint(random_checkpoint), open_checkpoint(packed)
    count = sum(tensor.num_parameters for tensor in plain.tensors.values())
    assert sum(tensor.num_parameters for tensor in small.tensors.values()) == count
    assert small.is_packed
    assert not plain.is_packed
    assert small.num_bytes < plain.num_bytes


def test_pruning_what_is_packed_equals_packing_what_is_pruned(
    random_checkpoint: Path, packed: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    materialise(random_checkpoint, replace(plan, bits=BITS), tmp_path / "pruned first")
    of_packed = replace(plan, base_model=replace(plan.base_model, fingerprint=open_checkpoint(packed).fingerprint))
    materialise(packed, of_packed, tmp_path / "packed first")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("pruned first", "packed first"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("pruned first", "packed first")]
    assert configs[0] == configs[1]


@torch.inference_mode()
def test_a_mask_on_a_packed_model_computes_what_its_checkpoint_computes(
    packed: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    model_info = open_model(str(packed))
    of_packed = replace(plan, base_model=model_info.base_model)
    materialise(packed, of_packed, tmp_path / "out")
    batch = random_prompt(batch_size=2, length=9)
    model: Any = load_weights(model_info)
    with masked(model, of_packed):
        by_mask = model.thinker(**batch).logits
    written: Any = load_weights(open_model(str(tmp_path / "out")))
    assert torch.equal(by_mask, written.thinker(**batch).logits)


@pytest.mark.parametrize("rest", [8, 16])
def test_of_all_names_those_of_packed_matrices_are_targets_and_all_others_are_ignored(
    random_checkpoint: Path, plan: PruningPlan, rest: Any, tmp_path: Path
) -> None:
    materialise(random_checkpoint, replace(plan, bits=replace(BITS, rest=rest)), tmp_path / "out")
    written = open_checkpoint(tmp_path / "out")
    config = written.config["quantization_config"]
    targets = [target for group in config["config_groups"].values() for target in group["targets"]]
    packed = {name.removesuffix(f".{CODES}") for name in written.tensors if name.endswith(CODES)}
    names = {name.rpartition(".")[0] for name in written.tensors}
    names |= {"", "visual.blocks.0.attn.qkv_proj", "model.layers.0.self_attn.qkv_proj"}  # as engines call them
    if rest < 16:
        packed.add("model.layers.0.self_attn.qkv_proj")
    assert packed < names
    for name in names:
        assert is_match(name, nn.Linear(1, 1), targets) == (name in packed), name
        assert is_match(name, nn.Linear(1, 1), config["ignore"]) == (name not in packed), name


def load_weights(model_info: ModelInfo) -> Any:
    path = model_info.checkpoint.path
    return model_info.family.running.load(path, dtype="float32", device="cpu", speech=False)


@pytest.mark.parametrize("change", [{"bits": BITS}, {"heal": HEALING}])
def test_what_is_packed_is_not_packed_or_healed_again(
    packed: Path, plan: PruningPlan, change: dict[str, Any], tmp_path: Path
) -> None:
    again = replace(
        plan, base_model=replace(plan.base_model, fingerprint=open_checkpoint(packed).fingerprint), **change
    )
    if again.heal:
        again = again.with_fitted({}, {"thinker": "of none"})
    with pytest.raises(InputError, match="plan: the model's weights are quantised already"):
        materialise(packed, again, tmp_path / "out")


@pytest.mark.parametrize("change", [{"bits": 4}, {"bits_rest": 8}, {"heal": "stream", "retention": 0.5}])
def test_what_is_packed_is_not_planned_to_be_packed_or_healed(packed: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="candidate: the model's weights are quantised already"):
        check_candidate(Candidate(**change), open_model(str(packed)).shape)


def test_a_packed_checkpoint_is_not_polished(random_checkpoint: Path, packed: Path) -> None:
    plan = load_plan(packed / "plan.json")
    with pytest.raises(InputError, match="its weights are quantised, and can't be trained"):
        with_written_weights(plan, open_model(str(random_checkpoint)), open_checkpoint(packed))


def test_a_group_that_does_not_divide_a_row_is_refused(
    random_checkpoint: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    uneven = replace(plan, bits=replace(BITS, group_size=7))
    with pytest.raises(InputError, match=r"bits_group: rows of talker.* don't divide into groups of 7"):
        materialise(random_checkpoint, uneven, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_healed_weights_are_packed_after_they_are_fitted(
    random_checkpoint: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(random_checkpoint)
    healed = fitted_at_random(replace(plan, heal=HEALING), checkpoint)
    materialise(random_checkpoint, healed, tmp_path / "healed")
    materialise(random_checkpoint, replace(healed, bits=BITS), tmp_path / "packed")
    fingerprint = open_checkpoint(tmp_path / "healed").fingerprint
    shape = open_model(str(tmp_path / "healed")).shape
    materialise(tmp_path / "healed", replace(identity_plan(fingerprint, shape), bits=BITS), tmp_path / "packed later")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("packed", "packed later"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


GROUP = {"weights": {"num_bits": 4, "type": "int", "symmetric": True}, "targets": ["Linear"]}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"all": GROUP}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "fp8"}, "this is FP8"),
        ({"quant_method": "gptq", "bits": 4}, "this is GPTQ"),
        ({"quant_method": "awq"}, "this is AWQ"),
        ({"quant_method": "bitsandbytes"}, "this is bitsandbytes"),
        (PACKED | {"format": "float-quantized"}, "only pack-quantized is read, not 'float-quantized'"),
        (PACKED | {"config_groups": {"all": GROUP | {"weights": {"type": "float"}}}}, "not of symmetric integers"),
        (PACKED | {"config_groups": {"all": GROUP | {"weights": {"symmetric": False}}}}, "not of symmetric integers"),
        (PACKED | {"config_groups": {"all": GROUP | {"input_activations": {"num_bits": 8}}}}, "activations, too"),
        (PACKED | {"config_groups": None}, "only pack-quantized is read"),
        (["compressed-tensors"], "must be a mapping"),
    ],
)
def test_other_kinds_of_few_bits_are_refused_by_name(packed: Path, config: Any, message: str, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "model")
    document = json.loads((packed / "config.json").read_text()) | {"quantization_config": config}
    (tmp_path / "model" / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"config\.json: quantization_config.*{message}"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("_scale", None, f"tensor {PREFIX}_scale is missing"),
        ("_shape", None, f"tensor {PREFIX}_shape is missing"),
        ("_shape", torch.tensor([3, 1 << 40]), f"tensor {PREFIX}_packed of shape .* can't hold a matrix of shape"),
        ("_shape", torch.tensor([0, 0]), f"tensor {PREFIX}_packed of shape .* can't hold a matrix of shape"),
        ("_shape", torch.tensor([3.0, 4.0]), f"tensor {PREFIX}_shape is of shape .* not two of I64"),
    ],
)
def test_a_damaged_matrix_is_named(
    packed: Path, part: str, change: torch.Tensor | None, message: str, tmp_path: Path
) -> None:
    shutil.copytree(packed, tmp_path / "model")
    tensors = load_file(packed / "model.safetensors")
    del tensors[PREFIX + part]
    if change is not None:
        tensors[PREFIX + part] = change
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path / "model")
