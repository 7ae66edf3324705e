"""The checkpoint that ships: complete, exact, and all or nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import identity_plan, random_component
from healed import HEALING, fitted_at_random
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import answer_aloud, random_prompt, save_random_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen3OmniMoeForConditionalGeneration

from autoreap.errors import InputError
from autoreap.masking import masked
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.families import family_of
from autoreap.plan import ComponentPlan, ComponentShape, ModelShape, PruningPlan, Quantisation, load_plan
from autoreap.scores import Metric
from autoreap.writing import shards
from autoreap.writing.materialiser import materialise
from autoreap.writing.model_card import TrialFacts
from autoreap.writing.rewrite import plan_rewrite


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its own: some tests here damage it and mend it again."""
    return save_random_model(tmp_path_factory.mktemp("base") / "model", dtype=torch.bfloat16, seed=7)


@pytest.fixture(scope="module")
def plan(base: Path) -> PruningPlan:
    shape, everything = _shape_and_identity(base)
    thinker = random_component(shape.components["thinker"], num_experts=4, layers=(0, 1, 3, 5), seed=1)
    talker = random_component(shape.components["talker"], num_experts=3, layers=(0, 1, 3), seed=2)
    return PruningPlan(everything.base_model, True, thinker, talker)


def test_every_tensor_is_kept_rewritten_or_deliberately_dropped(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    rewrite = materialise(base, plan, tmp_path / "out").rewrite
    source = load_file(base / "model.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    seen = set()
    for tensor in rewrite.tensors:
        if tensor.source is None:
            assert tensor.name.startswith("thinker.visual.")
            assert not written[tensor.name].any()
            continue
        rows = slice(None) if tensor.rows is None else list(tensor.rows)
        assert torch.equal(written[tensor.name], source[tensor.source.name][rows]), tensor.name
        seen.add(tensor.source.name)
    dropped = source.keys() - seen
    assert len(dropped) == rewrite.num_dropped
    for name in dropped:
        cut_layer = any(f"{part}.model.layers.{n}." in name for part, n in _cut_layers(plan))
        assert name.startswith("thinker.visual.") or ".mlp.experts." in name or cut_layer, name


def test_the_result_loads_in_the_stock_class_with_nothing_missing(
    base: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    materialise(base, plan, tmp_path / "out")
    _, info = Qwen3OmniMoeForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info


def test_the_predicted_size_is_what_is_written(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    predicted = plan_rewrite(open_checkpoint(base), plan)
    materialise(base, plan, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").num_bytes == predicted.size_bytes
    (shard,) = shards.shards_of(predicted.tensors)
    assert (tmp_path / "out" / shard.name).stat().st_size == shard.num_bytes


def test_an_identity_plan_writes_the_same_tensors(base: Path, tmp_path: Path) -> None:
    _, everything = _shape_and_identity(base)
    materialise(base, everything, tmp_path / "out")
    source, written = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert source.keys() == written.keys()
    assert all(torch.equal(source[name], written[name]) for name in source)
    assert open_checkpoint(base).fingerprint == open_checkpoint(tmp_path / "out").fingerprint


def test_config_keys_that_only_other_engines_read_survive(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    config = json.loads((copy / "config.json").read_text())
    config["of_a_serving_engine"] = {"kept": True}
    (copy / "config.json").write_text(json.dumps(config))
    materialise(copy, plan, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["of_a_serving_engine"] == {"kept": True}
    assert written["talker_config"]["accept_hidden_layer"] == 2  # of layers 0, 1, 3, 5 two lie below 3


def test_plan_and_sidecars_travel_with_the_weights(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    (copy / "chat_template.jinja").write_text("template")
    (copy / "pytorch_model.bin").write_text("the base's weights in another format")
    (copy / "README.md").write_text("---\nlicense: other\nlicense_name: heard-and-seen\n---\nThe base model.\n")
    metrics = {"wer": Metric(0.0123, 0.01, 0.02, num_samples=300)}
    materialise(copy, plan, tmp_path / "out", facts=TrialFacts("night/7", metrics, ["wer is as good"]))
    assert load_plan(tmp_path / "out" / "plan.json") == plan
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "template"
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "0.0100 to 0.0200" in card
    assert "Trial `night/7`, against the unpruned model" in card
    assert "\n- wer is as good\n" in card
    assert "license: other\nlicense_name: heard-and-seen\n" in card
    assert "Licence: heard-and-seen" in card
    assert "The base model." not in card


@pytest.mark.parametrize("max_shard_bytes", [60_000, 150_000])
def test_sharded_source_and_result_hold_the_same_tensors(
    base: Path, plan: PruningPlan, tmp_path: Path, max_shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = materialise(base, plan, tmp_path / "whole").rewrite
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", max_shard_bytes)
    _, everything = _shape_and_identity(base)
    materialise(base, everything, tmp_path / "sharded base")
    materialise(tmp_path / "sharded base", plan, tmp_path / "sharded")
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == whole.size_bytes
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for name, shard in index["weight_map"].items():
        with safe_open(tmp_path / "sharded" / shard, framework="pt") as file:
            assert torch.equal(file.get_tensor(name), expected[name]), name


def _save_fused(base: Path, folder: Path) -> Path:
    fused = folder / "fused"
    shutil.copytree(base, fused)
    save_file(_fused(load_file(base / "model.safetensors")), fused / "model.safetensors", {"format": "pt"})
    return fused


def test_fused_experts_on_disk_are_packed_as_those_stored_one_by_one(
    base: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    fused = _save_fused(base, tmp_path)
    bits = Quantisation(experts=4, rest=16, group_size=8)
    own_plan = replace(plan, base_model=replace(plan.base_model, fingerprint=open_checkpoint(fused).fingerprint))
    made = materialise(base, replace(plan, bits=bits), tmp_path / "one by one").rewrite
    from_fused = materialise(fused, replace(own_plan, bits=bits), tmp_path / "from fused").rewrite
    assert from_fused.size_bytes == made.size_bytes
    expected, written = (load_file(tmp_path / name / "model.safetensors") for name in ("one by one", "from fused"))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_fused_experts_on_disk_are_sliced_to_the_same_model(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    fused = _save_fused(base, tmp_path)
    fingerprint = open_checkpoint(fused).fingerprint
    own_plan = replace(plan, base_model=replace(plan.base_model, fingerprint=fingerprint))
    materialise(base, plan, tmp_path / "one by one")
    materialise(fused, own_plan, tmp_path / "from fused")
    expected = _fused(load_file(tmp_path / "one by one" / "model.safetensors"))
    written = load_file(tmp_path / "from fused" / "model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.slow
def test_masked_and_materialised_agree_for_any_plan(base: Path, tmp_path: Path, data: st.DataObject) -> None:
    shape, everything = _shape_and_identity(base)
    plan = data.draw(_plans(shape, everything))
    if data.draw(st.booleans()):
        plan = fitted_at_random(replace(plan, heal=HEALING), open_checkpoint(base))
    if data.draw(st.booleans()):
        choices = [Quantisation(4, 4, 4), Quantisation(4, 8, 8), Quantisation(8, 4, 16), Quantisation(8, 16, 8)]
        plan = replace(plan, bits=data.draw(st.sampled_from(choices)))
    plan = replace(plan, active_experts=data.draw(st.none() | st.integers(1, plan.thinker.num_retained_experts)))
    target = tmp_path / "out"
    shutil.rmtree(target, ignore_errors=True)
    materialise(base, plan, target)
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16)))
    family = family_of(open_checkpoint(base).config)
    model, written = (family.running.load(path, dtype=dtype, device="cpu", speech=True) for path in (base, target))
    with masked(model, plan):
        by_mask = _answers(model)
    by_checkpoint = _answers(written)
    assert by_mask.keys() == by_checkpoint.keys() == {"logits", "text"} | (set() if plan.drop_speech else {"waveform"})
    for name, tensor in by_mask.items():
        assert torch.equal(tensor, by_checkpoint[name]), name


@torch.inference_mode()
def _answers(model: Any) -> dict[str, torch.Tensor]:
    """Logits of a padded batch, and what a prompt is answered, in text and, by a model that can speak, aloud."""
    batch, single = random_prompt(batch_size=2, length=9), random_prompt(batch_size=1, length=7)
    batch["attention_mask"][0, :3] = 0
    return {"logits": model.thinker(**batch).logits, **answer_aloud(model, single, max_steps=5)}


def test_an_unknown_tensor_is_an_error(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    tensors = load_file(base / "model.safetensors") | {"thinker.mystery.weight": torch.zeros(2)}
    save_file(tensors, copy / "model.safetensors")
    own = replace(plan, base_model=replace(plan.base_model, fingerprint=open_checkpoint(copy).fingerprint))
    with pytest.raises(InputError, match=r"thinker\.mystery\.weight"):
        materialise(copy, own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plan_of_another_model_is_refused(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    other = replace(plan, base_model=replace(plan.base_model, fingerprint="another"))
    with pytest.raises(InputError, match="made for another model"):
        materialise(base, other, tmp_path / "out")


def test_an_empty_target_directory_is_fine(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    materialise(base, plan, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def _shape_and_identity(path: Path) -> tuple[ModelShape, PruningPlan]:
    checkpoint = open_checkpoint(path)
    shape = family_of(checkpoint.config).layout.shape(checkpoint.config)
    return shape, identity_plan(checkpoint.fingerprint, shape)


def _cut_layers(plan: PruningPlan) -> list[tuple[str, int]]:
    edits = {"thinker": plan.thinker, "talker": plan.talker}
    return [(part, n) for part, edit in edits.items() if edit for n in set(range(len(edit.experts))) - set(edit.layers)]


def _plans(shape: ModelShape, everything: PruningPlan) -> st.SearchStrategy[PruningPlan]:
    thinker, talker, tap = shape.components["thinker"], shape.components["talker"], shape.speech_tap or 0

    @st.composite
    def plans(draw: st.DrawFn) -> PruningPlan:
        strip, speech = draw(st.booleans()), draw(st.sampled_from(("kept", "pruned", "dropped")))
        layers = set() if strip else set(range(shape.deepstack_layers))
        layers |= draw(st.sets(st.integers(0, tap - 1), min_size=1))
        layers |= draw(st.sets(st.integers(tap, thinker.num_layers - 1), min_size=1))
        talker_layers = draw(st.sets(st.integers(0, talker.num_layers - 1), min_size=1))
        return replace(
            everything,
            strip_vision=strip,
            thinker=_component(draw, thinker, layers),
            talker=_component(draw, talker, talker_layers) if speech == "pruned" else None,
            drop_speech=speech == "dropped",
        )

    return plans()


def _component(draw: st.DrawFn, shape: ComponentShape, layers: set[int]) -> ComponentPlan:
    num_experts, seed = draw(st.integers(1, shape.num_experts)), draw(st.integers(0, 2**16))
    return random_component(shape, num_experts=num_experts, layers=tuple(sorted(layers)), seed=seed)


def _fused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights with each layer's experts in two tensors, as transformers holds them in memory."""
    fused = {name: tensor for name, tensor in tensors.items() if ".mlp.experts." not in name}
    prefixes = {name.split(".mlp.experts.")[0] for name in tensors if ".mlp.experts." in name}
    for prefix in prefixes:
        num_experts = sum(f"{prefix}.mlp.experts." in name and "down_proj" in name for name in tensors)

        def stacked(projection: str, prefix: str = prefix, num_experts: int = num_experts) -> torch.Tensor:
            names = [f"{prefix}.mlp.experts.{expert}.{projection}_proj.weight" for expert in range(num_experts)]
            return torch.stack([tensors[name] for name in names])

        fused[f"{prefix}.mlp.experts.gate_up_proj"] = torch.cat([stacked("gate"), stacked("up")], dim=1)
        fused[f"{prefix}.mlp.experts.down_proj"] = stacked("down")
    return fused
