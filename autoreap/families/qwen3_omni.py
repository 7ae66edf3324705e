"""Qwen3-Omni (thinker, talker, waveform decoder), as transformers 5 stores and builds it.

On disk the prefixes are `thinker.{audio_tower,visual,model}`; in memory
`thinker.model.{audio_tower,visual,language_model}`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError, SilenceError
from autoreap.families.family import Config, Decoder, Family, Router, TensorRole
from autoreap.plan import ComponentShape, ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.families.chat_inputs import ChatInputs

_DECODER_TENSOR = re.compile(r"(?P<part>thinker|talker)\.model\.layers\.(?P<layer>\d+)\.(?P<rest>.+)")
_EXPERT_TENSOR = re.compile(r"mlp\.experts\.(?P<expert>\d+)\.(?P<rest>(gate|up|down)_proj\.weight)")
_ROWS_ARE_EXPERTS = ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
STRIPPED = "vision_stripped"  # our key of the vision config: what is left of the tower is a stub
_STUB_HEADS, _STUB_HEAD_DIM = 8, 8
_PART_OF_PREFIX = {
    "thinker.audio_tower.": "audio",
    "thinker.visual.": "vision",
    "thinker.model.": "thinker",
    "thinker.lm_head.": "thinker",
    "talker.": "talker",
    "code2wav.": "speech",
}


class Qwen3Omni(Family):
    """Qwen3OmniMoeForConditionalGeneration, with or without its talker."""

    model_type = "qwen3_omni_moe"
    frames_per_second = 100

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """See `Family.shape`."""
        try:
            components = {"thinker": _component_shape(config, "thinker")}
            if config.get("enable_audio_output", True):
                components["talker"] = _component_shape(config, "talker")
            return ModelShape(
                components=components,
                deepstack_layers=len(config["thinker_config"]["vision_config"]["deepstack_visual_indexes"]),
                speech_tap=_integer(config["talker_config"], "accept_hidden_layer") if "talker" in components else None,
            )
        except KeyError as error:
            raise InputError(f"key {error} is missing", where="config.json", fix="is this a Qwen3-Omni?") from None
        except (TypeError, AttributeError) as error:
            raise InputError(f"a value is of another kind than a Qwen3-Omni's: {error}", where="config.json") from None

    def role(self, tensor_name: str) -> TensorRole:
        """See `Family.role`."""
        if match := _DECODER_TENSOR.fullmatch(tensor_name):
            part, layer, rest = match["part"], int(match["layer"]), match["rest"]
            prefix = f"{part}.model.layers.{{layer}}."
            if expert := _EXPERT_TENSOR.fullmatch(rest):
                name = f"{prefix}mlp.experts.{{expert}}.{expert['rest']}"
                return TensorRole(part, name, layer=layer, expert=int(expert["expert"]))
            return TensorRole(part, prefix + rest, layer=layer, rows_are_experts=rest in _ROWS_ARE_EXPERTS)
        for prefix, part in _PART_OF_PREFIX.items():
            if tensor_name.startswith(prefix):
                return TensorRole(part, tensor_name)
        raise InputError(f"unknown tensor {tensor_name!r}; a Qwen3-Omni has none of that name", where="checkpoint")

    def num_audio_tokens(self, num_frames: int) -> int:
        """See `Family.num_audio_tokens`. Thirteen tokens a second."""
        from transformers.models.qwen3_omni_moe import processing_qwen3_omni_moe as processing

        return int(processing._get_feat_extract_output_lengths(num_frames))

    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        """See `Family.cache_values_per_token`. A key and a value for each head of each layer."""
        text = _text_config(config, "thinker")
        heads = _integer(text, "num_key_value_heads")
        return 2 * heads * _integer(text, "head_dim") * _integer(text, "num_hidden_layers")

    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """See `Family.working_values`.

        The tower holds its features three times, and its first convolution before and after the activation, over chunks
        of `2 * n_window` frames of which `conv_chunksize` run at once, beside what came of the chunks before. The
        decoder holds the tokens with their residuals, the router's logits and probabilities, and of each token's top-k
        experts what goes in and comes out four times (hidden size), and three times what is between.
        """
        audio, text = config["thinker_config"]["audio_config"], _text_config(config, "thinker")
        channels, mel_bins, window = audio["downsample_hidden_size"], audio["num_mel_bins"], audio["n_window"]
        chunks = -(-num_frames // (2 * window))
        at_once = min(chunks, audio["conv_chunksize"])
        done = (chunks - at_once) * self.num_audio_tokens(2 * window) * channels * -(-mel_bins // 8)
        tower = 3 * num_frames * mel_bins + 2 * at_once * channels * -(-mel_bins // 2) * window + done
        hidden, top_k = text["hidden_size"], text["num_experts_per_tok"]
        routed = top_k * (4 * hidden + 3 * text["moe_intermediate_size"])
        return int(max(tower, num_tokens * (2 * hidden + 2 * text["num_experts"] + routed)))

    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        """See `Family.load`."""
        from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

        config = Qwen3OmniMoeConfig.from_pretrained(path)
        config.enable_audio_output = config.enable_audio_output and speech
        if not layers:
            config.thinker_config.text_config.num_hidden_layers = 0
        with nullcontext() if layers else unreported():
            model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(
                path, config=config, dtype=dtype, device_map=device, use_safetensors=True, trust_remote_code=False
            )
        if getattr(config.thinker_config.vision_config, STRIPPED, False):
            self.close_eyes(model)  # a stub would turn an image into nonsense
        return cast("PreTrainedModel", model.eval())

    def new_layer(self, model: PreTrainedModel, number: int) -> nn.Module:
        """See `Family.new_layer`."""
        import torch
        from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as modeling

        config = self.thinker(model).model.language_model.config
        with torch.device("meta"):
            layer = modeling.Qwen3OmniMoeThinkerTextDecoderLayer(config, number)
        return cast("nn.Module", layer.to(model.dtype).eval())

    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """See `Family.slot`. In memory the gate's rows lie above those of the projection it gates."""
        match = _DECODER_TENSOR.fullmatch(tensor_name)
        if match is None:
            raise InputError(f"tensor {tensor_name!r} belongs to no decoder layer", where="checkpoint")
        expert = _EXPERT_TENSOR.fullmatch(match["rest"])
        if expert is None:
            return match["rest"], ()
        number, projection = int(expert["expert"]), expert["rest"].partition("_")[0]
        if projection == "down":
            return "mlp.experts.down_proj", (number,)
        half = slice(shape[0]) if projection == "gate" else slice(shape[0], None)
        return "mlp.experts.gate_up_proj", (number, half)

    def inputs(self, path: Path) -> ChatInputs:
        """See `Family.inputs`."""
        from transformers.models.qwen3_omni_moe import processing_qwen3_omni_moe as processing

        from autoreap.families.chat_inputs import Placeholders, read_chat_inputs

        return read_chat_inputs(
            path,
            Placeholders(audio="<|audio_pad|>", image="<|image_pad|>", video="<|video_pad|>"),
            self.num_audio_tokens,
            processing.Qwen3OmniMoeProcessor.videos_kwargs["size"],
        )

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

    def router(self, layer: nn.Module) -> Router | None:
        """See `Family.router`."""
        return getattr(layer.mlp, "gate", None)

    def experts(self, layer: nn.Module) -> nn.Module | None:
        """See `Family.experts`."""
        return getattr(layer.mlp, "experts", None)

    def raw_gates(self, router_output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """See `Family.raw_gates`. Rounded as the router rounds what it returns."""
        logits, _, indices = router_output
        return logits.float().softmax(dim=-1).gather(1, indices).to(logits.dtype)

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

    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """See `Family.speak`. A step is a codec frame of 80 ms; text is some four tokens a second of speech.

        The stock class can't go on from an answer of no word, nor from speech of no frame.
        """
        talker = model.config.talker_config
        with warnings.catch_warnings(), _with_audio_config(talker, model.config.thinker_config.audio_config):
            warnings.filterwarnings("ignore", message="Passing `repetition_penalty`")  # the stock class does so itself
            model.generate(
                **inputs,
                speaker=next(iter(talker.speaker_id)),
                thinker_eos_token_id=end_token,
                thinker_max_new_tokens=max_steps // 3,
                talker_max_new_tokens=max_steps,
                thinker_stopping_criteria=[_refuse_silence(end_token, inputs["input_ids"].shape[1], "no word")],
                talker_stopping_criteria=[_refuse_silence(talker.codec_eos_token_id, 0, "no sound")],
                return_audio=True,
            )

    @contextmanager
    def without_speech(self, model: PreTrainedModel) -> Iterator[None]:
        """See `Family.without_speech`."""
        modules, has_talker = dict(model._modules), getattr(model, "has_talker", False)
        if not has_talker:  # nothing to take out; the thinker alone has no such attribute either
            yield
            return
        try:
            cast(Any, model).has_talker = False
            del model._modules["talker"], model._modules["code2wav"]
            yield
        finally:
            cast(Any, model).has_talker = has_talker
            model._modules.clear()
            model._modules.update(modules)  # in their order

    def write_no_speech(self, config: Config) -> None:
        """See `Family.write_no_speech`."""
        config["enable_audio_output"] = False

    def speech_tap(self, model: PreTrainedModel) -> int | None:
        """See `Family.speech_tap`."""
        if getattr(model, "talker", None) is None:
            return None
        return int(model.config.talker_config.accept_hidden_layer)

    def set_speech_tap(self, model: PreTrainedModel, tap: int) -> None:
        """See `Family.set_speech_tap`."""
        model.config.talker_config.accept_hidden_layer = tap

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """See `Family.write_experts`."""
        text = _text_config(config, component)
        text["num_experts"] = num_experts
        if "num_local_experts" in text:  # transformers writes it for the talker, and it wins over num_experts there
            text["num_local_experts"] = num_experts
        text["num_experts_per_tok"] = min(text["num_experts_per_tok"], num_experts)

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """See `Family.write_layers`."""
        text = _text_config(config, component)
        text["num_hidden_layers"] = len(retained)
        if text.get("mlp_only_layers"):
            text["mlp_only_layers"] = [retained.index(i) for i in text["mlp_only_layers"] if i in retained]
        talker = config.get("talker_config", {})
        if component == "thinker" and "accept_hidden_layer" in talker:
            talker["accept_hidden_layer"] = sum(layer < talker["accept_hidden_layer"] for layer in retained)

    def write_no_vision(self, config: Config) -> dict[str, tuple[int, ...]]:
        """See `Family.write_no_vision`.

        The stock class always builds a tower. What stays is one narrow block between a patch embedding and a merger:
        with no block at all SGLang's tower can't be built, and with fewer heads none could be split among devices.
        """
        vision = config["thinker_config"]["vision_config"]
        try:
            num_heads = min(_STUB_HEADS, _integer(vision, "num_heads"))
            width = num_heads * _STUB_HEAD_DIM
            vision |= {"depth": 1, "num_heads": num_heads, "hidden_size": width, "intermediate_size": width}
            vision |= {"deepstack_visual_indexes": [], STRIPPED: True}
            patch, out = vision["patch_size"], vision["out_hidden_size"]
            merged = width * vision["spatial_merge_size"] ** 2
            rows = {
                "patch_embed.proj": (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
                "blocks.0.norm1": (width,),
                "blocks.0.norm2": (width,),
                "blocks.0.attn.qkv": (3 * width, width),
                "blocks.0.attn.proj": (width, width),
                "blocks.0.mlp.linear_fc1": (width, width),
                "blocks.0.mlp.linear_fc2": (width, width),
                "merger.ln_q": (width,),
                "merger.mlp.0": (merged, merged),
                "merger.mlp.2": (out, merged),
            }
            shapes: dict[str, tuple[int, ...]] = {"pos_embed.weight": (vision["num_position_embeddings"], width)}
        except KeyError as error:
            raise InputError(f"key {error} of the vision config is missing", where="config.json") from None
        except TypeError as error:
            raise InputError(f"a value of the vision config is of another kind: {error}", where="config.json") from None
        for name, shape in rows.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return {f"thinker.visual.{name}": shape for name, shape in shapes.items()}

    def vision_entrances(self, model: PreTrainedModel) -> list[tuple[nn.Module, str]]:
        """See `Family.vision_entrances`."""
        return [(self.thinker(model).model, name) for name in ("get_image_features", "get_video_features")]

    def one_by_one(self, tensor_name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        """See `Family.one_by_one`."""
        prefix, _, projection = tensor_name.rpartition(".")
        if projection == "gate_up_proj":
            num_experts, rows, columns = shape
            names = [
                f"{prefix}.{expert}.{half}_proj.weight" for expert in range(num_experts) for half in ("gate", "up")
            ]
            return [(name, (rows // 2, columns)) for name in names]
        if projection == "down_proj":
            return [(f"{prefix}.{expert}.down_proj.weight", shape[1:]) for expert in range(shape[0])]
        return [(tensor_name, shape)]

    def expected_tensors(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """See `Family.expected_tensors`."""
        import torch
        from huggingface_hub.errors import StrictDataclassError
        from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

        try:
            with torch.device("meta"):
                model = Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(**config))
        except (StrictDataclassError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"the stock class can't be built from it: {reason}", where="config.json") from None
        state = {_name_on_disk(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return dict(entry for name, shape in state.items() for entry in self.one_by_one(name, shape))


@contextmanager
def _with_audio_config(talker_config: Any, audio_config: Any) -> Iterator[None]:
    """The talker's config has what its positions of images beside audio are computed from, and the stock one lacks."""
    if hasattr(talker_config, "audio_config"):
        yield
        return
    talker_config.audio_config = audio_config
    try:
        yield
    finally:
        del talker_config.audio_config


def _refuse_silence(end_token: int, num_before: int, what: str) -> Callable[..., torch.Tensor]:
    """A stopping criterion that stops nothing, but raises where the first token after `num_before` ends it all."""

    def criterion(input_ids: torch.Tensor, _scores: Any, **_options: Any) -> torch.Tensor:
        if input_ids.shape[1] == num_before + 1 and int(input_ids[0, -1]) == end_token:
            raise SilenceError(f"answered with {what}")
        return input_ids.new_zeros(len(input_ids)).bool()

    return criterion


@contextmanager
def unreported() -> Iterator[None]:
    """Without the report of tensors that the checkpoint has and the model has not."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _name_on_disk(name: str) -> str:
    name = re.sub(r"^thinker\.model\.(audio_tower|visual)\.", r"thinker.\1.", name)
    return name.replace("thinker.model.language_model.", "thinker.model.", 1)


def _text_config(config: Mapping[str, Any], component: str) -> dict[str, Any]:
    return cast(dict[str, Any], config[f"{component}_config"]["text_config"])


def _component_shape(config: Mapping[str, Any], component: str) -> ComponentShape:
    text = _text_config(config, component)
    return ComponentShape(
        num_layers=_integer(text, "num_hidden_layers"),
        num_experts=_integer(text, "num_local_experts" if "num_local_experts" in text else "num_experts"),
        top_k=_integer(text, "num_experts_per_tok"),
    )


def _integer(config: Mapping[str, Any], key: str) -> int:
    if type(config[key]) is not int:
        raise TypeError(f"{key} is {config[key]!r}")
    return cast(int, config[key])
