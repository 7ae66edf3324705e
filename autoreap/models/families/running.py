"""Where things are in a family's model once it is loaded. Torch is imported where a model is touched, not before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from autoreap.errors import InputError
from autoreap.models.families.layout import CheckpointLayout

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.models.families.chat_inputs import ChatInputs


class Decoder(Protocol):
    """A text decoder of transformers."""

    layers: nn.ModuleList
    config: Any


class Router(Protocol):
    """A top-k router of transformers: returns (logits [T, E], weights [T, k], indices [T, k])."""

    weight: nn.Parameter  # [E, H]
    num_experts: int
    top_k: int
    register_forward_hook: Any


@contextmanager
def swap_layers(decoder: Decoder, layers: Iterable[nn.Module]) -> Iterator[None]:
    """`decoder` has these `layers` instead of its own within the context."""
    from torch import nn

    original, depth = decoder.layers, decoder.config.num_hidden_layers
    try:
        decoder.layers = nn.ModuleList(layers)
        # Some decoders run as many layers as their config says, and the cache is built from this number.
        decoder.config.num_hidden_layers = len(decoder.layers)
        yield
    finally:
        decoder.layers, decoder.config.num_hidden_layers = original, depth


class RunningModel(ABC):
    """How to load a family's model, and where its parts are; a decoder has no experts unless the family says so."""

    def __init__(self, layout: CheckpointLayout) -> None:
        self.layout = layout

    @abstractmethod
    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        """The stock model in evaluation mode; without `speech`, parts that only speak are not loaded.

        Without `layers`, the thinker's decoder has none, and their tensors are not read; see `new_layer`.
        """

    @abstractmethod
    def new_layer(self, model: PreTrainedModel, number: int) -> nn.Module:
        """Decoder layer `number` of the thinker as the stock class builds it, without weights (on the meta device)."""

    @abstractmethod
    def inputs(self, path: Path) -> ChatInputs:
        """What turns a prompt into this checkpoint's input tensors."""

    def thinker(self, model: PreTrainedModel) -> PreTrainedModel:
        """The part of `model` that takes audio and writes text; `model` itself if it has no other part."""
        return model

    def device(self, model: PreTrainedModel) -> torch.device:
        """Where inputs of the thinker go: where its embeddings run, wherever layers lie and weights rest."""
        import torch

        embeddings: Any = self.thinker(model).get_input_embeddings()
        placed = getattr(embeddings, "_hf_hook", None)  # accelerate's, on a model in several places
        device = getattr(placed, "execution_device", None)
        return torch.device(embeddings.weight.device if device is None else device)

    @abstractmethod
    def decoder(self, model: PreTrainedModel, component: str) -> Decoder | None:
        """The text decoder of `component`; None where the model has none."""

    def number_layer(self, layer: nn.Module, number: int) -> None:
        """Tell a decoder layer its place, by which it finds its part of the cache."""
        cast(Any, layer).self_attn.layer_idx = number

    def router(self, layer: nn.Module) -> Router | None:
        """The router of a decoder layer; None in a dense one."""
        return None

    def experts(self, layer: nn.Module) -> nn.Module | None:
        """The experts of a decoder layer, called with (hidden states [T, H], indices [T, k], weights [T, k])."""
        return None

    def block(self, layer: nn.Module) -> nn.Module:
        """The block of a decoder layer after attention: its experts with their router, or its MLP."""
        return cast("nn.Module", layer.mlp)

    def down_projection(self, layer: nn.Module) -> nn.Parameter:
        """The weight by which a layer's block writes: [E, H, I] of its experts, [H, I] of an MLP."""
        experts: Any = self.experts(layer)
        if experts is None:
            return cast("nn.Parameter", cast(Any, layer).mlp.down_proj.weight)
        return cast("nn.Parameter", experts.down_proj)

    def before_down(self, layer: nn.Module, hidden: torch.Tensor, expert: int | None = None) -> torch.Tensor:
        """What the down projection of `expert`, or of an MLP, is given [N, I] where the block is given `hidden` [N, H].

        act(gate x) * (up x).
        """
        from torch.nn import functional

        if expert is None:
            block: Any = self.block(layer)
            gate, up = block.gate_proj(hidden), block.up_proj(hidden)
        else:
            block = self.experts(layer)
            # Stock experts are fused in memory: the gate's rows lie above those of the projection it gates.
            gate, up = functional.linear(hidden, block.gate_up_proj[expert]).chunk(2, dim=-1)
        inner: torch.Tensor = block.act_fn(gate) * up
        return inner

    def raw_gates(self, router_output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Probabilities [T, k] of the chosen experts before they are renormalised, from what the router returned.

        Rounded as the router rounds what it returns.
        """
        logits, _, indices = router_output
        return logits.float().softmax(dim=-1).gather(1, indices).to(logits.dtype)

    @abstractmethod
    def audio_embeddings(self, model: PreTrainedModel, mel: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Embeddings [num_tokens, H] of one utterance, from its features [mel_bins, frames].

        The first `num_frames` are the recording; what follows is silence that `inputs` added.
        """

    def is_audio(self, model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
        """Where in `input_ids` [B, T] the audio embeddings go, in order; bool [B, T]."""
        return cast("torch.Tensor", input_ids == self.thinker(model).config.audio_token_id)

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Positions of left-padded prompts, as `generate` counts them; those after it follow the last.

        [B, T], or [axes, B, T] where images have several; as the decoder takes them.
        """
        mask = inputs["attention_mask"]
        return (mask.cumsum(dim=1) - 1).masked_fill(mask == 0, 0)

    def vision_entrances(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """The (module, method) pairs through which images and video enter the model; none without vision."""
        return []

    def disable_vision(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """Make `model` refuse images and video; the (module, attribute) pairs whose deletion undoes it."""
        # An entrance that is closed already is left out: a mask would open it when it ends.
        opened = [(module, name) for module, name in self.vision_entrances(model) if name not in vars(module)]
        for module, name in opened:
            setattr(module, name, _refuse)
        return opened


# generate() looks for its own arguments by these names, and passes by what does not take them.
def _refuse(pixel_values: Any = None, pixel_values_videos: Any = None, *_arguments: Any, **_options: Any) -> NoReturn:
    raise InputError("this model's vision was stripped; it can't see images or video", fix="send only audio and text")
