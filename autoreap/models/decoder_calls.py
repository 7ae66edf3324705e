"""What a decoder is given for a batch, and one of its layers run alone on it, within the decoder's own forward pass.

Masks, rotary embedding and what vision adds between layers are the stock class's own: a layer runs in its place,
between stand-ins for the others.

Shape legend: B rows of a batch, T tokens of each (padding included), H hidden; h_l is the input [B, T, H] of layer l.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from autoreap.models.families.running import Decoder, swap_layers

RunLayer = Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]


def catch_arguments(decoder: Decoder, run: Callable[[], None]) -> dict[str, Any]:
    """The arguments with which `run` calls `decoder`; its layers, if it has any, are not run."""
    given: dict[str, Any] = {}
    # Without layers: what they would compute is not wanted here.
    with swap_layers(decoder, ()), _on_call(decoder, given.update):
        run()
    return given


def catch_steps(decoder: Decoder, run: Callable[[], None]) -> dict[str, Any]:
    """The arguments of one call of `decoder` over all that `run` gives it step after step, for a single row.

    Each token sees those before it, so that the call computes what the steps do.
    """
    embeddings, positions = [], []

    def keep(options: dict[str, Any]) -> None:
        embeddings.append(options["inputs_embeds"])
        positions.append(options["position_ids"])

    with _on_call(decoder, keep):
        run()
    tokens, places = torch.cat(embeddings, dim=1), torch.cat(positions, dim=-1)
    return {"inputs_embeds": tokens, "position_ids": places, "use_cache": False}


@contextmanager
def _on_call(decoder: Decoder, look: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Before each call of `decoder` within the context, `look` is given its named arguments."""

    def hook(_decoder: nn.Module, _arguments: Any, options: dict[str, Any]) -> None:
        look(options)

    handle = cast(nn.Module, decoder).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _StandIn(nn.Module):
    """In the place of a layer; keeps what it is given, which is what the layer before put out with what vision adds."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor, **_options: Any) -> torch.Tensor:
        self.hidden = hidden
        return hidden


class _Replay(nn.Module):
    """A layer that is given `hidden`, whatever the stand-ins before it hand on; keeps what it returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.hidden: torch.Tensor | None = None
        self.output: torch.Tensor | None = None

    def forward(self, _hidden: torch.Tensor, **options: Any) -> torch.Tensor:
        output: torch.Tensor = self.layer(self.hidden, **options)
        self.output = output
        return output


@contextmanager
def only_layer(decoder: Decoder, number: int, layer: nn.Module, *, is_last: bool) -> Iterator[RunLayer]:
    """Within the context `decoder` runs nothing but `layer`, in place `number`.

    Yields the function from h_l and the decoder's other arguments to h_{l+1}; of the last layer, to what it returns.
    """
    replay, after = _Replay(layer), _StandIn()
    layers: list[nn.Module] = [_StandIn() for _ in range(number)]
    layers.append(replay)
    if not is_last:
        # After the last layer comes the final norm: there the layer's own output is taken.
        layers.append(after)

    def run(hidden: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
        replay.hidden = hidden
        cast(Any, decoder)(inputs_embeds=hidden, **arguments)
        output = replay.output if is_last else after.hidden
        assert output is not None
        return output

    with swap_layers(decoder, layers):
        yield run
