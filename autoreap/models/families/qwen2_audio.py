"""Qwen2-Audio, as transformers 5 stores and builds it: what hears stands before a dense decoder. It can't see or speak.

On disk the prefixes are `{audio_tower,multi_modal_projector,language_model.model}`, and `language_model.lm_head`; in
memory `model.{audio_tower,multi_modal_projector,language_model}`, and `lm_head`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, integer
from autoreap.models.families.qwen2_decoder import cached_values, write_windows
from autoreap.models.families.running import Decoder, RunningModel
from autoreap.models.families.stock import empty_layer, read_model
from autoreap.plan import ComponentShape, ModelShape

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from autoreap.models.families.chat_inputs import ChatInputs

# The published config leaves out of `text_config` what is so by default; here it is known without torch.
TEXT_DEFAULTS = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32}
_NAMES_ON_DISK = (
    (re.compile(r"^model\.language_model\."), "language_model.model."),
    (re.compile(r"^model\."), ""),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
)


class Qwen2AudioLayout(CheckpointLayout):
    """Qwen2AudioForConditionalGeneration.

    Attributes:
        tower_widths: the keys that say how wide the tower's hidden states are, and what is between its projections.
    """

    model_type = "qwen2_audio"
    title = "Qwen2-Audio"
    stock_name = "Qwen2AudioForConditionalGeneration"
    parts: Mapping[str, str] = {
        "audio_tower.": "audio",
        "multi_modal_projector.": "audio",
        "language_model.": "thinker",
    }
    tower_widths = ("d_model", "encoder_ffn_dim")

    def name_on_disk(self, name: str) -> str:
        for pattern, replacement in _NAMES_ON_DISK:
            if pattern.match(name):
                return pattern.sub(replacement, name)
        raise AssertionError(f"the stock class has no parameter {name}")

    def model_shape(self, config: Mapping[str, Any]) -> ModelShape:
        num_layers = integer(_text_config(config), "num_hidden_layers")
        return ModelShape({"thinker": ComponentShape(num_layers, num_experts=0, top_k=0)}, has_vision=False)

    def num_audio_tokens(self, num_frames: int) -> int:
        """A convolution takes every second frame, a pool two of those: 25 a second."""
        num_states = (num_frames - 1) // 2 + 1
        return (num_states - 2) // 2 + 1

    def cache_values_per_token(self, config: Mapping[str, Any]) -> int:
        return cached_values(_text_config(config))

    def working_values(self, config: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
        """The most that is held in the tower, or in the decoder.

        The tower holds its states, of a full clip always, with what is between its two projections, and the mask over
        them in bytes; the decoder holds the tokens with their residuals three times, and as often what is between.
        """
        audio, text = config["audio_config"], _text_config(config)
        states = audio["max_source_positions"]  # of 30 seconds: a shorter clip is padded to them
        width, between = (audio[key] for key in self.tower_widths)
        tower = states * (4 * width + 2 * between) + states**2 // 2
        decoder = num_tokens * 3 * (text["hidden_size"] + text["intermediate_size"])
        return int(max(tower, decoder))

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        config["text_config"]["num_hidden_layers"] = len(retained)
        write_windows(config["text_config"], retained)


class RunningQwen2Audio(RunningModel):
    """It hears, and writes."""

    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        stock = self.layout.stock_class()
        config = stock.config_class.from_pretrained(path)
        if not layers:
            config.text_config.num_hidden_layers = 0
        return read_model(stock.from_pretrained, path, config, dtype=dtype, device=device, layers=layers)

    def new_layer(self, model: PreTrainedModel, number: int) -> nn.Module:
        from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

        return empty_layer(Qwen2DecoderLayer, model.model.language_model.config, number, model.dtype)

    def inputs(self, path: Path) -> ChatInputs:
        from autoreap.models.families.chat_inputs import read_audio_inputs

        return read_audio_inputs(path, self.layout.num_audio_tokens)

    def decoder(self, model: PreTrainedModel, component: str) -> Decoder | None:
        return cast(Decoder, model.model.language_model) if component == "thinker" else None

    def audio_embeddings(self, model: PreTrainedModel, mel: torch.Tensor, num_frames: int) -> torch.Tensor:
        """As `Qwen2AudioModel.forward` computes them: silence is not attended to."""
        import torch
        from transformers.masking_utils import create_bidirectional_mask

        tower, device = model.model.audio_tower, self.device(model)
        # Of the embeddings the mask's function takes nothing but shape, type and device.
        states = torch.zeros((1, tower.config.max_source_positions, 1), dtype=model.dtype, device=device)
        # The tower's states, one for two frames, not those of the pool behind it.
        is_heard = torch.arange(states.shape[1], device=device)[None] < (num_frames - 1) // 2 + 1
        mask = create_bidirectional_mask(config=tower.config, inputs_embeds=states, attention_mask=is_heard.long())
        hidden = tower(mel[None].to(device), attention_mask=mask).last_hidden_state
        embeddings = model.model.multi_modal_projector(hidden)[0, : self.layout.num_audio_tokens(num_frames)]
        return cast("torch.Tensor", embeddings)


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's part of a config, with what it leaves out."""
    text: dict[str, Any] = TEXT_DEFAULTS | config["text_config"]
    return text


_LAYOUT = Qwen2AudioLayout()
QWEN2_AUDIO = Family(_LAYOUT, RunningQwen2Audio(_LAYOUT))
