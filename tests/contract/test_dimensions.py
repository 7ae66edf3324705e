"""What every way to prune promises: its mask computes what its rewritten checkpoint computes, and undoes itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from builders import identity_plan, random_component
from healed import HEALING, POLISHING, fitted_at_random, polished_at_random
from random_models import END, QWEN3_OMNI, random_prompt
from random_qwen2_audio import QWEN2_AUDIO
from specimen import Specimen
from transformers import CompressedTensorsConfig

from autoreap.masking import family_of_model, masked
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.families import family_of
from autoreap.plan import ModelShape, PruningPlan, Quantisation
from autoreap.writing.materialiser import materialise

DTYPES = (torch.float32, torch.bfloat16)


class DimensionContract:
    """Inherit and say what the edit is; every test here then runs for it.

    Attributes:
        specimen: the model that is edited.
    """

    specimen: ClassVar[Specimen] = QWEN3_OMNI

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        """`plan`, which changes nothing, with this dimension's edit in it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def base(self, saved: Callable[[Specimen], Path]) -> Path:
        """The checkpoint of the specimen."""
        return saved(self.specimen)

    @pytest.fixture(scope="class")
    def pruned(self, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PruningPlan, Path]:
        """The plan, and the checkpoint that it makes."""
        shape = self.specimen.shape
        plan = self.edit(identity_plan(open_checkpoint(base).fingerprint, shape), shape)
        if plan.heal is not None:
            plan = fitted_at_random(plan, open_checkpoint(base))
        if plan.polish is not None:
            plan = polished_at_random(plan, open_checkpoint(base))
        target = tmp_path_factory.mktemp("pruned") / "model"
        materialise(base, plan, target)
        return plan, target

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_masked_logits_text_and_speech_equal_the_checkpoints_in_the_stock_class(
        self, base: Path, pruned: tuple[PruningPlan, Path], dtype: torch.dtype
    ) -> None:
        plan, target = pruned
        model = load(base, dtype)
        with masked(model, plan):
            by_mask = self.everything(model)
        by_checkpoint = self.everything(load_stock(self.specimen, target, dtype))
        assert by_mask.keys() == by_checkpoint.keys()
        for name in by_mask:
            assert torch.equal(by_mask[name], by_checkpoint[name]), name

    def test_unmasking_restores_every_bit(self, base: Path, pruned: tuple[PruningPlan, Path]) -> None:
        model = load(base, torch.float32)
        before, attributes = self.everything(model), _attributes(model)
        with masked(model, pruned[0]):
            pass
        with pytest.raises(RuntimeError, match="inside"), masked(model, pruned[0]):
            raise RuntimeError("inside")
        assert _attributes(model) == attributes
        after = self.everything(model)
        assert after.keys() == before.keys()
        for name in after:
            assert torch.equal(after[name], before[name]), name

    @torch.inference_mode()
    def everything(self, model: Any) -> dict[str, torch.Tensor]:
        """Logits and greedy text of a padded batch, and what is said aloud."""
        batch: dict[str, torch.Tensor] = random_prompt(batch_size=3, length=14)
        batch["attention_mask"][0, :4] = 0
        thinker: Any = family_of_model(model).running.thinker(model)
        return {
            "logits": thinker(**batch).logits,
            "greedy batch": thinker.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=END),
            **self.specimen.aloud(model),
        }


def load(path: Path, dtype: torch.dtype) -> Any:
    """The model as this project loads it, in `dtype`."""
    return family_of(open_checkpoint(path).config).running.load(path, dtype=dtype, device="cpu", speech=True)


def load_stock(specimen: Specimen, path: Path, dtype: torch.dtype) -> Any:
    """The model as anybody loads it; what is packed whole and with nothing left over."""
    if not open_checkpoint(path).is_packed:
        return specimen.stock.from_pretrained(path, dtype=dtype).eval()
    unpacked = CompressedTensorsConfig(dequantize=True)
    model, report = specimen.stock.from_pretrained(
        path, dtype=dtype, output_loading_info=True, quantization_config=unpacked
    )
    assert not any(report.values()), report
    for parameter in model.parameters():  # unpacked experts are in bfloat16 whatever is asked for
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def _attributes(model: Any) -> dict[str, Any]:
    """Everything but tensors that a mask could leave changed."""
    state = {}
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str | None)}
        state[name] = (plain, list(vars(module)), len(module._forward_hooks), list(module._parameters))
    state["config"] = model.config.to_dict()
    return state


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


class TestHealedExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], num_experts=5, layers=(0, 1, 3, 5), seed=4)
        talker = random_component(shape.components["talker"], num_experts=3, seed=5)
        return PruningPlan(plan.base_model, True, thinker, talker, heal=HEALING, talker_heal=HEALING)


class TestHealedWithAllExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(0, 1, 3, 5))
        return PruningPlan(plan.base_model, True, thinker, heal=HEALING)


class TestHealedDense(DimensionContract):
    specimen = QWEN2_AUDIO

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(0, 2, 3))
        return PruningPlan(plan.base_model, False, thinker, heal=HEALING)


class TestPolished(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], num_experts=5, layers=(0, 1, 3, 5), seed=4)
        return PruningPlan(plan.base_model, True, thinker, heal=HEALING, polish=POLISHING)


class TestPolishedWithAllExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return replace(plan, polish=POLISHING)


class TestPolishedDense(DimensionContract):
    specimen = QWEN2_AUDIO

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(0, 2, 3))
        return PruningPlan(plan.base_model, False, thinker, polish=POLISHING)


BITS = Quantisation(experts=4, rest=8, group_size=8)


class TestBits(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return replace(plan, bits=BITS)


class TestEightBitsOfExpertsAlone(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return replace(plan, bits=Quantisation(experts=8, rest=16, group_size=16))


class TestBitsOfWhatIsLeftAndHealed(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], num_experts=5, layers=(0, 1, 3, 5), seed=4)
        talker = random_component(shape.components["talker"], num_experts=3, layers=(0, 2), seed=5)
        healed = PruningPlan(plan.base_model, True, thinker, talker, heal=HEALING, talker_heal=HEALING)
        return replace(healed, polish=POLISHING, bits=BITS)


class TestBitsWithoutSpeech(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], num_experts=5, seed=6)
        return PruningPlan(plan.base_model, True, thinker, drop_speech=True, bits=BITS, active_experts=1)


class TestBitsOfADenseModel(DimensionContract):
    specimen = QWEN2_AUDIO

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(0, 2, 3))
        bits = Quantisation(experts=16, rest=4, group_size=8)
        return PruningPlan(plan.base_model, False, thinker, heal=HEALING, bits=bits)


class TestFewerActiveExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], num_experts=5, layers=(0, 1, 3, 5), seed=1)
        return PruningPlan(plan.base_model, False, thinker, active_experts=1)


class TestMoreActiveExperts(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return replace(plan, active_experts=5)


class TestVision(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, True, plan.thinker)


class TestSpeech(DimensionContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, False, plan.thinker, drop_speech=True)

    def test_a_model_without_speech_does_not_speak_while_masked_and_does_afterwards(
        self, base: Path, pruned: tuple[PruningPlan, Path]
    ) -> None:
        model = load(base, torch.float32)
        prompt = random_prompt(batch_size=1, length=11)
        with masked(model, pruned[0]), pytest.raises(ValueError, match="Cannot use talker"):
            model.generate(**prompt, return_audio=True)
        assert "waveform" in self.everything(model)

    def test_nothing_that_speaks_is_stored(self, pruned: tuple[PruningPlan, Path]) -> None:
        checkpoint = open_checkpoint(pruned[1])
        assert not [name for name in checkpoint.tensors if name.startswith(("talker.", "code2wav."))]
        assert "talker" not in family_of(checkpoint.config).layout.shape(checkpoint.config).components


class TestSpeechWithLayersCutAboveTheTap(DimensionContract):
    """Without a talker nothing listens to the thinker's middle; layers may go on either side of where it did."""

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        assert shape.speech_tap == 3
        thinker = random_component(shape.components["thinker"], layers=(0, 1, 2))
        return PruningPlan(plan.base_model, True, thinker, drop_speech=True)
