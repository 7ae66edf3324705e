"""What the config of a Qwen2 decoder says; several families have one."""

from collections.abc import Mapping
from typing import Any

from autoreap.models.families.layout import Config


def write_windows(text: Config, retained: tuple[int, ...]) -> None:
    """Move what is said of layers that attend within a window: by their number, unless they are listed."""
    if text.get("layer_types"):
        text["layer_types"] = [text["layer_types"][layer] for layer in retained]
    if "max_window_layers" in text:
        # The number of the first such layer: so many of the retained ones lie below it.
        text["max_window_layers"] = sum(layer < text["max_window_layers"] for layer in retained)


def cached_values(text: Mapping[str, Any]) -> int:
    """Numbers in the cache for a token; a head's width follows from that of the hidden states."""
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    return int(2 * text["num_key_value_heads"] * head_dim * text["num_hidden_layers"])
