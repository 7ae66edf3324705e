"""The thinker of a Qwen3-Omni saved alone, as `model.thinker.save_pretrained` writes it.

Its config is the `thinker_config` of the whole model's, and its tensors' names lack the prefix `thinker.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.families.family import Config, TensorRole
from autoreap.families.qwen3_omni import STRIPPED, Qwen3Omni, unreported
from autoreap.plan import ModelShape

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PREFIX = "thinker."


class Qwen3OmniThinker(Qwen3Omni):
    """Qwen3OmniMoeThinkerForConditionalGeneration."""

    model_type = "qwen3_omni_moe_thinker"

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """See `Family.shape`."""
        return super().shape(_whole(config))

    def role(self, tensor_name: str) -> TensorRole:
        """See `Family.role`."""
        role = super().role(_PREFIX + tensor_name)
        return replace(role, name=role.name.removeprefix(_PREFIX))

    def load(
        self, path: Path, *, dtype: torch.dtype | str, device: str, speech: bool, layers: bool = True
    ) -> PreTrainedModel:
        """See `Family.load`. There is nothing that speaks."""
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration as Stock

        config = Stock.config_class.from_pretrained(path)
        if not layers:
            config.text_config.num_hidden_layers = 0
        with nullcontext() if layers else unreported():
            model = Stock.from_pretrained(
                path, config=config, dtype=dtype, device_map=device, use_safetensors=True, trust_remote_code=False
            )
        if getattr(config.vision_config, STRIPPED, False):
            self.close_eyes(model)
        return cast("PreTrainedModel", model.eval())

    def slot(self, tensor_name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
        """See `Family.slot`."""
        return super().slot(_PREFIX + tensor_name, shape)

    def write_no_speech(self, config: Config) -> None:
        """See `Family.write_no_speech`. There is none."""

    def write_experts(self, config: Config, component: str, num_experts: int) -> None:
        """See `Family.write_experts`."""
        super().write_experts(_whole(config), component, num_experts)

    def write_layers(self, config: Config, component: str, retained: tuple[int, ...]) -> None:
        """See `Family.write_layers`."""
        super().write_layers(_whole(config), component, retained)

    def write_no_vision(self, config: Config) -> dict[str, tuple[int, ...]]:
        """See `Family.write_no_vision`."""
        return _without_prefix(super().write_no_vision(_whole(config)))

    def expected_tensors(self, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """See `Family.expected_tensors`."""
        return _without_prefix(super().expected_tensors(_whole(config)))


def _whole(config: Mapping[str, Any]) -> Config:
    """The config of a whole model that has this thinker, the same object, and does not speak."""
    return {"model_type": Qwen3Omni.model_type, "enable_audio_output": False, "thinker_config": config}


def _without_prefix(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(_PREFIX): shape for name, shape in shapes.items()}
