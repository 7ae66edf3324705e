"""Cut whole decoder layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.models.families.running import Decoder, RunningModel, swap_layers
from autoreap.plan import COMPONENTS, PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Run only the retained layers, renumbered as in the checkpoint: the cache is built from these numbers."""
    with ExitStack() as stack:
        for component, decoder, edit in family.edited_decoders(model, plan):
            if len(edit.layers) == len(decoder.layers):
                continue
            stack.enter_context(_shortened(decoder, family.running, edit.layers))
            # The hidden state that the talker listens to is named by its number.
            if component == "thinker" and family.voice is not None:
                stack.enter_context(family.voice.with_moved_input(model, edit.layers))
        yield


@contextmanager
def _shortened(decoder: Decoder, running: RunningModel, retained: tuple[int, ...]) -> Iterator[None]:
    original, config = decoder.layers, decoder.config
    types = getattr(config, "layer_types", None)
    with swap_layers(decoder, [original[layer] for layer in retained]):
        try:
            # The attention of each layer, from which the masks and the cache are made.
            if types is not None:
                config.layer_types = [types[layer] for layer in retained]
            for number, layer in enumerate(decoder.layers):
                running.number_layer(layer, number)
            yield
        finally:
            if types is not None:
                config.layer_types = types
            for number, layer in enumerate(original):
                running.number_layer(layer, number)


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Drop the tensors of cut layers, renumber the others."""
    edit = plan.component(role.part) if role.part in COMPONENTS else None
    if edit is None or role.layer is None:
        return role
    if role.layer not in edit.layers:
        return None
    return replace(role, layer=edit.layers.index(role.layer))


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Set the depth, and every key that names a layer."""
    for component in COMPONENTS:
        if edit := plan.component(component):
            layout.write_layers(config, component, edit.layers)
    return {}
