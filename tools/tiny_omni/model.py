"""The tiny model's initial weights, and how it is written to disk."""

import json
import math
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig, Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

from tools.tiny_omni.config import build_config
from tools.tiny_omni.features import feature_extractor
from tools.tiny_omni.images import IMAGE_PROCESSOR
from tools.tiny_omni.tokenizer import build_tokenizer


def build_model(seed: int) -> Qwen3OmniMoeForConditionalGeneration:
    """Return the model in fp32 with initial weights drawn from ``seed``."""
    torch.manual_seed(seed)
    model = Qwen3OmniMoeForConditionalGeneration(build_config())
    initialise(model.thinker)
    return model


@torch.no_grad()
def initialise(thinker: nn.Module) -> None:
    """Redraw the thinker's weights: the library's .02 is far too small for a width of 128."""
    for name, parameter in thinker.named_parameters():
        if parameter.dim() < 2:
            continue
        if "embed_tokens" in name or "pos_embed" in name:
            std = 0.5
        elif "conv2d" in name:
            std = math.sqrt(2.0 / parameter[0].numel())
        else:
            fan_in = parameter[0].numel() if parameter.dim() > 3 else parameter.shape[-1]
            std = 1.0 / math.sqrt(fan_in)
        is_residual_output = any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2", "attn.proj"))
        parameter.normal_(0.0, std * (0.5 if is_residual_output else 1.0))


def save_checkpoint(model: Qwen3OmniMoeForConditionalGeneration, folder: Path) -> None:
    """Write ``model`` in bf16 with everything a stock ``from_pretrained`` and a processor need."""
    stored = Qwen3OmniMoeForConditionalGeneration(model.config)
    stored.load_state_dict({name: t.to(torch.bfloat16) for name, t in model.state_dict().items()}, assign=True)
    stored.generation_config = _generation_config(model.config)
    stored.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    preprocessor = {**feature_extractor().to_dict(), **IMAGE_PROCESSOR, "processor_class": "Qwen3OmniMoeProcessor"}
    preprocessor.pop("mel_filters", None)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2, sort_keys=True) + "\n")
    # Frames are as small as images here; the real processor would enlarge each to 131,072 pixels.
    size = {"shortest_edge": IMAGE_PROCESSOR["min_pixels"], "longest_edge": IMAGE_PROCESSOR["max_pixels"]}
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"size": size}, indent=2) + "\n")


def _generation_config(config: Qwen3OmniMoeConfig) -> GenerationConfig:
    vocabulary = build_tokenizer().get_vocab()
    return GenerationConfig(
        eos_token_id=config.im_end_token_id,
        pad_token_id=vocabulary["<|endoftext|>"],
        do_sample=False,
        max_new_tokens=16,
    )
