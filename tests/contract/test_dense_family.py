"""What the ways to prune promise, on a family without experts: a Qwen2.5-Omni, whole and loaded by the stock class."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import identity_plan, random_component
from random_models import END, random_prompt
from random_qwen2_5_omni import save_random_model
from test_dimensions import DTYPES, DimensionContract
from transformers import Qwen2_5OmniForConditionalGeneration

from autoreap.candidate import Candidate
from autoreap.checkpoint import open_checkpoint
from autoreap.errors import InputError
from autoreap.families import family_of
from autoreap.masking import masked
from autoreap.plan import ModelShape, PruningPlan
from autoreap.planning import make_plan


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("dense") / "model")


class DenseContract(DimensionContract):
    """The inherited contract, with the stock class's own way to load what was written."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_masked_logits_text_and_speech_equal_the_checkpoints(
        self, random_checkpoint: Path, pruned: tuple[PruningPlan, Path], dtype: torch.dtype
    ) -> None:
        plan, target = pruned
        base = _load(random_checkpoint, dtype)
        written = Qwen2_5OmniForConditionalGeneration.from_pretrained(target, dtype=dtype).eval()
        assert list(written.speaker_map) == ["Chelsie"]
        with masked(base, plan):
            by_mask = _everything(base)
        by_checkpoint = _everything(written)
        assert by_mask.keys() == by_checkpoint.keys()
        for name in by_mask:
            assert torch.equal(by_mask[name], by_checkpoint[name]), name

    def test_unmasking_restores_every_bit(self, random_checkpoint: Path, pruned: tuple[PruningPlan, Path]) -> None:
        model = _load(random_checkpoint, torch.float32)
        before, config = _everything(model), model.config.to_dict()
        with pytest.raises(RuntimeError, match="inside"), masked(model, pruned[0]):
            raise RuntimeError("inside")
        assert model.config.to_dict() == config
        for name, tensor in _everything(model).items():
            assert torch.equal(tensor, before[name]), name


class TestThinkerLayers(DenseContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, False, random_component(shape.components["thinker"], layers=(1, 2, 5)))


class TestTalkerLayers(DenseContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        talker = random_component(shape.components["talker"], layers=(1, 3))
        return PruningPlan(plan.base_model, False, plan.thinker, talker)


class TestVisionAndSpeech(DenseContract):
    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(0, 4))
        return PruningPlan(plan.base_model, True, thinker, drop_speech=True)

    def test_nothing_that_speaks_or_sees_is_stored(self, pruned: tuple[PruningPlan, Path]) -> None:
        checkpoint = open_checkpoint(pruned[1])
        roles = {name: family_of(checkpoint.config).role(name) for name in checkpoint.tensors}
        assert not [name for name, role in roles.items() if role.part in ("talker", "speech")]
        assert {role.part for role in roles.values()} == {"thinker", "audio", "vision"}
        assert "thinker.visual.blocks.1.norm1.weight" not in roles


def test_a_retention_below_one_is_refused(random_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint)
    shape = family_of(checkpoint.config).shape(checkpoint.config)
    base_model = identity_plan(checkpoint.fingerprint, shape).base_model
    with pytest.raises(InputError, match="retention: the thinker is dense, it has no experts"):
        make_plan(Candidate.from_parameters({"retention": 0.5}), None, shape, base_model)


def _load(path: Path, dtype: torch.dtype) -> Any:
    return family_of(open_checkpoint(path).config).load(path, dtype=dtype, device="cpu", speech=True)


@torch.inference_mode()
def _everything(model: Any) -> Mapping[str, torch.Tensor]:
    """Logits and greedy text of a padded batch and, with a talker, what it makes of such embeddings."""
    batch = random_prompt(batch_size=3, length=14)
    batch["attention_mask"][0, :4] = 0
    greedy: Callable[..., torch.Tensor] = model.thinker.generate
    outputs = {
        "logits": model.thinker(**batch).logits,
        "greedy batch": greedy(**batch, max_new_tokens=5, do_sample=False, eos_token_id=END),
    }
    if model.has_talker:
        heard = model.thinker.get_input_embeddings()(batch["input_ids"])
        outputs["talker"] = model.talker(inputs_embeds=heard).logits
    return outputs
