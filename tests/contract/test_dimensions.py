"""What every way to prune promises: its mask computes what its rewritten checkpoint computes, and undoes itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import identity_plan, random_component
from random_models import END, answer_aloud, random_prompt

from autoreap.checkpoint import open_checkpoint
from autoreap.errors import InputError
from autoreap.families import family_of
from autoreap.masking import masked
from autoreap.materialise import materialise
from autoreap.plan import ModelShape, PruningPlan

PlanOf = Callable[[PruningPlan, ModelShape], PruningPlan]
DTYPES = (torch.float32, torch.bfloat16)


class DimensionContract:
    """Inherit and say what the edit is; every test here then runs for it."""

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        """`plan`, which changes nothing, with this dimension's edit in it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def pruned(self, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PruningPlan, Path]:
        checkpoint = open_checkpoint(random_checkpoint)
        shape = family_of(checkpoint.config).shape(checkpoint.config)
        plan = self.edit(identity_plan(checkpoint.fingerprint, shape), shape)
        target = tmp_path_factory.mktemp("pruned") / "model"
        materialise(random_checkpoint, plan, target)
        return plan, target

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_masked_logits_text_and_speech_equal_the_checkpoints(
        self, random_checkpoint: Path, pruned: tuple[PruningPlan, Path], dtype: torch.dtype
    ) -> None:
        plan, target = pruned
        base, written = _load(random_checkpoint, dtype), _load(target, dtype)
        with masked(base, plan):
            by_mask = _everything(base)
        by_checkpoint = _everything(written)
        assert by_mask.keys() == by_checkpoint.keys()
        for name in by_mask:
            assert torch.equal(by_mask[name], by_checkpoint[name]), name

    def test_unmasking_restores_every_bit(self, random_checkpoint: Path, pruned: tuple[PruningPlan, Path]) -> None:
        model = _load(random_checkpoint, torch.float32)
        before, attributes = _everything(model), _attributes(model)
        with masked(model, pruned[0]):
            pass
        with pytest.raises(RuntimeError, match="inside"), masked(model, pruned[0]):
            raise RuntimeError("inside")
        assert _attributes(model) == attributes
        for name, tensor in _everything(model).items():
            assert torch.equal(tensor, before[name]), name


class TestThinkerExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, False, random_component(shape.components["thinker"], num_experts=5, seed=1))


class TestFewerExpertsThanTopK(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, False, random_component(shape.components["thinker"], num_experts=2, seed=2))


class TestTalkerExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        talker = random_component(shape.components["talker"], num_experts=3, seed=3)
        return PruningPlan(plan.base_model, False, plan.thinker, talker)


class TestThinkerLayersWithFirstOneCut(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(1, 2, 4, 5))
        return PruningPlan(plan.base_model, True, thinker)


class TestTalkerLayers(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(
            plan.base_model, False, plan.thinker, random_component(shape.components["talker"], layers=(0, 2))
        )


class TestVision(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, True, plan.thinker)

    def test_an_image_is_refused_while_masked_and_seen_afterwards(
        self, random_checkpoint: Path, pruned: tuple[PruningPlan, Path]
    ) -> None:
        model = _load(random_checkpoint, torch.float32)
        image = {"pixel_values": torch.randn(16, 1536), "image_grid_thw": torch.tensor([[1, 4, 4]])}
        with masked(model, pruned[0]), pytest.raises(InputError, match="vision was stripped"):
            model.thinker.get_image_features(**image)
        assert model.thinker.get_image_features(**image).pooler_output[0].shape == (4, 32)


class TestSpeech(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, False, plan.thinker, drop_speech=True)

    def test_a_model_without_speech_does_not_speak_while_masked_and_does_afterwards(
        self, random_checkpoint: Path, pruned: tuple[PruningPlan, Path]
    ) -> None:
        model = _load(random_checkpoint, torch.float32)
        prompt = random_prompt(batch_size=1, length=11)
        with masked(model, pruned[0]), pytest.raises(ValueError, match="Cannot use talker"):
            model.generate(**prompt, return_audio=True)
        assert "waveform" in _everything(model)

    def test_nothing_that_speaks_is_stored(self, pruned: tuple[PruningPlan, Path]) -> None:
        checkpoint = open_checkpoint(pruned[1])
        assert not [name for name in checkpoint.tensors if name.startswith(("talker.", "code2wav."))]
        assert "talker" not in family_of(checkpoint.config).shape(checkpoint.config).components


class TestSpeechWithLayersCutAboveTheTap(DimensionContract):
    """Without a talker nothing listens to the thinker's middle; layers may go on either side of where it did."""

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        assert shape.speech_tap == 3
        thinker = random_component(shape.components["thinker"], layers=(0, 1, 2))
        return PruningPlan(plan.base_model, True, thinker, drop_speech=True)


class TestEverythingAtOnce(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], num_experts=4, layers=(0, 2, 3, 5), seed=4)
        talker = random_component(shape.components["talker"], num_experts=2, layers=(1, 2, 3), seed=5)
        return PruningPlan(plan.base_model, True, thinker, talker)


def _load(path: Path, dtype: torch.dtype) -> Any:
    return family_of(open_checkpoint(path).config).load(path, dtype=dtype, device="cpu", speech=True)


@torch.inference_mode()
def _everything(model: Any) -> dict[str, torch.Tensor]:
    """Logits and greedy text of a padded batch, text and waveform of a single prompt."""
    batch, single = random_prompt(batch_size=3, length=14), random_prompt(batch_size=1, length=11)
    batch["attention_mask"][0, :4] = 0
    return {
        "logits": model.thinker(**batch).logits,
        "greedy batch": model.thinker.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=END),
        **answer_aloud(model, single, max_steps=6),
    }


def _attributes(model: Any) -> dict[str, Any]:
    """Everything but tensors that a mask could leave changed."""
    state = {}
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str | None)}
        state[name] = (plain, list(vars(module)), len(module._forward_hooks), list(module._parameters))
    state["config"] = model.config.to_dict()
    return state
