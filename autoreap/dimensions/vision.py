"""Drop the vision tower. Audio is unaffected; an image is refused, because the answer would be nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.plan import PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Refuse images and video while the context lasts."""
    closed = family.running.disable_vision(model) if plan.strip_vision else []
    try:
        yield
    finally:
        # What refuses lies on the instance; behind it, the method of the class shows again.
        for module, method in closed:
            delattr(module, method)


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Drop the tower."""
    if plan.strip_vision and role.part == "vision":
        return None
    return role


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Describe the stub that the stock class builds in the tower's place, and add its few tensors."""
    if plan.strip_vision:
        return layout.write_no_vision(config)
    return {}
