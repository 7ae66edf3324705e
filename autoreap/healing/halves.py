"""Decoder layers one by one, each in two halves: attention, and the block of experts (or the MLP) after it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoreap.calibration.meter import replace_forward
from autoreap.models.decoder_calls import RunLayer, only_layer
from autoreap.models.loading import Loaded


@dataclass(frozen=True)
class Halfway:
    """A batch within a layer: the stream [B, T, H] after attention, and what the block is given of it."""

    residual: torch.Tensor
    normalised: torch.Tensor


@dataclass(frozen=True)
class HalvedLayer:
    """A layer that runs in its decoder; see `halved_layer`."""

    module: nn.Module
    block: nn.Module
    run: RunLayer

    def run_attention(self, hidden: torch.Tensor, arguments: Mapping[str, Any]) -> Halfway:
        """The first half, for the layer's input. The output of the layer is the residual plus the block's output."""
        given = []

        # The stock layer does the rest: with a silent block it returns what attention has left on the stream.
        def add_nothing(normalised: torch.Tensor) -> torch.Tensor:
            given.append(normalised)
            return torch.zeros_like(normalised)

        with replace_forward(self.block, add_nothing):
            residual = self.run(hidden, arguments)
        return Halfway(residual, given[0])


@contextmanager
def halved_layer(loaded: Loaded, component: str, number: int) -> Iterator[HalvedLayer]:
    """Layer `number` of a decoder; of a streamed model, its weights are in memory while the context lasts."""
    decoder = loaded.decoder(component)
    num_layers = loaded.model_info.shape.components[component].num_layers
    if loaded.streamed:
        module = loaded.layer_reader.read(number)
    else:
        module = decoder.layers[number]
    with only_layer(decoder, number, module, is_last=number + 1 == num_layers) as run:
        yield HalvedLayer(module, loaded.running.block(module), run)
