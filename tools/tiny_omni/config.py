"""The configuration of the tiny model: a thinker, and a talker and waveform decoder that are never trained."""

from typing import Any

from transformers import Qwen3OmniMoeConfig

from tools.tiny_omni.features import NUM_MEL_BINS
from tools.tiny_omni.images import MERGE, PATCH, SIDE
from tools.tiny_omni.tokenizer import build_tokenizer

HIDDEN = 128
NUM_LAYERS = 8
NUM_EXPERTS = 16
TOP_K = 2
_CODEBOOK = 64


def build_config() -> Qwen3OmniMoeConfig:
    """Return the configuration, with every token id taken from the tokenizer."""
    ids = build_tokenizer().get_vocab()
    media = {
        "audio_token_id": ids["<|audio_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "position_id_per_seconds": 13,
        "seconds_per_chunk": 2,
    }
    config = Qwen3OmniMoeConfig(
        thinker_config={**_thinker(max(ids.values()) + 1), **media, "user_token_id": ids["user"]},
        talker_config={**_talker(), **media},
        code2wav_config=_code2wav(),
        enable_audio_output=True,
        im_start_token_id=ids["<|im_start|>"],
        im_end_token_id=ids["<|im_end|>"],
        tts_pad_token_id=ids["<tts_pad>"],
        tts_bos_token_id=ids["<tts_text_bos>"],
        tts_eos_token_id=ids["<tts_text_eod>"],
        system_token_id=ids["system"],
        user_token_id=ids["user"],
        assistant_token_id=ids["assistant"],
    )
    config.architectures = ["Qwen3OmniMoeForConditionalGeneration"]
    return config


def _thinker(vocab_size: int) -> dict[str, Any]:
    parts = {"text_config": _text(vocab_size), "audio_config": _audio(), "vision_config": _vision()}
    return {**parts, "tie_word_embeddings": False}


def _text(vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "moe_intermediate_size": 32,
        "num_experts": NUM_EXPERTS,
        "num_experts_per_tok": TOP_K,
        "norm_topk_prob": True,
        "max_position_embeddings": 4096,
        "rope_parameters": _rope([6, 5, 5]),
        "router_aux_loss_coef": 0.0,
        "shared_expert_intermediate_size": 0,
        "tie_word_embeddings": False,
    }


def _audio() -> dict[str, Any]:
    """Return the audio tower; transformers 5.23 hard-codes 13 tokens a second, which only fits ``n_window`` 50."""
    return {
        "num_mel_bins": NUM_MEL_BINS,
        "encoder_layers": 2,
        "d_model": HIDDEN,
        "encoder_ffn_dim": 256,
        "encoder_attention_heads": 4,
        "downsample_hidden_size": 16,
        "output_dim": HIDDEN,
        "n_window": 50,
        "n_window_infer": 800,
        "max_source_positions": 1500,
    }


def _vision() -> dict[str, Any]:
    return {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": HIDDEN,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": MERGE,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
        "image_size": SIDE,
        "in_chans": 3,
        "apply_vit_abs_pos_embed": True,
    }


def _talker() -> dict[str, Any]:
    """Return a talker that is never trained: it is there so that pruning the speech side can be exercised.

    ``generate`` suppresses the last 1,024 ids of the codec vocabulary but the end token, so it is that much larger than
    the codebook, as in the real model.
    """
    text = {
        "vocab_size": 1024 + _CODEBOOK,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "max_position_embeddings": 4096,
        "rope_parameters": _rope([4, 2, 2]),
    }
    predictor = {
        "vocab_size": _CODEBOOK,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_code_groups": 4,
        "max_position_embeddings": 4096,
    }
    codec_names = ("codec_pad_id", "codec_bos_id", "codec_eos_token_id", "codec_nothink_id", "codec_think_bos_id")
    special = {name: _CODEBOOK + index for index, name in enumerate((*codec_names, "codec_think_eos_id"))}
    return {
        "text_config": text,
        "code_predictor_config": predictor,
        "num_code_groups": 4,
        "thinker_hidden_size": HIDDEN,
        "accept_hidden_layer": NUM_LAYERS // 2,
        "spatial_merge_size": 2,
        "speaker_id": {"ethan": _CODEBOOK + 16, "chelsie": _CODEBOOK + 17, "aiden": _CODEBOOK + 18},
        **special,
    }


def _code2wav() -> dict[str, Any]:
    return {
        "codebook_size": _CODEBOOK,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_quantizers": 4,
        "decoder_dim": 32,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
    }


def _rope(section: list[int]) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": section,
        "mrope_interleaved": True,
        "interleaved": True,
    }
