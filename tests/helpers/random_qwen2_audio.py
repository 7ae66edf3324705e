"""A random Qwen2-Audio of the real class, a few units wide."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from builders import copy_tokenizer
from specimen import Specimen, save_random
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

from autoreap.plan import ComponentShape, ModelShape
from autoreap.tiny_omni import CHECKPOINT

# Special tokens of Qwen3-Omni to those of Qwen2-Audio.
RENAMED = {"<|audio_start|>": "<|audio_bos|>", "<|audio_pad|>": "<|AUDIO|>", "<|audio_end|>": "<|audio_eos|>"}


def small_config() -> dict[str, Any]:
    """The stock defaults with every width cut down; clips are thirty seconds long, as everywhere."""
    return {
        "text_config": {
            "model_type": "qwen2", "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "hidden_size": 32, "intermediate_size": 32, "vocab_size": 512,
        },
        "audio_config": {
            "model_type": "qwen2_audio_encoder", "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
        },
        "audio_token_index": 475,
    }  # fmt: skip


def save_hearing_model(path: Path) -> Path:
    """A checkpoint with the embedded model's tokenizer; the chat template is the stock processor's own."""
    config, embedded = small_config(), json.loads((CHECKPOINT / "config.json").read_text())["thinker_config"]
    config["text_config"]["vocab_size"] = embedded["text_config"]["vocab_size"]
    config["audio_token_index"] = embedded["audio_token_id"]
    save_random(Qwen2AudioForConditionalGeneration, Qwen2AudioConfig(**config), path)
    copy_tokenizer(path, RENAMED)
    for name in ("chat_template.jinja", "video_preprocessor_config.json"):
        (path / name).unlink()
    WhisperFeatureExtractor(feature_size=128, return_attention_mask=True).save_pretrained(path)
    return path


QWEN2_AUDIO = Specimen(
    save=partial(save_random, Qwen2AudioForConditionalGeneration, Qwen2AudioConfig(**small_config())),
    stock=Qwen2AudioForConditionalGeneration,
    shape=ModelShape({"thinker": ComponentShape(6, num_experts=0, top_k=0)}, has_vision=False),
    parts=frozenset({"thinker", "audio"}),
    padded_frames=3000,
)
