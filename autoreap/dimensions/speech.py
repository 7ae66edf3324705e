"""Drop the talker and the waveform decoder. Audio input and text output do not change."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from autoreap.models.families.family import Family
from autoreap.models.families.layout import SPEAKING_PARTS, CheckpointLayout, Config, Shapes, TensorRole
from autoreap.plan import PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> AbstractContextManager[None]:
    """Take the speaking parts out while the context lasts."""
    if family.voice is None or not plan.drop_speech:
        return nullcontext()
    return family.voice.without_speech(model)


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Drop the talker and the waveform decoder."""
    if plan.drop_speech and role.part in SPEAKING_PARTS:
        return None
    return role


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Say that the model has no speech output; the talker's own keys stay, as some engines read them."""
    if plan.drop_speech:
        layout.write_no_speech(config)
    return {}
