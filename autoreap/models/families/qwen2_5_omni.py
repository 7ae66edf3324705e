"""Qwen2.5-Omni (thinker, talker, waveform decoder), as transformers 5 stores and builds it.

Both decoders are dense, vision enters below the first layer alone, and the talker listens to the thinker's ends.

The voices lie in `spk_dict.pt` beside the weights, a pickle. It travels with a checkpoint and is not read, so a model
loaded here has its talker, but no voice to speak with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError
from autoreap.models.families.family import Family
from autoreap.models.families.layout import Config, Shapes, integer
from autoreap.models.families.qwen2_decoder import cached_values, write_windows
from autoreap.models.families.qwen_omni import (
    QwenOmniLayout,
    QwenOmniVoice,
    RunningQwenOmni,
    ThinkerAlone,
    name_tensors,
)
from autoreap.plan import ComponentShape

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_VOICES = "spk_dict.pt"


class Qwen25OmniLayout(QwenOmniLayout):
    """Qwen2_5OmniForConditionalGeneration, with or without its talker."""

    model_type = "qwen2_5_omni"
    title = "Qwen2.5-Omni"
    stock_name = "Qwen2_5OmniForConditionalGeneration"
    # The stock class does not load without it, even if nothing speaks.
    companions: tuple[str, ...] = (_VOICES,)
    speech_parts: Mapping[str, str] = {"talker.": "talker", "token2wav.": "speech"}

    def decoder_config(self, config: Mapping[str, Any], component: str) -> dict[str, Any]:
        """The talker's is that of its decoder, too."""
        if component == "talker":
            return cast(dict[str, Any], config["talker_config"])
        return super().decoder_config(config, component)

    def decoder_shape(self, config: Mapping[str, Any]) -> ComponentShape:
        return ComponentShape(integer(config, "num_hidden_layers"), num_experts=0, top_k=0)

    def num_audio_tokens(self, num_frames: int) -> int:
        """Twenty-five tokens a second."""
        from transformers.models.qwen2_5_omni import processing_qwen2_5_omni as processing

        return int(processing._get_feat_extract_output_lengths(num_frames))

    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        return cached_values(self.decoder_config(config, "thinker"))

    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """The most that is held in the tower, or in the decoder.

        The tower holds its features three times, or its states of every second frame with what is between its two
        projections; the decoder holds the tokens with their residuals and three times what is between its projections.
        """
        audio, text = self.thinker_config(config)["audio_config"], self.decoder_config(config, "thinker")
        features = 3 * num_frames * audio["num_mel_bins"]
        convolved = 2 * num_frames * audio["d_model"]
        states = -(-num_frames // 2) * (4 * audio["d_model"] + 2 * audio["encoder_ffn_dim"])
        decoder = num_tokens * (2 * text["hidden_size"] + 3 * text["intermediate_size"])
        return int(max(features + convolved + states, decoder))

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        super().write_layers(config, component, retained)
        write_windows(self.decoder_config(config, component), retained)

    def stub_tensors(self, vision: Config) -> Shapes:
        vision["fullatt_block_indexes"] = [0]
        width, patch = vision["hidden_size"], vision["patch_size"]
        if "embed_dim" in vision:  # what older versions of transformers call hidden_size
            vision["embed_dim"] = width
        merged = width * vision["spatial_merge_size"] ** 2
        plain = {
            "patch_embed.proj": (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
            "blocks.0.norm1": (width,),
            "blocks.0.norm2": (width,),
            "merger.ln_q": (width,),
        }
        biased = {"merger.mlp.0": (merged, merged), "merger.mlp.2": (vision["out_hidden_size"], merged)}
        for name in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            biased[f"blocks.0.{name}"] = (width, width)
        return name_tensors(plain, biased)


class Qwen25OmniThinkerLayout(ThinkerAlone, Qwen25OmniLayout):
    """Qwen2_5OmniThinkerForConditionalGeneration."""

    model_type = "qwen2_5_omni_thinker"
    stock_name = "Qwen2_5OmniThinkerForConditionalGeneration"


class RunningQwen25Omni(RunningQwenOmni):
    """Both decoders are dense."""

    layer_name = "Qwen2_5OmniDecoderLayer"
    processor_name = "Qwen2_5OmniProcessor"
    placeholders = ("<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>")

    def reader(self, stock: Any) -> Callable[..., Any]:
        """The stock class's own way ends with reading the voices; this is all before it."""
        from transformers import PreTrainedModel

        return partial(PreTrainedModel.from_pretrained.__func__, stock)


class Qwen25OmniVoice(QwenOmniVoice):
    """A talker that listens to the thinker's ends."""

    modules = ("talker", "token2wav")

    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """There is no voice to speak with."""
        problem = f"the voices of a Qwen2.5-Omni are in {_VOICES}, a pickle, which is not read"
        fix = "calibrate the thinker; layers of the talker can be cut by name, with --layers"
        raise InputError(problem, where="--component talker", fix=fix)


_WHOLE, _THINKER = Qwen25OmniLayout(), Qwen25OmniThinkerLayout()
QWEN2_5_OMNI = Family(_WHOLE, RunningQwen25Omni(_WHOLE), Qwen25OmniVoice())
QWEN2_5_OMNI_THINKER = Family(_THINKER, RunningQwen25Omni(_THINKER))
