"""A family without experts: a Qwen2.5-Omni, whole and the thinker alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from builders import identity_plan, random_component
from random_qwen2_5_omni import QWEN2_5_OMNI, QWEN2_5_OMNI_THINKER, TIED_THINKER, TIED_THINKER_STORED_TWICE
from specimen import Specimen
from test_dimensions import DimensionContract
from test_families import FamilyContract

from autoreap.candidate import Candidate
from autoreap.errors import InputError
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.families import family_of
from autoreap.plan import ModelShape, PruningPlan
from autoreap.planning import make_plan


class TestQwen25Omni(FamilyContract):
    specimen = QWEN2_5_OMNI


class TestQwen25OmniThinker(FamilyContract):
    specimen = QWEN2_5_OMNI_THINKER


class TestTiedThinker(FamilyContract):
    specimen = TIED_THINKER


class TestTiedThinkerStoredTwice(FamilyContract):
    specimen = TIED_THINKER_STORED_TWICE


class TestThinkerLayersBesideVision(DimensionContract):
    specimen = QWEN2_5_OMNI

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        return PruningPlan(plan.base_model, False, random_component(shape.components["thinker"], layers=(1, 2, 5)))


class TestVisionAndSpeech(DimensionContract):
    specimen = QWEN2_5_OMNI

    def edit(self, plan: PruningPlan, shape: ModelShape) -> PruningPlan:
        thinker = random_component(shape.components["thinker"], layers=(0, 4))
        return PruningPlan(plan.base_model, True, thinker, drop_speech=True)

    def test_nothing_that_speaks_or_sees_is_stored(self, pruned: tuple[PruningPlan, Path]) -> None:
        checkpoint = open_checkpoint(pruned[1])
        roles = {name: family_of(checkpoint.config).layout.role(name) for name in checkpoint.tensors}
        assert {role.part for role in roles.values()} == {"thinker", "audio", "vision"}
        assert "thinker.visual.blocks.1.norm1.weight" not in roles


def test_the_voices_travel_with_the_checkpoint_and_are_not_read(saved: Callable[[Specimen], Path]) -> None:
    path = saved(QWEN2_5_OMNI)
    assert list(QWEN2_5_OMNI.stock.from_pretrained(path).speaker_map) == ["Chelsie"]


def test_a_retention_below_one_is_refused() -> None:
    shape = QWEN2_5_OMNI.shape
    base_model = identity_plan("fingerprint", shape).base_model
    with pytest.raises(InputError, match="retention: the thinker is dense, it has no experts"):
        make_plan(Candidate.from_parameters({"retention": 0.5}), None, shape, base_model)
