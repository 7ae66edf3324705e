"""The thinker of a Qwen omni model saved alone, as `model.thinker.save_pretrained` writes it.

Its config is the `thinker_config` of the whole model's, and its tensors' names lack the prefix `thinker.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from autoreap.families.family import Config
from autoreap.families.qwen_omni import QwenOmni


class ThinkerAlone(QwenOmni):
    """What sets it apart from its whole model, whose family is inherited after this class."""

    prefix = ""
    speech_parts: Mapping[str, str] = {}
    companions: tuple[str, ...] = ()

    def thinker_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `QwenOmni.thinker_config`."""
        return cast(dict[str, Any], config)

    def write_no_speech(self, config: Config) -> None:
        """See `Family.write_no_speech`. There is nothing that speaks."""
