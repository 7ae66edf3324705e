"""Cut whole decoder layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from autoreap.models.families.family import Config, Decoder, Family, TensorRole
from autoreap.plan import COMPONENTS, PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Run the retained layers alone, numbered as they will be: the cache is built from these numbers."""
    with ExitStack() as stack:
        for component in COMPONENTS:
            decoder, edit = family.decoder(model, component), plan.component(component)
            if decoder is None or edit is None or len(edit.layers) == len(decoder.layers):
                continue
            stack.enter_context(_shortened(decoder, family, edit.layers))
            if component == "thinker":
                stack.enter_context(_moved_talker_input(model, family, edit.layers))
        yield


@contextmanager
def _shortened(decoder: Decoder, family: Family, retained: tuple[int, ...]) -> Iterator[None]:
    from torch import nn

    original, config = decoder.layers, decoder.config
    depth, types = config.num_hidden_layers, getattr(config, "layer_types", None)
    try:
        decoder.layers = nn.ModuleList([original[layer] for layer in retained])
        config.num_hidden_layers = len(retained)
        if types is not None:  # the attention of each layer, from which the masks and the cache are made
            config.layer_types = [types[layer] for layer in retained]
        for number, layer in enumerate(decoder.layers):
            family.number_layer(layer, number)
        yield
    finally:
        decoder.layers, config.num_hidden_layers = original, depth
        if types is not None:
            config.layer_types = types
        for number, layer in enumerate(original):
            family.number_layer(layer, number)


@contextmanager
def _moved_talker_input(model: PreTrainedModel, family: Family, retained: tuple[int, ...]) -> Iterator[None]:
    tap = family.talker_input_layer(model)
    if tap is None:
        yield
        return
    try:
        family.set_talker_input_layer(model, sum(layer < tap for layer in retained))
        yield
    finally:
        family.set_talker_input_layer(model, tap)


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Drop the tensors of cut layers, renumber the others."""
    edit = plan.component(role.part) if role.part in COMPONENTS else None
    if edit is None or role.layer is None:
        return role
    return replace(role, layer=edit.layers.index(role.layer)) if role.layer in edit.layers else None


def rewrite_config(config: Config, family: Family, plan: PruningPlan) -> dict[str, tuple[int, ...]]:
    """Set the depth, and every key that names a layer."""
    for component in COMPONENTS:
        if edit := plan.component(component):
            family.write_layers(config, component, edit.layers)
    return {}
