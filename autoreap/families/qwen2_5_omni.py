"""Qwen2.5-Omni (thinker, talker, waveform decoder), as transformers 5 stores and builds it.

Its parts, and the names of most of them, are Qwen3-Omni's, so what that family answers holds but for what is here:
both decoders are dense, vision enters below the first layer alone, and the talker listens to the thinker's ends.

The voices lie in `spk_dict.pt` beside the weights, a pickle. It travels with a checkpoint and is not read, so a model
loaded here has its talker, but no voice to speak with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError
from autoreap.families.family import Config, TensorRole
from autoreap.families.qwen3_omni import STRIPPED, Qwen3Omni, unreported
from autoreap.plan import ComponentShape, ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.families.chat_inputs import ChatInputs

_DECODER_TENSOR = re.compile(r"(?P<part>thinker|talker)\.model\.layers\.(?P<layer>\d+)\.(?P<rest>.+)")
_STUB_HEADS, _STUB_HEAD_DIM = 8, 8
_PART_OF_PREFIX = {
    "thinker.audio_tower.": "audio",
    "thinker.visual.": "vision",
    "thinker.model.": "thinker",
    "thinker.lm_head.": "thinker",
    "talker.": "talker",
    "token2wav.": "speech",
}


class Qwen25Omni(Qwen3Omni):
    """Qwen2_5OmniForConditionalGeneration, with or without its talker."""

    model_type = "qwen2_5_omni"
    companions = ("spk_dict.pt",)  # the stock class does not load without it, even where nothing speaks

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """See `Family.shape`."""
        try:
            components = {"thinker": _dense(config["thinker_config"]["text_config"])}
            if config.get("enable_audio_output", True):
                components["talker"] = _dense(config["talker_config"])
            return ModelShape(components=components)
        except KeyError as error:
            raise InputError(f"key {error} is missing", where="config.json", fix="is this a Qwen2.5-Omni?") from None
        except (TypeError, AttributeError) as error:
            raise InputError(
                f"a value is of another kind than a Qwen2.5-Omni's: {error}", where="config.json"
            ) from None

    def role(self, tensor_name: str) -> TensorRole:
        """See `Family.role`."""
        if match := _DECODER_TENSOR.fullmatch(tensor_name):
            name = f"{match['part']}.model.layers.{{layer}}.{match['rest']}"
            return TensorRole(match["part"], name, layer=int(match["layer"]))
        for prefix, part in _PART_OF_PREFIX.items():
            if tensor_name.startswith(prefix):
                return TensorRole(part, tensor_name)
        raise InputError(f"unknown tensor {tensor_name!r}; a Qwen2.5-Omni has none of that name", where="checkpoint")

    def num_audio_tokens(self, num_frames: int) -> int:
        """See `Family.num_audio_tokens`. Twenty-five tokens a second."""
        from transformers.models.qwen2_5_omni import processing_qwen2_5_omni as processing

        return int(processing._get_feat_extract_output_lengths(num_frames))

    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        """See `Family.cache_values_per_token`. The width of a head follows from that of the hidden states."""
        text = config["thinker_config"]["text_config"]
        head_dim = text["hidden_size"] // text["num_attention_heads"]
        return int(2 * text["num_key_value_heads"] * head_dim * text["num_hidden_layers"])

    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """See `Family.working_values`.

        The tower holds its features three times, or its states of every second frame with what is between its two
        projections; the decoder holds the tokens with their residuals and three times what is between its projections.
        """
        audio, text = config["thinker_config"]["audio_config"], config["thinker_config"]["text_config"]
        states = -(-num_frames // 2) * (4 * audio["d_model"] + 2 * audio["encoder_ffn_dim"])
        tower = 3 * num_frames * audio["num_mel_bins"] + 2 * num_frames * audio["d_model"] + states
        return int(max(tower, num_tokens * (2 * text["hidden_size"] + 3 * text["intermediate_size"])))

    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        """See `Family.load`. The stock class's own way to load ends with reading the voices; this is all before it."""
        from transformers import PreTrainedModel, Qwen2_5OmniConfig
        from transformers import Qwen2_5OmniForConditionalGeneration as Stock

        config = Qwen2_5OmniConfig.from_pretrained(path)
        config.enable_audio_output = config.enable_audio_output and speech
        if not layers:
            config.thinker_config.text_config.num_hidden_layers = 0
        read: Any = PreTrainedModel.from_pretrained.__func__
        with unreported() if not (layers and config.enable_audio_output) else nullcontext():
            model = read(
                Stock,
                path,
                config=config,
                dtype=dtype,
                device_map=device,
                use_safetensors=True,
                trust_remote_code=False,
            )
        if getattr(config.thinker_config.vision_config, STRIPPED, False):
            self.close_eyes(model)  # a stub would turn an image into nonsense
        return cast("PreTrainedModel", model.eval())

    def new_layer(self, model: PreTrainedModel, number: int) -> nn.Module:
        """See `Family.new_layer`."""
        import torch
        from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

        config = self.thinker(model).model.language_model.config
        with torch.device("meta"):
            layer = modeling.Qwen2_5OmniDecoderLayer(config, number)
        return cast("nn.Module", layer.to(model.dtype).eval())

    def inputs(self, path: Path) -> ChatInputs:
        """See `Family.inputs`."""
        from transformers.models.qwen2_5_omni import processing_qwen2_5_omni as processing

        from autoreap.families.chat_inputs import Placeholders, read_chat_inputs

        return read_chat_inputs(
            path,
            Placeholders(audio="<|AUDIO|>", image="<|IMAGE|>", video="<|VIDEO|>"),
            self.num_audio_tokens,
            processing.Qwen2_5OmniProcessor.videos_kwargs["size"],
        )

    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """See `Family.speak`. There is no voice to speak with."""
        raise InputError(
            f"the voices of a Qwen2.5-Omni are in {self.companions[0]}, a pickle, which is not read",
            where="--component talker",
            fix="calibrate the thinker; layers of the talker can be cut by name, with --layers",
        )

    @contextmanager
    def without_speech(self, model: PreTrainedModel) -> Iterator[None]:
        """See `Family.without_speech`."""
        modules, has_talker = dict(model._modules), getattr(model, "has_talker", False)
        if not has_talker:
            yield
            return
        try:
            cast(Any, model).has_talker = False
            del model._modules["talker"], model._modules["token2wav"]
            yield
        finally:
            cast(Any, model).has_talker = has_talker
            model._modules.clear()
            model._modules.update(modules)  # in their order

    def speech_tap(self, model: PreTrainedModel) -> int | None:
        """See `Family.speech_tap`. The talker listens to the embeddings and to the end of the thinker."""
        return None

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """See `Family.write_experts`. There are none."""

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """See `Family.write_layers`. Which layers attend within a window is a matter of their number, unless listed."""
        text = config["thinker_config"]["text_config"] if component == "thinker" else config["talker_config"]
        text["num_hidden_layers"] = len(retained)
        if text.get("layer_types"):
            text["layer_types"] = [text["layer_types"][layer] for layer in retained]
        if "max_window_layers" in text:
            text["max_window_layers"] = sum(layer < text["max_window_layers"] for layer in retained)

    def write_no_vision(self, config: Config) -> dict[str, tuple[int, ...]]:
        """See `Family.write_no_vision`. One narrow block stays, for the reasons that hold for Qwen3-Omni."""
        vision = config["thinker_config"]["vision_config"]
        try:
            width = _STUB_HEADS * _STUB_HEAD_DIM
            vision |= {"depth": 1, "num_heads": _STUB_HEADS, "hidden_size": width, "intermediate_size": width}
            vision |= {"fullatt_block_indexes": [0], STRIPPED: True}
            if "embed_dim" in vision:  # what older versions of transformers call hidden_size
                vision["embed_dim"] = width
            patch, merged = vision["patch_size"], width * vision["spatial_merge_size"] ** 2
            square = [f"blocks.0.{name}" for name in ("attn.q", "attn.k", "attn.v", "attn.proj")]
            square += [f"blocks.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
            rows = dict.fromkeys(square, (width, width))
            rows |= {"merger.mlp.0": (merged, merged), "merger.mlp.2": (vision["out_hidden_size"], merged)}
            projection = (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch)
        except KeyError as error:
            raise InputError(f"key {error} of the vision config is missing", where="config.json") from None
        except TypeError as error:
            raise InputError(f"a value of the vision config is of another kind: {error}", where="config.json") from None
        shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": projection}
        shapes |= {f"{name}.weight": (width,) for name in ("blocks.0.norm1", "blocks.0.norm2", "merger.ln_q")}
        for name, shape in rows.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return {f"thinker.visual.{name}": shape for name, shape in shapes.items()}

    def expected_tensors(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """See `Family.expected_tensors`."""
        import torch
        from huggingface_hub.errors import StrictDataclassError
        from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

        try:
            with torch.device("meta"):
                model = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig(**config))
        except (StrictDataclassError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"the stock class can't be built from it: {reason}", where="config.json") from None
        return {_name_on_disk(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _name_on_disk(name: str) -> str:
    name = re.sub(r"^thinker\.model\.(audio_tower|visual)\.", r"thinker.\1.", name)
    return name.replace("thinker.model.language_model.", "thinker.model.", 1)


def _dense(decoder: Mapping[str, Any]) -> ComponentShape:
    num_layers = decoder["num_hidden_layers"]
    if type(num_layers) is not int:
        raise TypeError(f"num_hidden_layers is {num_layers!r}")
    return ComponentShape(num_layers, num_experts=0, top_k=0)
