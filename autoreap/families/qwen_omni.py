"""What Qwen's omni models share: a thinker that hears, sees and writes, and what speaks beside it.

On disk the thinker's prefixes are `{audio_tower,visual,model}`; in memory `model.{audio_tower,visual,language_model}`.
In a whole model all of them follow `thinker.`; see `thinker_alone` for one saved alone.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError
from autoreap.families.family import Config, Decoder, Family, TensorRole
from autoreap.plan import ComponentShape, ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.families.chat_inputs import ChatInputs

_DECODER_TENSOR = re.compile(r"(?P<prefix>(thinker\.|talker\.)?model\.layers\.)(?P<layer>\d+)\.(?P<rest>.+)")
_THINKER_PARTS = {"audio_tower.": "audio", "visual.": "vision", "model.": "thinker", "lm_head.": "thinker"}
_STRIPPED = "vision_stripped"  # our key of the vision config: what is left of the tower is a stub
_STUB_HEADS, _STUB_HEAD_DIM = 8, 8


class QwenOmni(Family):
    """A Qwen omni model of transformers. `config` is always the raw contents of config.json.

    Attributes:
        title: what people call the family.
        prefix: of all tensors of the thinker.
        speech_parts: the parts that only speak, by the prefix of their tensors, which is their module's name and a dot.
        placeholders: the tokens in whose place embeddings go, as the fields of `chat_inputs.Placeholders`.
    """

    frames_per_second = 100
    title: str
    prefix = "thinker."
    speech_parts: Mapping[str, str]
    placeholders: Mapping[str, str]

    @abstractmethod
    def stock_class(self) -> Any:
        """The class of transformers that loads a checkpoint."""

    @abstractmethod
    def layer_class(self) -> Any:
        """That of a decoder layer of the thinker."""

    @abstractmethod
    def processor_class(self) -> Any:
        """That of the processor."""

    @abstractmethod
    def decoder_shape(self, config: Mapping[str, Any]) -> ComponentShape:
        """The shape of a decoder, from its own config."""

    @abstractmethod
    def stub_tensors(self, vision: Config) -> dict[str, tuple[int, ...]]:
        """Tensors, by their names within it, of a tower of one block whose width `vision`, its config, says.

        Keys that the family alone has are set. `KeyError` and `TypeError` say that the config is not the family's.
        """

    def thinker_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The thinker's part of a config."""
        return cast(dict[str, Any], config["thinker_config"])

    def decoder_config(self, config: Mapping[str, Any], component: str) -> dict[str, Any]:
        """The part of a config that describes the decoder of `component`."""
        part = self.thinker_config(config) if component == "thinker" else config[f"{component}_config"]
        return cast(dict[str, Any], part["text_config"])

    def model_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """As `shape`. `KeyError`, `TypeError` and `AttributeError` say that the config is not the family's."""
        speaks = self.speech_parts and config.get("enable_audio_output", True)
        components = ("thinker", "talker") if speaks else ("thinker",)
        return ModelShape({name: self.decoder_shape(self.decoder_config(config, name)) for name in components})

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """See `Family.shape`."""
        try:
            return self.model_shape(config)
        except KeyError as error:
            raise InputError(f"key {error} is missing", where="config.json", fix=f"is this a {self.title}?") from None
        except (TypeError, AttributeError) as error:
            problem = f"a value is of another kind than a {self.title}'s: {error}"
            raise InputError(problem, where="config.json") from None

    @cached_property
    def _parts(self) -> Mapping[str, str]:
        """The part of a tensor, by the beginning of its name."""
        return {self.prefix + name: part for name, part in _THINKER_PARTS.items()} | dict(self.speech_parts)

    def role(self, tensor_name: str) -> TensorRole:
        """See `Family.role`."""
        part = next((part for prefix, part in self._parts.items() if tensor_name.startswith(prefix)), None)
        if part is None:
            problem = f"unknown tensor {tensor_name!r}; a {self.title} has none of that name"
            raise InputError(problem, where="checkpoint")
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            return TensorRole(part, tensor_name)
        return TensorRole(part, f"{match['prefix']}{{layer}}.{match['rest']}", layer=int(match["layer"]))

    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        """See `Family.load`."""
        stock = self.stock_class()
        config = stock.config_class.from_pretrained(path)
        thinker = getattr(config, "thinker_config", config)
        if self.speech_parts:
            config.enable_audio_output = config.enable_audio_output and speech
        if not layers:
            thinker.text_config.num_hidden_layers = 0
        with nullcontext() if layers else _unreported():
            model = self.reader(stock)(
                path, config=config, dtype=dtype, device_map=device, use_safetensors=True, trust_remote_code=False
            )
        if getattr(thinker.vision_config, _STRIPPED, False):
            self.close_eyes(model)  # a stub would turn an image into nonsense
        return cast("PreTrainedModel", model.eval())

    def reader(self, stock: Any) -> Callable[..., Any]:
        """What loads a checkpoint into the class `stock`."""
        return cast(Callable[..., Any], stock.from_pretrained)

    def new_layer(self, model: PreTrainedModel, number: int) -> nn.Module:
        """See `Family.new_layer`."""
        import torch

        config = self.thinker(model).model.language_model.config
        with torch.device("meta"):
            layer = self.layer_class()(config, number)
        return cast("nn.Module", layer.to(model.dtype).eval())

    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """See `Family.slot`."""
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            raise InputError(f"tensor {tensor_name!r} belongs to no decoder layer", where="checkpoint")
        return match["rest"], ()

    def inputs(self, path: Path) -> ChatInputs:
        """See `Family.inputs`."""
        from autoreap.families.chat_inputs import Placeholders, read_chat_inputs

        frame_size = self.processor_class().videos_kwargs["size"]
        return read_chat_inputs(path, Placeholders(**self.placeholders), self.num_audio_tokens, frame_size)

    def thinker(self, model: PreTrainedModel) -> PreTrainedModel:
        """See `Family.thinker`."""
        return cast("PreTrainedModel", getattr(model, "thinker", model))

    def decoder(self, model: PreTrainedModel, component: str) -> Decoder | None:
        """See `Family.decoder`."""
        if component == "thinker":
            return cast(Decoder, self.thinker(model).model.language_model)
        talker = getattr(model, "talker", None)
        return cast(Decoder, talker.model) if talker is not None else None

    def number_layer(self, layer: nn.Module, number: int) -> None:
        """See `Family.number_layer`."""
        cast(Any, layer).self_attn.layer_idx = number

    def audio_embeddings(self, model: PreTrainedModel, mel: torch.Tensor) -> torch.Tensor:
        """See `Family.audio_embeddings`."""
        import torch

        thinker = self.thinker(model)
        device = self.device(model)
        mask = torch.ones((1, mel.shape[1]), dtype=torch.long, device=device)
        features = mel[None].to(device, thinker.dtype)
        output = thinker.get_audio_features(features, feature_attention_mask=mask, return_dict=True)
        return cast("torch.Tensor", output.last_hidden_state)

    def is_audio(self, model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
        """See `Family.is_audio`."""
        return cast("torch.Tensor", input_ids == self.thinker(model).config.audio_token_id)

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `Family.positions`. A picture takes fewer positions than tokens.

        The offsets that the stock method returns beside them are wrong for a padded prompt of a single token.
        """
        audio_mask = inputs.get("feature_attention_mask")
        positions, _ = self.thinker(model).get_rope_index(
            inputs["input_ids"],
            image_grid_thw=inputs.get("image_grid_thw"),
            video_grid_thw=inputs.get("video_grid_thw"),
            attention_mask=inputs["attention_mask"],
            audio_seqlens=None if audio_mask is None else audio_mask.sum(dim=1),
            second_per_grids=inputs.get("video_second_per_grid"),
        )
        return cast("torch.Tensor", positions)

    @contextmanager
    def without_speech(self, model: PreTrainedModel) -> Iterator[None]:
        """See `Family.without_speech`."""
        modules, has_talker = dict(model._modules), getattr(model, "has_talker", False)
        if not has_talker:  # nothing to take out; the thinker alone has no such attribute either
            yield
            return
        try:
            cast(Any, model).has_talker = False
            for prefix in self.speech_parts:
                del model._modules[prefix.removesuffix(".")]
            yield
        finally:
            cast(Any, model).has_talker = has_talker
            model._modules.clear()
            model._modules.update(modules)  # in their order

    def write_no_speech(self, config: Config) -> None:
        """See `Family.write_no_speech`."""
        config["enable_audio_output"] = False

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """See `Family.write_layers`."""
        self.decoder_config(config, component)["num_hidden_layers"] = len(retained)

    def write_no_vision(self, config: Config) -> dict[str, tuple[int, ...]]:
        """See `Family.write_no_vision`.

        The stock class always builds a tower. What stays is one narrow block between a patch embedding and a merger:
        with no block at all SGLang's tower can't be built, and with fewer heads none could be split among devices.
        """
        vision = self.thinker_config(config)["vision_config"]
        try:
            num_heads = min(_STUB_HEADS, integer(vision, "num_heads"))
            width = num_heads * _STUB_HEAD_DIM
            vision |= {"depth": 1, "num_heads": num_heads, "hidden_size": width, "intermediate_size": width}
            vision[_STRIPPED] = True
            shapes = self.stub_tensors(vision)
        except KeyError as error:
            raise InputError(f"key {error} of the vision config is missing", where="config.json") from None
        except TypeError as error:
            raise InputError(f"a value of the vision config is of another kind: {error}", where="config.json") from None
        return {f"{self.prefix}visual.{name}": shape for name, shape in shapes.items()}

    def vision_entrances(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """See `Family.vision_entrances`."""
        return [(self.thinker(model).model, name) for name in ("get_image_features", "get_video_features")]

    def expected_tensors(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """See `Family.expected_tensors`."""
        import torch
        from huggingface_hub.errors import StrictDataclassError

        stock = self.stock_class()
        try:
            with torch.device("meta"):
                model = stock(stock.config_class(**config))
        except (StrictDataclassError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"the stock class can't be built from it: {reason}", where="config.json") from None
        state = {self._name_on_disk(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return dict(entry for name, shape in state.items() for entry in self.one_by_one(name, shape))

    def _name_on_disk(self, name: str) -> str:
        """The stored name of a parameter."""
        inner = re.sub(r"^model\.(audio_tower|visual)\.", r"\1.", name.removeprefix(self.prefix))
        on_disk = re.sub(r"^model\.language_model\.", "model.", inner)
        return self.prefix + on_disk if name.startswith(self.prefix) else name


def integer(config: Mapping[str, Any], key: str) -> int:
    """The integer `key` of a config; `TypeError` where it is something else."""
    if type(config[key]) is not int:
        raise TypeError(f"{key} is {config[key]!r}")
    return cast(int, config[key])


@contextmanager
def _unreported() -> Iterator[None]:
    """Without the report of tensors that the checkpoint has and the model has not."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
