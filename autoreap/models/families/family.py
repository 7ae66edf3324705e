"""What every model family must say of itself: the only place where its names are known.

A dimension (`autoreap.dimensions`) asks these questions and never spells a module path, config key or tensor name.
A question has an answer here where most families give the same: names that transformers itself gives, and what a model
answers that has no vision or no speech. docs/adding-a-family.md walks through one.
Families and dimensions import torch and transformers where they touch a model, not before: what is read from headers
and configs alone then answers at once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from autoreap.errors import InputError
from autoreap.models.checkpoint import TensorInfo
from autoreap.models.families.stock import tensors_in_memory
from autoreap.plan import ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.models.families.chat_inputs import ChatInputs

Config = dict[str, Any]
SPEAKING_PARTS = ("talker", "speech")  # of the model, all that speaks


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


_DECODER_TENSOR = re.compile(r"(?P<prefix>(\w+\.)?model\.layers\.)(?P<layer>\d+)\.(?P<rest>.+)")


class Family(ABC):
    """One model family of transformers. `config` is always the raw contents of config.json.

    Attributes:
        model_type: as config.json names the family.
        title: what people call it.
        frames_per_second: of audio features.
        companions: files that look like weights in another format, yet the stock class needs them.
    """

    model_type: str
    title: str
    frames_per_second = 100
    companions: tuple[str, ...] = ()

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, str]:
        """The part of a stored tensor (see `TensorRole`), by the beginning of its name."""

    @abstractmethod
    def stock_class(self) -> Any:
        """The class of transformers that loads a checkpoint."""

    @abstractmethod
    def name_on_disk(self, name: str) -> str:
        """The stored name of a tensor of the stock class."""

    @abstractmethod
    def model_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """As `shape`. `KeyError`, `TypeError` and `AttributeError` say that the config is not the family's."""

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """What a plan must know of the model; `InputError` if the config is not the family's."""
        try:
            return self.model_shape(config)
        except KeyError as error:
            raise InputError(f"key {error} is missing", where="config.json", fix=f"is this a {self.title}?") from None
        except (TypeError, AttributeError) as error:
            problem = f"a value is of another kind than a {self.title}'s: {error}"
            raise InputError(problem, where="config.json") from None

    def role(self, tensor_name: str) -> TensorRole:
        """What the stored tensor is; `InputError` for a name that this family does not know."""
        part = next((part for prefix, part in self.parts.items() if tensor_name.startswith(prefix)), None)
        if part is None:
            problem = f"unknown tensor {tensor_name!r}; a {self.title} has none of that name"
            raise InputError(problem, where="checkpoint")
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            return TensorRole(part, tensor_name)
        return TensorRole(part, f"{match['prefix']}{{layer}}.{match['rest']}", layer=int(match["layer"]))

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

    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """Where a stored tensor of a decoder layer goes: a parameter, named within the layer, and the index into it."""
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            raise InputError(f"tensor {tensor_name!r} belongs to no decoder layer", where="checkpoint")
        return match["rest"], ()

    @abstractmethod
    def inputs(self, path: Path) -> ChatInputs:
        """What turns a prompt into this checkpoint's input tensors."""

    def thinker(self, model: PreTrainedModel) -> PreTrainedModel:
        """The part of `model` that hears and writes; `model` itself where it is nothing else."""
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

    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """Answer one prompt aloud, of at most `max_steps` steps of the talker; what is said does not matter.

        Raises:
            SilenceError: nothing is said. The talker may have read the prompt by then.
        """
        raise AssertionError("a model without a talker is never asked to speak")

    def without_speech(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Within the context, `model` is as it would be loaded from a checkpoint that can't speak."""
        return nullcontext()

    def write_no_speech(self, config: Config) -> None:  # noqa: B027  # most models have no voice to speak of
        """Say that the model has no voice; nothing to say where it never had one."""

    def talker_input_layer(self, model: PreTrainedModel) -> int | None:
        """Which hidden state amid the thinker the talker listens to; None where there is none."""
        return None

    def set_talker_input_layer(self, model: PreTrainedModel, tap: int) -> None:
        """Set, in memory, what `talker_input_layer` returns."""
        raise AssertionError("where no talker listens amid the thinker there is nothing to set")

    @abstractmethod
    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """Set the number of experts of `component`, and lower top-k to it where it is higher."""

    @abstractmethod
    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """Set the depth of `component`, and move every key that names a layer of it."""

    def write_no_vision(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Replace the vision tower by the smallest stub that the stock class loads; the stub's tensors by name."""
        raise AssertionError("no plan strips the vision of a model that has none; see `check_plan`")

    def vision_entrances(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """The (module, method) pairs through which images and video enter the model; none where it can't see."""
        return []

    @abstractmethod
    def unfuse_experts(self, tensor_name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a tensor stored one tensor an expert; the tensor itself unless it is fused experts."""

    def disable_vision(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """Make `model` refuse images and video; the (module, attribute) pairs whose deletion undoes it."""
        opened = [(module, name) for module, name in self.vision_entrances(model) if name not in vars(module)]
        for module, name in opened:
            setattr(module, name, _refuse)
        return opened

    def expected_tensors(self, config: Mapping[str, Any], stored: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
        """Names and shapes, as stored one tensor an expert, that the stock class expects for this config.

        Of tensors tied to one another the stock class needs one. Expected are those among `stored`, names on disk; the
        one that transformers writes where there is none.
        """
        shapes, tied = tensors_in_memory(self.stock_class(), config)
        for name, source in tied.items():
            if self.name_on_disk(name) not in stored:
                del shapes[name]
            elif self.name_on_disk(source) not in stored:
                shapes.pop(source, None)  # others that are tied to it may have had it left out already
        return self.unfuse_all((self.name_on_disk(name), shape) for name, shape in shapes.items())

    def unfuse_all(self, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all `tensors` stored one tensor an expert."""
        unfused: dict[str, tuple[int, ...]] = {}
        for name, shape in tensors:
            unfused |= self.unfuse_experts(name, shape)
        return unfused


class Dense(Family):
    """A family of dense decoders; inherit it first."""

    def router(self, layer: nn.Module) -> Router | None:
        """There is none."""
        return None

    def experts(self, layer: nn.Module) -> nn.Module | None:
        """There are none."""
        return None

    def raw_gates(self, router_output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        raise AssertionError("a dense model has no router that could return anything")

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """Nothing to set: zero of them is what the config says already."""

    def unfuse_experts(self, tensor_name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Nothing is fused."""
        return {tensor_name: shape}


def write_windows(text: Config, retained: tuple[int, ...]) -> None:
    """Move what the config of a Qwen2 decoder says of layers that attend within a window.

    Which they are is a matter of their number, unless they are listed.
    """
    if text.get("layer_types"):
        text["layer_types"] = [text["layer_types"][layer] for layer in retained]
    if "max_window_layers" in text:
        text["max_window_layers"] = sum(layer < text["max_window_layers"] for layer in retained)


def cached_values(text: Mapping[str, Any]) -> int:
    """`Family.cache_values_per_token` of a Qwen2 decoder; a head's width follows from that of the hidden states."""
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    return int(2 * text["num_key_value_heads"] * head_dim * text["num_hidden_layers"])


def integer(config: Mapping[str, Any], key: str) -> int:
    """The integer `key` of a config; `TypeError` where it is something else."""
    if type(config[key]) is not int:
        raise TypeError(f"{key} is {config[key]!r}")
    return cast(int, config[key])
