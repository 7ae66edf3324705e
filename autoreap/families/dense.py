"""What families without experts share: their answers when asked for them, and what the configs of decoders say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoreap.families.family import Config, Family, Router

if TYPE_CHECKING:
    import torch
    from torch import nn


class Dense(Family):
    """A family of dense decoders; inherit it first."""

    def router(self, layer: nn.Module) -> Router | None:
        """See `Family.router`. There is none."""
        return None

    def experts(self, layer: nn.Module) -> nn.Module | None:
        """See `Family.experts`. There are none."""
        return None

    def raw_gates(self, router_output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """See `Family.raw_gates`."""
        raise AssertionError("a dense model has no router that could return anything")

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """See `Family.write_experts`. Nothing to set: zero of them is what the config says already."""

    def one_by_one(self, tensor_name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        """See `Family.one_by_one`. Nothing is fused."""
        return [(tensor_name, shape)]


def write_windows(text: Config, retained: tuple[int, ...]) -> None:
    """Move what the config of a Qwen2 decoder says of layers that attend within a window.

    Which they are is a matter of their number, unless they are listed.
    """
    if text.get("layer_types"):
        text["layer_types"] = [text["layer_types"][layer] for layer in retained]
    if "max_window_layers" in text:
        text["max_window_layers"] = sum(layer < text["max_window_layers"] for layer in retained)
