"""What a family's checkpoints look like: the names in headers and config.json, and what these alone tell. No torch.

Only `expected_tensors` builds a model, without weights, and imports torch where it does.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from autoreap.errors import InputError
from autoreap.models.families.stock import tensors_in_memory
from autoreap.models.headers import TensorInfo
from autoreap.plan import ModelShape

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]  # of tensors, by their names
SPEAKING_PARTS = ("talker", "speech")  # of the model, all that speaks
_DOWN_PROJECTIONS = ("mlp.experts.{expert}.down_proj.weight", "mlp.experts.down_proj", "mlp.down_proj.weight")
# Matrices of a layer beside experts.
REST = re.compile(r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight")


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
        is_fitted: a dimension puts fitted weights in its place.
        bits: of a weight, once a dimension has decided so; 16 stores it as it was.
    """

    part: str
    name: str
    layer: int | None = None
    expert: int | None = None
    rows_are_experts: bool = False
    rows: tuple[int, ...] | None = None
    is_fitted: bool = False
    bits: int = 16

    @property
    def full_name(self) -> str:
        """The stored name."""
        return self.name.format(layer=self.layer, expert=self.expert)

    @property
    def name_in_decoder(self) -> str:
        """The name within its decoder, such as `layers.3.mlp.gate.weight`, if it is of one."""
        return self.full_name.rpartition("model.")[2]

    @property
    def is_down_projection(self) -> bool:
        """By it the experts or the MLP of a decoder layer write to the residual stream."""
        return self.layer is not None and self.name.endswith(_DOWN_PROJECTIONS)

    @property
    def is_expert_matrix(self) -> bool:
        """It is of one routed expert, or of all of them where they are stored fused."""
        return self.expert is not None or (self.rows_are_experts and ".experts." in self.name)

    @property
    def is_rest_matrix(self) -> bool:
        """It is of a layer of the thinker's decoder: attention, or an MLP."""
        within_layer = self.name.partition("{layer}.")[2]
        return self.part == "thinker" and REST.fullmatch(within_layer) is not None


# In a whole model the component stands before it; in a thinker that was saved alone, nothing does.
_DECODER_TENSOR = re.compile(r"(?P<prefix>(\w+\.)?model\.layers\.)(?P<layer>\d+)\.(?P<rest>.+)")


class CheckpointLayout(ABC):
    """The checkpoints of one family. `config` is always the raw contents of config.json.

    Attributes:
        model_type: as config.json names the family.
        title: what people call it.
        stock_name: of the class of transformers that loads a checkpoint.
        frames_per_second: of audio features.
        companions: files that look like weights in another format, yet the stock class needs them.
    """

    model_type: str
    title: str
    stock_name: str
    frames_per_second = 100
    companions: tuple[str, ...] = ()

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, str]:
        """The part of a stored tensor (see `TensorRole`), by the beginning of its name."""

    def stock_class(self) -> Any:
        """The class of transformers that loads a checkpoint."""
        import transformers

        return getattr(transformers, self.stock_name)

    @abstractmethod
    def name_on_disk(self, name: str) -> str:
        """The stored name of a tensor of the stock class."""

    @abstractmethod
    def model_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """As `shape`. `KeyError`, `TypeError` and `AttributeError` say that the config is not the family's."""

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """What a plan must know of the model; `InputError` if the config is not the family's."""
        try:
            shape = self.model_shape(config)
        except KeyError as error:
            raise InputError(f"key {error} is missing", where="config.json", fix=f"is this a {self.title}?") from None
        except (TypeError, AttributeError) as error:
            problem = f"a value has the wrong type for a {self.title}: {error}"
            raise InputError(problem, where="config.json") from None
        for name, component in shape.components.items():
            num_experts, top_k = component.num_experts, component.top_k
            # A dense decoder has none, and routes to none; where there are experts, a token needs one at least.
            if num_experts < 0 or not min(1, num_experts) <= top_k <= num_experts:
                problem = f"num_experts_per_tok of the {name} is {top_k}, with {num_experts} experts"
                raise InputError(problem, where="config.json", fix="fetch it again")
        return replace(shape, is_packed=bool(config.get("quantization_config")))

    def role(self, tensor_name: str) -> TensorRole:
        """What the stored tensor is; `InputError` for a name that this family does not know."""
        part = self._part(tensor_name)
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            return TensorRole(part, tensor_name)
        return TensorRole(part, f"{match['prefix']}{{layer}}.{match['rest']}", layer=int(match["layer"]))

    def _part(self, tensor_name: str) -> str:
        for prefix, part in self.parts.items():
            if tensor_name.startswith(prefix):
                return part
        raise InputError(f"unknown tensor {tensor_name!r}; a {self.title} has none of that name", where="checkpoint")

    def role_of(self, tensor: TensorInfo) -> TensorRole:
        """`role` of a tensor in a checkpoint; the error for an unknown one names its file."""
        try:
            return self.role(tensor.name)
        except InputError as error:
            raise InputError(error.problem, where=tensor.shard, fix="is this checkpoint of another version?") from None

    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """Where a stored tensor of a decoder layer goes: a parameter, named within the layer, and the index into it."""
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            raise InputError(f"tensor {tensor_name!r} belongs to no decoder layer", where="checkpoint")
        return match["rest"], ()

    @abstractmethod
    def num_audio_tokens(self, num_frames: int) -> int:
        """How many tokens of the thinker so many frames of audio features become."""

    @abstractmethod
    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        """How many numbers the thinker's cache holds for a token, in all layers."""

    @abstractmethod
    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """About how many numbers are in memory at once, beside weights and cache, to hear a clip and read it."""

    def unfuse_experts(self, tensor_name: str, shape: tuple[int, ...]) -> Shapes:
        """Names and shapes of a tensor stored one tensor an expert; the tensor itself unless it is fused experts."""
        return {tensor_name: shape}

    def unfuse_all(self, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Shapes:
        """Names and shapes of all `tensors` stored one tensor an expert."""
        unfused: Shapes = {}
        for name, shape in tensors:
            unfused |= self.unfuse_experts(name, shape)
        return unfused

    def expected_tensors(self, config: Mapping[str, Any], stored: Collection[str] = ()) -> Shapes:
        """Names and shapes, as stored one tensor an expert, that the stock class expects for this config.

        Of tensors tied to one another the stock class needs one. Expected are those among `stored`, names on disk; the
        one that transformers writes where there is none.
        """
        shapes, tied = tensors_in_memory(self.stock_class(), config)
        # Either name of a tied pair may be the one that is stored.
        for name, source in tied.items():
            if self.name_on_disk(name) not in stored:
                del shapes[name]
            elif self.name_on_disk(source) not in stored:
                shapes.pop(source, None)  # others that are tied to it may have had it left out already
        return self.unfuse_all((self.name_on_disk(name), shape) for name, shape in shapes.items())

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:  # noqa: B027  # most are dense
        """Set the number of experts of `component`, and lower top-k to it where it is higher.

        Of a dense decoder the number is zero, as its config says already.
        """

    def write_active_experts(self, config: Config, num_active: int) -> None:  # noqa: B027  # most are dense
        """Set top-k of the thinker."""

    @abstractmethod
    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """Set the depth of `component`, and move every key that names a layer of it."""

    def write_no_vision(self, config: Config) -> Shapes:
        """Replace the vision tower by the smallest stub that the stock class loads; the stub's tensors by name."""
        return {}

    def write_no_speech(self, config: Config) -> None:  # noqa: B027  # most models have no voice to speak of
        """Say that the model has no voice; nothing to say where it never had one."""


def integer(config: Mapping[str, Any], key: str) -> int:
    """The integer `key` of a config; `TypeError` where it is something else."""
    if type(config[key]) is not int:  # a bool is an integer to `isinstance`
        raise TypeError(f"{key} is {config[key]!r}")
    return cast(int, config[key])
