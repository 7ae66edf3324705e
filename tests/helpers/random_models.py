"""Random models of the real classes, a few units wide, shaped after the real 30B configuration."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pages import ROOT
from specimen import Specimen, enlarge_weights
from transformers import (
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from autoreap.plan import ComponentShape, ModelShape

REAL_CONFIG = ROOT / "tests" / "fixtures" / "qwen3-omni-30b-a3b-instruct.config.json"


def real_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(REAL_CONFIG.read_text())
    return config


def small_config() -> dict[str, Any]:
    """The real configuration with every width cut down; structure, key names and special values stay."""
    config = real_config()
    thinker, talker = config["thinker_config"], config["talker_config"]
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 32}
    thinker["text_config"] |= attention | {
        "num_hidden_layers": 6, "num_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 16, "intermediate_size": 16, "vocab_size": 512,
    }  # fmt: skip
    thinker["audio_config"] |= {
        "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "output_dim": 32, "downsample_hidden_size": 8,
    }  # fmt: skip
    thinker["vision_config"] |= {
        "depth": 3, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64,
    }  # fmt: skip
    talker |= {"accept_hidden_layer": 3, "thinker_hidden_size": 32, "num_code_groups": 4}
    talker |= {"audio_token_id": 475, "image_token_id": 455, "video_token_id": 456, "vision_start_token_id": 452}
    talker |= {"codec_bos_id": 49, "codec_eos_token_id": 50, "codec_pad_id": 48, "codec_nothink_id": 55}
    talker |= {"codec_think_bos_id": 56, "codec_think_eos_id": 57, "speaker_id": {"ethan": 60}}
    talker["text_config"] |= attention | {
        "num_hidden_layers": 4, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "intermediate_size": 16, "shared_expert_intermediate_size": 16, "vocab_size": 1100,
    }  # fmt: skip
    talker["code_predictor_config"] |= attention | {
        "num_hidden_layers": 2, "intermediate_size": 32, "num_code_groups": 4, "vocab_size": 96,
    }  # fmt: skip
    for text in (thinker["text_config"], talker["text_config"]):
        text["rope_parameters"] |= {"mrope_section": [2, 1, 1]}
    config["code2wav_config"] |= {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 32, "decoder_dim": 32, "codebook_size": 96, "codebook_dim": 32, "num_quantizers": 4,
        "upsample_rates": [2, 2], "upsampling_ratios": [2], "vector_quantization_hidden_dimension": 32,
    }  # fmt: skip
    tokens = {"audio_token_id": 475, "image_token_id": 455, "video_token_id": 456}
    thinker |= tokens | {"vision_start_token_id": 452, "vision_end_token_id": 453}
    thinker |= {"audio_start_token_id": 469, "audio_end_token_id": 470, "user_token_id": 72}
    config |= {"im_start_token_id": 444, "im_end_token_id": 445, "assistant_token_id": 77, "user_token_id": 72}
    config |= {"tts_bos_token_id": 480, "tts_eos_token_id": 481, "tts_pad_token_id": 482, "system_token_id": 88}
    return config


def save_random_model(path: Path, *, dtype: torch.dtype = torch.float32, speech: bool = True, seed: int = 0) -> Path:
    """A checkpoint with large random weights, so that no expert, layer or head is negligible."""
    _random_model(speech=speech, seed=seed).to(dtype).save_pretrained(path)
    return path


def _save_random_thinker(path: Path) -> Path:
    _random_model(speech=False, seed=0).thinker.to(torch.bfloat16).save_pretrained(path)
    return path


def _random_model(*, speech: bool, seed: int) -> Any:
    torch.manual_seed(seed)
    model = Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(**small_config() | {"enable_audio_output": speech}))
    enlarge_weights(model, but="code2wav")
    return model


END = 445


def random_prompt(*, batch_size: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids of a chat without media, as `generate` needs them for speech: user turn, then the assistant's start."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(100, 400, (batch_size, length), generator=generator)
    ids[:, :2] = torch.tensor([444, 72])
    ids[:, -3:-1] = torch.tensor([444, 77])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def answer_aloud(model: Any, prompt: dict[str, torch.Tensor], *, max_steps: int) -> dict[str, torch.Tensor]:
    """The `text` that a prompt is answered with and, by a model that can speak, its `waveform`; both greedy."""
    bounds = {"thinker_max_new_tokens": max_steps, "thinker_eos_token_id": END}
    if not model.has_talker:
        return {"text": model.generate(**prompt, **bounds)}
    text, waveform = model.generate(**prompt, **bounds, talker_do_sample=False, talker_max_new_tokens=max_steps)
    return {"text": text, "waveform": waveform}


def _aloud(model: Any) -> dict[str, torch.Tensor]:
    """What it answers to a second of audio: only there does the talker listen to the middle of the thinker."""
    prompt = random_prompt(batch_size=1, length=26)
    prompt["input_ids"][:, 5:20] = torch.tensor([469, *[475] * 13, 470])
    audio = torch.linspace(-2, 2, 128 * 100).view(1, 128, 100)
    prompt |= {"input_features": audio, "feature_attention_mask": torch.ones(1, 100, dtype=torch.long)}
    return answer_aloud(model, prompt, max_steps=6)


_THINKER = ComponentShape(num_layers=6, num_experts=8, top_k=3)
_TALKER = ComponentShape(num_layers=4, num_experts=6, top_k=2)
_HEARS_AND_SEES = frozenset({"thinker", "audio", "vision"})
_IMAGE = {"pixel_values": torch.linspace(-2, 2, 16 * 1536).view(16, 1536), "image_grid_thw": torch.tensor([[1, 4, 4]])}
QWEN3_OMNI = Specimen(
    save=partial(save_random_model, dtype=torch.bfloat16),
    stock=Qwen3OmniMoeForConditionalGeneration,
    shape=ModelShape({"thinker": _THINKER, "talker": _TALKER}, deepstack_layers=2, speech_tap=3),
    parts=_HEARS_AND_SEES | {"talker", "speech"},
    image=_IMAGE,
    aloud=_aloud,
)
QWEN3_OMNI_THINKER = Specimen(
    save=_save_random_thinker,
    stock=Qwen3OmniMoeThinkerForConditionalGeneration,
    shape=ModelShape({"thinker": _THINKER}, deepstack_layers=2),
    parts=_HEARS_AND_SEES,
    image=_IMAGE,
)
