"""The thinker of a Qwen2.5-Omni saved alone."""

from __future__ import annotations

from typing import Any

from autoreap.families.qwen2_5_omni import Qwen25Omni
from autoreap.families.thinker_alone import ThinkerAlone


class Qwen25OmniThinker(ThinkerAlone, Qwen25Omni):
    """Qwen2_5OmniThinkerForConditionalGeneration."""

    model_type = "qwen2_5_omni_thinker"

    def stock_class(self) -> Any:
        """See `Family.stock_class`."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration
