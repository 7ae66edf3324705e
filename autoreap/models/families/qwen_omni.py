"""What Qwen's omni models share: a thinker that hears, sees and writes, and what speaks beside it.

On disk the thinker's prefixes are `{audio_tower,visual,model}`; in memory `model.{audio_tower,visual,language_model}`.
In a whole model all of them follow `thinker.`; see `ThinkerAlone` for one saved alone.
"""

from __future__ import annotations

import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, integer
from autoreap.models.families.running import Decoder, RunningModel
from autoreap.models.families.stock import empty_layer, read_model
from autoreap.models.families.voice import Voice
from autoreap.plan import ComponentShape, ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.models.families.chat_inputs import ChatInputs

_THINKER_PARTS = {"audio_tower.": "audio", "visual.": "vision", "model.": "thinker", "lm_head.": "thinker"}
_STRIPPED = "vision_stripped"  # our key of the vision config: what is left of the tower is a stub
_STUB_HEADS, _STUB_HEAD_DIM = 8, 8  # so many heads can be split among up to eight devices


class QwenOmniLayout(CheckpointLayout):
    """The checkpoints of a Qwen omni model.

    Attributes:
        prefix: of all tensors of the thinker.
        speech_parts: the parts that only speak, by the prefix of their tensors.
    """

    prefix = "thinker."
    speech_parts: Mapping[str, str]

    @abstractmethod
    def decoder_shape(self, config: Mapping[str, Any]) -> ComponentShape:
        """The shape of a decoder, from its own config."""

    @abstractmethod
    def stub_tensors(self, vision: Config) -> Shapes:
        """Tensors, by their names within it, of a tower of one block whose width `vision`, its config, says.

        Keys that the family alone has are set. `KeyError` and `TypeError` say that the config is not the family's.
        """

    @property
    def parts(self) -> Mapping[str, str]:
        parts = dict(self.speech_parts)
        for name, part in _THINKER_PARTS.items():
            parts[self.prefix + name] = part
        return parts

    def name_on_disk(self, name: str) -> str:
        if not name.startswith(self.prefix):
            return name
        inner = name.removeprefix(self.prefix)
        inner = re.sub(r"^model\.(audio_tower|visual)\.", r"\1.", inner)
        return self.prefix + re.sub(r"^model\.language_model\.", "model.", inner)

    def thinker_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The thinker's part of a config."""
        return cast(dict[str, Any], config["thinker_config"])

    def decoder_config(self, config: Mapping[str, Any], component: str) -> dict[str, Any]:
        """The part of a config that describes the decoder of `component`."""
        part = self.thinker_config(config) if component == "thinker" else config[f"{component}_config"]
        return cast(dict[str, Any], part["text_config"])

    def model_shape(self, config: Mapping[str, Any]) -> ModelShape:
        components = ["thinker"]
        if self.speech_parts and config.get("enable_audio_output", True):
            components.append("talker")
        return ModelShape({name: self.decoder_shape(self.decoder_config(config, name)) for name in components})

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        self.decoder_config(config, component)["num_hidden_layers"] = len(retained)

    def write_no_speech(self, config: Config) -> None:
        if self.speech_parts:
            config["enable_audio_output"] = False

    def write_no_vision(self, config: Config) -> Shapes:
        """The stock class always builds a tower. What stays is one narrow block between a patch embedding and a merger:
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
            raise InputError(f"a value of the vision config has the wrong type: {error}", where="config.json") from None
        return {f"{self.prefix}visual.{name}": shape for name, shape in shapes.items()}


class ThinkerAlone(QwenOmniLayout):
    """The thinker of a Qwen omni model saved alone, as `model.thinker.save_pretrained` writes it; inherit it first.

    Its config is the `thinker_config` of the whole model's, and its tensors' names lack the prefix `thinker.`.
    """

    prefix = ""
    speech_parts: Mapping[str, str] = {}
    companions: tuple[str, ...] = ()

    def thinker_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], config)


def name_tensors(plain: Mapping[str, tuple[int, ...]], biased: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The tensors of modules that have a weight of this shape; those of `biased` have a bias of as many rows, too."""
    shapes: Shapes = {}
    for name, shape in (*plain.items(), *biased.items()):
        shapes[f"{name}.weight"] = shape
        if name in biased:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


class RunningQwenOmni(RunningModel):
    """A Qwen omni model, whole or the thinker alone.

    Attributes:
        layer_name: of the class of the thinker's decoder layers, which stands beside that of the thinker.
        processor_name: of the processor of transformers.
        placeholders: the tokens in whose place embeddings of audio, of an image and of a video go.
    """

    layer_name: str
    processor_name: str
    placeholders: tuple[str, str, str]

    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        stock = self.layout.stock_class()
        config = stock.config_class.from_pretrained(path)
        thinker = getattr(config, "thinker_config", config)
        # The thinker alone never had a voice.
        if not speech and thinker is not config:
            config.enable_audio_output = False
        if not layers:
            thinker.text_config.num_hidden_layers = 0
        model = read_model(self.reader(stock), path, config, dtype=dtype, device=device, layers=layers)
        if getattr(thinker.vision_config, _STRIPPED, False):
            self.disable_vision(model)  # a stub would turn an image into nonsense
        return model

    def reader(self, stock: Any) -> Callable[..., Any]:
        """What loads a checkpoint into the class `stock`."""
        return cast(Callable[..., Any], stock.from_pretrained)

    def new_layer(self, model: PreTrainedModel, number: int) -> nn.Module:
        thinker = self.thinker(model)
        layer_class = getattr(sys.modules[type(thinker).__module__], self.layer_name)
        return empty_layer(layer_class, thinker.model.language_model.config, number, model.dtype)

    def inputs(self, path: Path) -> ChatInputs:
        import transformers

        from autoreap.models.families.chat_inputs import Placeholders, read_chat_inputs

        frame_size = getattr(transformers, self.processor_name).videos_kwargs["size"]
        return read_chat_inputs(path, Placeholders(*self.placeholders), self.layout.num_audio_tokens, frame_size)

    def thinker(self, model: PreTrainedModel) -> PreTrainedModel:
        return cast("PreTrainedModel", getattr(model, "thinker", model))

    def decoder(self, model: PreTrainedModel, component: str) -> Decoder | None:
        if component == "thinker":
            return cast(Decoder, self.thinker(model).model.language_model)
        talker = getattr(model, "talker", None)
        return cast(Decoder, talker.model) if talker is not None else None

    def audio_embeddings(self, model: PreTrainedModel, mel: torch.Tensor, num_frames: int) -> torch.Tensor:
        import torch

        thinker = self.thinker(model)
        device = self.device(model)
        mask = torch.ones((1, mel.shape[1]), dtype=torch.long, device=device)
        features = mel[None].to(device, thinker.dtype)
        output = thinker.get_audio_features(features, feature_attention_mask=mask, return_dict=True)
        return cast("torch.Tensor", output.last_hidden_state)

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A picture takes fewer positions than tokens.

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

    def vision_entrances(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        return [(self.thinker(model).model, name) for name in ("get_image_features", "get_video_features")]


class QwenOmniVoice(Voice):
    """The talker, and the decoder of waveforms.

    Attributes:
        modules: the names of both in the model.
    """

    modules: tuple[str, ...]

    @contextmanager
    def without_speech(self, model: PreTrainedModel) -> Iterator[None]:
        stock = cast(Any, model)
        if not stock.has_talker:  # nothing to take out
            yield
            return
        modules = dict(model._modules)
        try:
            # `generate` asks this whether to speak.
            stock.has_talker = False
            for name in self.modules:
                del model._modules[name]
            yield
        finally:
            stock.has_talker = True
            model._modules.clear()
            model._modules.update(modules)  # in their order
