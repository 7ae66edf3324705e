"""What every model family must say of itself: the only place where its names are known.

A dimension (`autoreap.dimensions`) asks these questions and never spells a module path, config key or tensor name.
Families and dimensions import torch and transformers where they touch a model, not before: what is read from headers
and configs alone then answers at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from autoreap.checkpoint import TensorInfo
from autoreap.errors import InputError
from autoreap.plan import ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.families.chat_inputs import ChatInputs

Config = dict[str, Any]


@dataclass(frozen=True)
class TensorRole:
    """What a stored tensor is.

    Attributes:
        part: `thinker`, `talker`, `audio`, `vision`, `speech` (waveform decoder), as `autoreap inspect` lists them.
        name: the stored name, with `{layer}` and `{expert}` in place of the indices below.
        layer: decoder layer, or None.
        expert: the expert it belongs to, or None.
        rows_are_experts: its first dimension counts experts (a router, or experts stored fused).
        rows: which rows are retained, once a dimension has decided so; None keeps all.
    """

    part: str
    name: str
    layer: int | None = None
    expert: int | None = None
    rows_are_experts: bool = False
    rows: tuple[int, ...] | None = None

    @property
    def full_name(self) -> str:
        """The stored name."""
        return self.name.format(layer=self.layer, expert=self.expert)


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


# generate() looks for its own arguments by these names, and passes by what does not take them.
def _refuse(pixel_values: Any = None, pixel_values_videos: Any = None, *_arguments: Any, **_options: Any) -> NoReturn:
    raise InputError("this model's vision was stripped; it can't see images or video", fix="send audio and text alone")


class Family(ABC):
    """One model family of transformers. `config` is always the raw contents of config.json."""

    model_type: str
    frames_per_second: int  # of audio features
    companions: tuple[str, ...] = ()  # files that look like weights in another format, yet the stock class needs them

    @abstractmethod
    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """What a plan must know of the model."""

    @abstractmethod
    def role(self, tensor_name: str) -> TensorRole:
        """What the stored tensor is; `InputError` for a name that this family does not know."""

    def role_of(self, tensor: TensorInfo) -> TensorRole:
        """`role` of a tensor in a checkpoint; the error for an unknown one names its file."""
        try:
            return self.role(tensor.name)
        except InputError as error:
            raise InputError(error.problem, where=tensor.shard, fix="is this checkpoint of another version?") from None

    @abstractmethod
    def num_audio_tokens(self, num_frames: int) -> int:
        """How many tokens of the thinker so many frames of audio features become."""

    @abstractmethod
    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        """How many numbers the thinker's cache holds for a token, in all layers."""

    @abstractmethod
    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """About how many numbers are in memory at once, beside weights and cache, to hear a clip and read it."""

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
    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """Where a stored tensor of a decoder layer goes: a parameter, named within the layer, and the index into it."""

    @abstractmethod
    def inputs(self, path: Path) -> ChatInputs:
        """What turns a prompt into this checkpoint's input tensors."""

    @abstractmethod
    def thinker(self, model: PreTrainedModel) -> PreTrainedModel:
        """The part of `model` that hears and writes; `model` itself where it is nothing else."""

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

    @abstractmethod
    def number_layer(self, layer: nn.Module, number: int) -> None:
        """Tell a decoder layer its place, by which it finds its part of the cache."""

    @abstractmethod
    def router(self, layer: nn.Module) -> Router | None:
        """The router of a decoder layer; None in a dense one."""

    @abstractmethod
    def experts(self, layer: nn.Module) -> nn.Module | None:
        """The experts of a decoder layer, called with (hidden states [T, H], indices [T, k], weights [T, k])."""

    @abstractmethod
    def raw_gates(self, router_output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Probabilities [T, k] of the chosen experts before they are renormalised, from what the router returned."""

    @abstractmethod
    def audio_embeddings(self, model: PreTrainedModel, mel: torch.Tensor) -> torch.Tensor:
        """Embeddings [num_tokens, H] of one utterance, from its features [mel_bins, frames]."""

    @abstractmethod
    def is_audio(self, model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
        """Where in `input_ids` [B, T] the audio embeddings go, in order; bool [B, T]."""

    @abstractmethod
    def positions(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Positions [axes, B, T] of left-padded prompts, as `generate` counts them; those after it follow the last."""

    @abstractmethod
    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """Answer one prompt aloud, of at most `max_steps` steps of the talker; what is said does not matter.

        Raises:
            SilenceError: nothing is said. The talker may have read the prompt by then.
        """

    @abstractmethod
    def without_speech(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Within the context, `model` is as it would be loaded from a checkpoint that can't speak."""

    @abstractmethod
    def write_no_speech(self, config: Config) -> None:
        """Say that the model has no voice."""

    @abstractmethod
    def speech_tap(self, model: PreTrainedModel) -> int | None:
        """Which hidden state of the thinker the talker listens to; None without a talker."""

    @abstractmethod
    def set_speech_tap(self, model: PreTrainedModel, tap: int) -> None:
        """Set, in memory, what `speech_tap` returns."""

    @abstractmethod
    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """Set the number of experts of `component`, and lower top-k to it where it is higher."""

    @abstractmethod
    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """Set the depth of `component`, and move every key that names a layer of it."""

    @abstractmethod
    def write_no_vision(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Replace the vision tower by the smallest stub that the stock class loads; the stub's tensors by name."""

    @abstractmethod
    def vision_entrances(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """The (module, method) pairs through which images and video enter the model."""

    @abstractmethod
    def one_by_one(self, tensor_name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of a tensor stored one tensor an expert; the tensor itself unless it is fused experts."""

    def close_eyes(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """Make `model` refuse images and video; the (module, attribute) pairs whose deletion undoes it."""
        opened = [(module, name) for module, name in self.vision_entrances(model) if name not in vars(module)]
        for module, name in opened:
            setattr(module, name, _refuse)
        return opened

    @abstractmethod
    def expected_tensors(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Names and shapes, as stored one tensor an expert, that the stock class expects for this config."""
