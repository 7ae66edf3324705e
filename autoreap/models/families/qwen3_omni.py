"""Qwen3-Omni (thinker, talker, waveform decoder), as transformers 5 builds it: both decoders have experts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoreap.errors import SilenceError
from autoreap.models.families.family import Family
from autoreap.models.families.layout import Config, Shapes, TensorRole, integer
from autoreap.models.families.qwen_omni import (
    QwenOmniLayout,
    QwenOmniVoice,
    RunningQwenOmni,
    ThinkerAlone,
    name_tensors,
)
from autoreap.models.families.running import Router
from autoreap.plan import ComponentShape, ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_EXPERT_TENSOR = re.compile(
    r"mlp\.experts\.(?P<expert>\d+)\.(?P<rest>(gate|up|down)_proj\.weight(_packed|_scale|_shape)?)"
)
# transformers writes a tensor for each expert, and loads those that are fused as they are in memory, too.
_ROWS_ARE_EXPERTS = ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class Qwen3OmniLayout(QwenOmniLayout):
    """Qwen3OmniMoeForConditionalGeneration, with or without its talker."""

    model_type = "qwen3_omni_moe"
    title = "Qwen3-Omni"
    stock_name = "Qwen3OmniMoeForConditionalGeneration"
    speech_parts: Mapping[str, str] = {"talker.": "talker", "code2wav.": "speech"}

    def decoder_shape(self, config: Mapping[str, Any]) -> ComponentShape:
        key = "num_experts"
        # Transformers writes both for the talker, and builds this many.
        if "num_local_experts" in config:
            key = "num_local_experts"
        num_layers, num_experts = integer(config, "num_hidden_layers"), integer(config, key)
        return ComponentShape(num_layers, num_experts, top_k=integer(config, "num_experts_per_tok"))

    def model_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Vision enters below several layers, and the talker listens between two."""
        shape = super().model_shape(config)
        vision = self.thinker_config(config)["vision_config"]
        shape = replace(shape, deepstack_layers=len(vision["deepstack_visual_indexes"]))
        if "talker" not in shape.components:
            return shape
        return replace(shape, speech_tap=integer(config["talker_config"], "accept_hidden_layer"))

    def role(self, tensor_name: str) -> TensorRole:
        role = super().role(tensor_name)
        if role.layer is None:
            return role
        within_layer = role.name.partition("{layer}.")[2]
        expert = _EXPERT_TENSOR.fullmatch(within_layer)
        if expert is None:
            return replace(role, rows_are_experts=within_layer in _ROWS_ARE_EXPERTS)
        # A plan names experts by their numbers, so the name keeps a place for one.
        name = f"{role.name.removesuffix(within_layer)}mlp.experts.{{expert}}.{expert['rest']}"
        return replace(role, name=name, expert=int(expert["expert"]))

    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """In memory the gate's rows lie above those of the projection it gates."""
        name, index = super().slot(tensor_name, shape)
        expert = _EXPERT_TENSOR.fullmatch(name)
        if expert is None:
            return name, index
        number = int(expert["expert"])
        if expert["rest"].startswith("down"):
            return "mlp.experts.down_proj", (number,)
        if expert["rest"].startswith("gate"):
            return "mlp.experts.gate_up_proj", (number, slice(shape[0]))
        return "mlp.experts.gate_up_proj", (number, slice(shape[0], None))

    def num_audio_tokens(self, num_frames: int) -> int:
        """Thirteen tokens a second."""
        from transformers.models.qwen3_omni_moe import processing_qwen3_omni_moe as processing

        # Its own formula, which is private: chunks of 100 frames give 13 tokens each, the last one fewer.
        return int(processing._get_feat_extract_output_lengths(num_frames))

    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        """A key and a value for each head of each layer."""
        text = self.decoder_config(config, "thinker")
        heads = integer(text, "num_key_value_heads")
        return 2 * heads * integer(text, "head_dim") * integer(text, "num_hidden_layers")

    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """The most that is held in the tower, or in the decoder.

        The tower holds its features three times, and its first convolution before and after the activation, over chunks
        of `2 * n_window` frames of which `conv_chunksize` run at once, beside what came of the chunks before. The
        decoder holds the tokens with their residuals, the router's logits and probabilities, and of each token's top-k
        experts what goes in and comes out four times (hidden size), and three times what is between.
        """
        audio, text = self.thinker_config(config)["audio_config"], self.decoder_config(config, "thinker")
        channels, mel_bins, window = audio["downsample_hidden_size"], audio["num_mel_bins"], audio["n_window"]
        chunks = -(-num_frames // (2 * window))  # rounded up
        at_once = min(chunks, audio["conv_chunksize"])
        features = 3 * num_frames * mel_bins
        convolved = 2 * at_once * channels * -(-mel_bins // 2) * window
        done = (chunks - at_once) * self.num_audio_tokens(2 * window) * channels * -(-mel_bins // 8)
        hidden = text["hidden_size"]
        routed = text["num_experts_per_tok"] * (4 * hidden + 3 * text["moe_intermediate_size"])
        decoder = num_tokens * (2 * hidden + 2 * text["num_experts"] + routed)
        return int(max(features + convolved + done, decoder))

    def unfuse_experts(self, tensor_name: str, shape: tuple[int, ...]) -> Shapes:
        prefix, _, projection = tensor_name.rpartition(".")
        if projection == "gate_up_proj":
            num_experts, rows, columns = shape
            unfused: Shapes = {}
            for expert in range(num_experts):
                unfused[f"{prefix}.{expert}.gate_proj.weight"] = (rows // 2, columns)
                unfused[f"{prefix}.{expert}.up_proj.weight"] = (rows // 2, columns)
            return unfused
        if projection == "down_proj":
            return {f"{prefix}.{expert}.down_proj.weight": shape[1:] for expert in range(shape[0])}
        return {tensor_name: shape}

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        text = self.decoder_config(config, component)
        text["num_experts"] = num_experts
        if "num_local_experts" in text:
            text["num_local_experts"] = num_experts
        # A router can't choose more experts than there are.
        text["num_experts_per_tok"] = min(text["num_experts_per_tok"], num_experts)

    def write_active_experts(self, config: Config, num_active: int) -> None:
        self.decoder_config(config, "thinker")["num_experts_per_tok"] = num_active

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        super().write_layers(config, component, retained)
        text = self.decoder_config(config, component)
        if text.get("mlp_only_layers"):
            dense = set(text["mlp_only_layers"])
            text["mlp_only_layers"] = [number for number, layer in enumerate(retained) if layer in dense]
        # The talker names a hidden state by the number of layers before it.
        talker = config.get("talker_config", {})
        if component == "thinker" and "accept_hidden_layer" in talker:
            talker["accept_hidden_layer"] = _moved(talker["accept_hidden_layer"], retained)

    def stub_tensors(self, vision: Config) -> Shapes:
        # A stub hands nothing to layers of the thinker.
        vision["deepstack_visual_indexes"] = []
        width, patch = vision["hidden_size"], vision["patch_size"]
        merged = width * vision["spatial_merge_size"] ** 2
        biased = {
            "patch_embed.proj": (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
            "blocks.0.norm1": (width,),
            "blocks.0.norm2": (width,),
            "blocks.0.attn.qkv": (3 * width, width),
            "blocks.0.attn.proj": (width, width),
            "blocks.0.mlp.linear_fc1": (width, width),
            "blocks.0.mlp.linear_fc2": (width, width),
            "merger.ln_q": (width,),
            "merger.mlp.0": (merged, merged),
            "merger.mlp.2": (vision["out_hidden_size"], merged),
        }
        return name_tensors({"pos_embed": (vision["num_position_embeddings"], width)}, biased)


class Qwen3OmniThinkerLayout(ThinkerAlone, Qwen3OmniLayout):
    """Qwen3OmniMoeThinkerForConditionalGeneration."""

    model_type = "qwen3_omni_moe_thinker"
    stock_name = "Qwen3OmniMoeThinkerForConditionalGeneration"


class RunningQwen3Omni(RunningQwenOmni):
    """Both decoders have experts."""

    layer_name = "Qwen3OmniMoeThinkerTextDecoderLayer"
    processor_name = "Qwen3OmniMoeProcessor"
    placeholders = ("<|audio_pad|>", "<|image_pad|>", "<|video_pad|>")

    def router(self, layer: nn.Module) -> Router | None:
        return getattr(layer.mlp, "gate", None)

    def experts(self, layer: nn.Module) -> nn.Module | None:
        return getattr(layer.mlp, "experts", None)


class Qwen3OmniVoice(QwenOmniVoice):
    """A talker that listens amid the thinker."""

    modules = ("talker", "code2wav")

    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """A step is a codec frame of 80 ms; text is some four tokens a second of speech.

        The stock class can't go on from an answer of no word, nor from speech of no frame.
        """
        talker = model.config.talker_config
        with warnings.catch_warnings(), _with_audio_config(talker, model.config.thinker_config.audio_config):
            # The stock class does so itself.
            warnings.filterwarnings("ignore", message="Passing `repetition_penalty`")
            model.generate(
                **inputs,
                speaker=next(iter(talker.speaker_id)),  # any: what is said does not matter
                thinker_eos_token_id=end_token,
                thinker_max_new_tokens=max_steps // 3,  # 12.5 frames a second over some four tokens
                talker_max_new_tokens=max_steps,
                thinker_stopping_criteria=[_refuse_silence(end_token, inputs["input_ids"].shape[1], "no word")],
                talker_stopping_criteria=[_refuse_silence(talker.codec_eos_token_id, 0, "no sound")],
                return_audio=True,
            )

    @contextmanager
    def with_moved_input(self, model: PreTrainedModel, retained: tuple[int, ...]) -> Iterator[None]:
        config = model.config.talker_config
        before = config.accept_hidden_layer
        try:
            config.accept_hidden_layer = _moved(before, retained)
            yield
        finally:
            config.accept_hidden_layer = before


def _moved(hidden_state: int, retained: tuple[int, ...]) -> int:
    """The number of a hidden state, which is that of the layers before it, where only `retained` layers are left."""
    return sum(layer < hidden_state for layer in retained)


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


_WHOLE, _THINKER = Qwen3OmniLayout(), Qwen3OmniThinkerLayout()
QWEN3_OMNI = Family(_WHOLE, RunningQwen3Omni(_WHOLE), Qwen3OmniVoice())
QWEN3_OMNI_THINKER = Family(_THINKER, RunningQwen3Omni(_THINKER))
