"""What every model family promises: it knows each tensor, and whatever is cut still loads and computes the same."""

from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from builders import random_component
from random_models import QWEN3_OMNI, QWEN3_OMNI_THINKER, random_prompt
from specimen import Specimen
from test_dimensions import DimensionContract, load
from transformers import PreTrainedModel

from autoreap.errors import InputError
from autoreap.masking import masked
from autoreap.models.checkpoint import Checkpoint, open_checkpoint
from autoreap.models.families import Family, family_of
from autoreap.models.loading import Loaded, open_model
from autoreap.plan import ModelShape, PruningPlan
from autoreap.writing.footprint import Footprint


class FamilyContract(DimensionContract):
    """Inherit and name a specimen, which says what it needs to; every test here then runs for its family.

    The tests of `DimensionContract` run too, for an edit of all that the model has: layers, experts, vision, talker.
    """

    specimen: ClassVar[Specimen]

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        """Cut the second layer of each decoder, half of its experts, and vision."""
        edits = {
            name: random_component(
                decoder, num_experts=decoder.num_experts // 2, layers=(0, *range(2, decoder.num_layers))
            )
            for name, decoder in shape.components.items()
        }
        return PruningPlan(plan.base_model, self.specimen.image is not None, edits["thinker"], edits.get("talker"))

    @pytest.fixture(scope="class")
    def checkpoint(self, base: Path) -> Checkpoint:
        return open_checkpoint(base)

    @pytest.fixture(scope="class")
    def family(self, checkpoint: Checkpoint) -> Family:
        return family_of(checkpoint.config)

    def test_the_shape_is_read_from_the_config_and_is_that_of_the_model(self, base: Path, family: Family) -> None:
        assert family.layout.shape(open_checkpoint(base).config) == self.specimen.shape
        model = load(base, torch.bfloat16)
        for name, shape in self.specimen.shape.components.items():
            decoder = family.running.decoder(model, name)
            assert decoder is not None
            assert len(decoder.layers) == shape.num_layers
            routers = [family.running.router(layer) for layer in decoder.layers]
            found = {(router.num_experts, router.top_k) if router else (0, 0) for router in routers}
            assert found == {(shape.num_experts, shape.top_k)}

    def test_a_config_of_another_form_is_refused(self, checkpoint: Checkpoint, family: Family) -> None:
        broken = {key: "broken" if isinstance(value, dict) else value for key, value in checkpoint.config.items()}
        with pytest.raises(InputError, match=r"^config\.json: a value has the wrong type"):
            family.layout.shape(broken)

    def test_every_stored_tensor_has_its_role_and_no_other_name_has_one(
        self, checkpoint: Checkpoint, family: Family
    ) -> None:
        roles = {name: family.layout.role(name) for name in checkpoint.tensors}
        assert {name: role.full_name for name, role in roles.items()} == {name: name for name in roles}
        assert {role.part for role in roles.values()} == self.specimen.parts
        for name, shape in self.specimen.shape.components.items():
            numbered = [role for role in roles.values() if role.part == name and role.layer is not None]
            assert {role.layer for role in numbered} == set(range(shape.num_layers))
            assert {role.expert for role in numbered} - {None} == set(range(shape.num_experts))
        for unknown in ("mystery.weight", f"mystery.{next(iter(roles))}"):
            with pytest.raises(InputError, match=r"unknown tensor 'mystery\."):
                family.layout.role(unknown)

    def test_the_tensors_that_are_expected_are_those_that_the_stock_class_writes(
        self, checkpoint: Checkpoint, family: Family
    ) -> None:
        stored = family.layout.unfuse_all((name, info.shape) for name, info in checkpoint.tensors.items())
        assert family.layout.expected_tensors(checkpoint.config, stored) == stored

    def test_what_is_pruned_loads_in_the_stock_class_with_nothing_missing_or_left_over(
        self, pruned: tuple[PruningPlan, Path]
    ) -> None:
        read: Any = PreTrainedModel.from_pretrained.__func__
        _, info = read(self.specimen.stock, pruned[1], output_loading_info=True)
        assert not any(info.values()), info

    def test_layers_that_are_read_one_by_one_equal_those_that_are_loaded(self, base: Path, family: Family) -> None:
        whole = family.running.decoder(load(base, torch.bfloat16), "thinker")
        empty = family.running.load(base, dtype=torch.bfloat16, device="cpu", speech=False, layers=False)
        streamed = Loaded(open_model(str(base)), empty, cast(Any, None), streamed=True)
        assert whole is not None
        for number, layer in enumerate(whole.layers):
            expected, read = layer.state_dict(), streamed.layer_reader.read(number).state_dict()
            assert read.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(read[name], tensor), f"{name} of layer {number}"

    def test_images_are_refused_without_vision_and_seen_again_afterwards(
        self, base: Path, family: Family, pruned: tuple[PruningPlan, Path]
    ) -> None:
        image = self.specimen.image
        if image is None:
            assert "vision" not in self.specimen.parts
            return
        model = load(base, torch.float32)

        def seen(model: Any) -> Any:
            return cast(Any, family.running.thinker(model)).get_image_features(**image).pooler_output

        before = seen(model)
        with masked(model, pruned[0]), pytest.raises(InputError, match="vision was stripped"):
            seen(model)
        with pytest.raises(InputError, match="vision was stripped"):
            seen(load(pruned[1], torch.float32))
        for one, other in zip(seen(model), before, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("num_frames", [37, 100, 452])
    def test_audio_becomes_as_many_embeddings_as_tokens_were_promised(
        self, base: Path, family: Family, num_frames: int
    ) -> None:
        model = load(base, torch.float32)
        with torch.inference_mode():
            mel = torch.randn(self.specimen.mel_bins, self.specimen.padded_frames or num_frames)
            embeddings = family.running.audio_embeddings(model, mel, num_frames)
        decoder = family.running.decoder(model, "thinker")
        assert decoder is not None
        assert embeddings.shape == (family.layout.num_audio_tokens(num_frames), decoder.config.hidden_size)

    def test_what_it_costs_to_run_is_known_before_and_after(
        self, base: Path, family: Family, pruned: tuple[PruningPlan, Path]
    ) -> None:
        for path in (base, pruned[1]):
            footprint = Footprint.of(open_checkpoint(path))
            thinker: Any = family.running.thinker(load(path, torch.bfloat16))
            with torch.inference_mode():
                cache = thinker(**random_prompt(batch_size=1, length=9), use_cache=True).past_key_values
            held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            assert footprint.kv_bytes(9) == held
            assert footprint.memory_needed(30).working_bytes > 0
            assert 0 < footprint.active_parameters <= sum(p.numel() for p in thinker.parameters())


class TestQwen3Omni(FamilyContract):
    specimen = QWEN3_OMNI


class TestQwen3OmniThinker(FamilyContract):
    specimen = QWEN3_OMNI_THINKER
