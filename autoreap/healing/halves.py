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
    """A layer in its decoder; see `LayerRunner`."""

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


class LayerRunner:
    """Runs single layers of a decoder, those in memory or, of a streamed model, from disk."""

    def __init__(self, loaded: Loaded, component: str) -> None:
        self._loaded = loaded
        self._decoder = loaded.decoder(component)
        self._num_layers = loaded.model_info.shape.components[component].num_layers

    @contextmanager
    def layer(self, number: int) -> Iterator[HalvedLayer]:
        """Layer `number`, with its weights in memory while the context lasts."""
        if self._loaded.streamed:
            module = self._loaded.read_layer(number)
        else:
            module = self._decoder.layers[number]
        with only_layer(self._decoder, number, module, is_last=number + 1 == self._num_layers) as run:
            yield HalvedLayer(module, self._loaded.running.block(module), run)
