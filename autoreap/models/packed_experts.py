"""A model whose experts stay packed in memory, and are unpacked when their layer runs.

At 4 bits the experts of a 30B take 16 GB so, and 58 GB as they are computed with. Of each layer those that tokens are
routed to are unpacked, into a place that all layers share. The weights are those that the stock class unpacks when it
loads a checkpoint, so every output is the same to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoreap.models.checkpoint import Checkpoint
from autoreap.models.families import Family
from autoreap.models.layer_reader import LayerReader, StoredWeights
from autoreap.models.packed_weights import unpacked
from autoreap.models.tensors import read_tensor, stored_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AT_ONCE = 1 << 26  # weights that are unpacked at once, with some six bytes for each


class _PackedMatrices:
    """The same matrix of each expert of a layer.

    Attributes:
        weights: [E, R, C], where they are unpacked; other layers use it, too.
        codes: [E, R, words].
        scales: [E, R, groups].
    """

    def __init__(self, weights: nn.Parameter, stored: Sequence[StoredWeights]) -> None:
        self.weights = weights
        num_experts, num_rows, _ = weights.shape
        first = stored[0]
        assert first.scales is not None
        words, groups = first.values.shape[-1], first.scales.shape[-1]
        scale_type = stored_type(first.scales)
        self.codes = torch.empty(num_experts, num_rows, words, dtype=torch.int32, device=weights.device)
        self.scales = torch.empty(num_experts, num_rows, groups, dtype=scale_type, device=weights.device)
        for part in stored:
            assert part.scales is not None
            self.codes[part.index].copy_(read_tensor(part.values))
            self.scales[part.index].copy_(read_tensor(part.scales))

    @torch.no_grad()
    def unpack(self, experts: torch.Tensor) -> None:
        """Unpack those of `experts` [N]."""
        _, num_rows, num_columns = self.weights.shape
        # A few at a time: codes, and what they become on the way to weights, are in memory beside them.
        for some in torch.split(experts, max(1, _AT_ONCE // (num_rows * num_columns))):
            codes, scales = self.codes[some].flatten(0, 1), self.scales[some].flatten(0, 1)
            values = unpacked(codes, scales, num_columns).view(-1, num_rows, num_columns)
            self.weights[some] = values.to(self.weights.dtype)


def add_packed_layers(family: Family, checkpoint: Checkpoint, model: PreTrainedModel, num_layers: int) -> None:
    """Give `model`, loaded without the layers of its thinker, all `num_layers`, their experts packed.

    Raises:
        InputError: a tensor is none of its layer's.
    """
    decoder: Any = family.running.decoder(model, "thinker")
    reader = LayerReader(family, checkpoint, model)
    unpacked_into: dict[str, nn.Parameter] = {}  # by the name of the parameter
    for number in range(num_layers):
        layer = family.running.new_layer(model, number)
        experts = family.running.experts(layer)
        stored = defaultdict(list)
        for weights in reader.stored(number):
            stored[weights.parameter].append(weights)
        matrices: dict[str, _PackedMatrices] = {}
        for name, parameter in [*layer.named_parameters()]:  # a copy: attributes are deleted on the way
            path, _, attribute = name.rpartition(".")
            module = layer.get_submodule(path)
            if module is not experts or any(weights.scales is None for weights in stored[name]):
                continue
            if name not in unpacked_into:
                values = torch.zeros(parameter.shape, dtype=model.dtype, device=model.device)
                unpacked_into[name] = nn.Parameter(values, requires_grad=False)
            matrices[attribute] = _PackedMatrices(unpacked_into[name], stored.pop(name))
            delattr(module, attribute)  # else `fill` would make room for it in this layer, too
        reader.fill(layer, [*chain.from_iterable(stored.values())])
        # Of a layer without experts, nothing is left out: `fill` has read all of it.
        if experts is not None:
            _unpack_when_run(experts, matrices)
        decoder.layers.append(layer)
    # It was loaded with none; the cache is built from this number.
    decoder.config.num_hidden_layers = num_layers


def _unpack_when_run(experts: nn.Module, matrices: Mapping[str, _PackedMatrices]) -> None:
    """Unpack, before `experts` run, those of them that tokens are routed to."""

    def unpack_routed(_experts: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        _, indices, _ = inputs
        routed = torch.unique(indices)
        for packed in matrices.values():
            packed.unpack(routed)

    # The stock code finds them under the names that it knows.
    for attribute, packed in matrices.items():
        setattr(experts, attribute, packed.weights)
    experts.register_forward_pre_hook(unpack_routed)
