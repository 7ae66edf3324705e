"""Random Qwen2.5-Omnis of the real classes, a few units wide."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from builders import copy_tokenizer
from random_models import random_prompt
from safetensors.torch import load_file, save_file
from specimen import Specimen, enlarge_weights
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from autoreap.plan import ComponentShape, ModelShape
from autoreap.tiny_omni import CHECKPOINT

ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "intermediate_size": 32}
MEDIA_TOKENS = ("audio_token_id", "image_token_id", "video_token_id")
RENAMED = {  # special tokens of Qwen3-Omni to those of Qwen2.5-Omni
    "<|audio_start|>": "<|audio_bos|>", "<|audio_pad|>": "<|AUDIO|>", "<|audio_end|>": "<|audio_eos|>",
    "<|vision_start|>": "<|vision_bos|>", "<|vision_end|>": "<|vision_eos|>",
    "<|image_pad|>": "<|IMAGE|>", "<|video_pad|>": "<|VIDEO|>",
}  # fmt: skip


def small_config(*, tied: bool = False) -> dict[str, Any]:
    """The stock defaults with every width cut down; `tied`, the thinker's head is its table of embeddings."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    tokens = {"audio_token_index": 475, "image_token_index": 455, "video_token_index": 456}
    marks = {"audio_start_token_id": 469, "audio_end_token_id": 470}
    return {
        "thinker_config": {
            "text_config": ATTENTION | {"num_hidden_layers": 6, "vocab_size": 512, "rope_parameters": rope},
            "audio_config": {
                "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
                "output_dim": 32,
            },
            "vision_config": {
                "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 32,
                "fullatt_block_indexes": [1],
            },
            "user_token_id": 72, "vision_start_token_id": 452, "vision_end_token_id": 453, "tie_word_embeddings": tied,
            **tokens, **marks,
        },
        "talker_config": ATTENTION | tokens | marks | {
            "num_hidden_layers": 4, "vocab_size": 96, "embedding_size": 32, "head_dim": 8, "rope_parameters": rope,
            "tts_text_start_token_id": 480, "tts_text_end_token_id": 481, "tts_text_pad_token_id": 482,
            "tts_codec_start_token_id": 91, "tts_codec_end_token_id": 92, "tts_codec_pad_token_id": 93,
            "tts_codec_mask_token_id": 94, "vision_start_token_id": 452, "vision_end_token_id": 453,
        },
        "token2wav_config": {
            "dit_config": {
                "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16, "emb_dim": 16,
                "num_embeds": 97, "mel_dim": 8, "enc_emb_dim": 16, "enc_dim": 8, "enc_attention_channels": 8,
                "enc_channels": [8, 8, 8, 8, 24], "enc_se_channels": 8,
            },
            "bigvgan_config": {
                "mel_dim": 8, "upsample_initial_channel": 16, "upsample_rates": [5, 3],
                "upsample_kernel_sizes": [11, 7],
            },
        },
    }  # fmt: skip


def save_random_model(path: Path) -> Path:
    """A checkpoint in bf16 with large random weights, so that no layer or head is negligible, and a voice."""
    _save(_random_model(small_config()), path)
    return path


def save_hearing_model(path: Path, *, tied: bool = False) -> Path:
    """The same with the embedded model's tokenizer and preprocessor, its special tokens renamed."""
    config, embedded = small_config(tied=tied), json.loads((CHECKPOINT / "config.json").read_text())["thinker_config"]
    thinker = config["thinker_config"]
    thinker["text_config"]["vocab_size"] = embedded["text_config"]["vocab_size"]
    thinker["vision_config"]["patch_size"] = embedded["vision_config"]["patch_size"]
    thinker |= {key: value for key, value in embedded.items() if key.endswith("_token_id")}
    thinker |= {key.replace("_id", "_index"): embedded[key] for key in MEDIA_TOKENS}
    _save(_random_model(config), path)
    copy_tokenizer(path, RENAMED)
    return path


def _save(model: Any, path: Path) -> None:
    model.save_pretrained(path)
    voice = {"bos_token": 91, "cond": torch.randn(1, 16), "ref_mel": torch.randn(1, 20, 8)}
    torch.save({"Chelsie": voice}, path / "spk_dict.pt")


def _save_random_thinker(path: Path, *, tied: bool = False) -> Path:
    _random_model(small_config(tied=tied) | {"enable_audio_output": False}).thinker.save_pretrained(path)
    return path


def store_head(path: Path, *, embeddings: bool = True) -> Path:
    """Store the head of a tied model too, which transformers leaves out; `embeddings` says whether these stay."""
    tensors = load_file(path / "model.safetensors")
    (name,) = {"model.embed_tokens.weight", "thinker.model.embed_tokens.weight"} & tensors.keys()
    head = name.replace("model.embed_tokens", "lm_head")
    tensors[head] = tensors[name].clone() if embeddings else tensors.pop(name)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def _random_model(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig(**config))
    enlarge_weights(model, but="token2wav")
    return model.to(torch.bfloat16)


def _aloud(model: Any) -> dict[str, torch.Tensor]:
    """What the talker makes of embeddings such as it hears."""
    if not model.has_talker:
        return {}
    heard = model.thinker.get_input_embeddings()(random_prompt(batch_size=3, length=14)["input_ids"])
    return {"talker": model.talker(inputs_embeds=heard).logits}


_THINKER, _TALKER = ComponentShape(6, num_experts=0, top_k=0), ComponentShape(4, num_experts=0, top_k=0)
_HEARS_AND_SEES = frozenset({"thinker", "audio", "vision"})
_IMAGE = {"pixel_values": torch.linspace(-2, 2, 16 * 1176).view(16, 1176), "image_grid_thw": torch.tensor([[1, 4, 4]])}
QWEN2_5_OMNI = Specimen(
    save=save_random_model,
    stock=Qwen2_5OmniForConditionalGeneration,
    shape=ModelShape({"thinker": _THINKER, "talker": _TALKER}),
    parts=_HEARS_AND_SEES | {"talker", "speech"},
    image=_IMAGE,
    aloud=_aloud,
)
QWEN2_5_OMNI_THINKER = Specimen(
    save=_save_random_thinker,
    stock=Qwen2_5OmniThinkerForConditionalGeneration,
    shape=ModelShape({"thinker": _THINKER}),
    parts=_HEARS_AND_SEES,
    image=_IMAGE,
)
TIED_THINKER = replace(QWEN2_5_OMNI_THINKER, save=partial(_save_random_thinker, tied=True))
TIED_THINKER_STORED_TWICE = replace(TIED_THINKER, save=lambda path: store_head(TIED_THINKER.save(path)))
