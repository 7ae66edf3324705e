"""Drop the vision tower. What is heard does not change; an image is refused, lest it be answered with nonsense."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from transformers import PreTrainedModel

from autoreap.errors import InputError
from autoreap.families.family import Config, Family, TensorRole
from autoreap.plan import PruningPlan


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Refuse images and video while the context lasts."""
    entrances = family.vision_entrances(model) if plan.strip_vision else []
    try:
        for module, method in entrances:
            setattr(module, method, _refuse)
        yield
    finally:
        for module, method in entrances:
            module.__dict__.pop(method, None)


# generate() looks for its own arguments by these names, and passes by what does not take them.
def _refuse(pixel_values: Any = None, pixel_values_videos: Any = None, *_arguments: Any, **_options: Any) -> NoReturn:
    raise InputError("this model's vision was stripped; it can't see images or video", fix="send audio and text alone")


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Drop the tower."""
    return None if plan.strip_vision and role.part == "vision" else role


def rewrite_config(config: Config, family: Family, plan: PruningPlan) -> dict[str, tuple[int, ...]]:
    """Describe the stub that the stock class builds in the tower's place, and add its few tensors."""
    return family.write_no_vision(config) if plan.strip_vision else {}
