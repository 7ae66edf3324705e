"""The thinker of a Qwen3-Omni saved alone."""

from __future__ import annotations

from typing import Any

from autoreap.families.qwen3_omni import Qwen3Omni
from autoreap.families.thinker_alone import ThinkerAlone


class Qwen3OmniThinker(ThinkerAlone, Qwen3Omni):
    """Qwen3OmniMoeThinkerForConditionalGeneration."""

    model_type = "qwen3_omni_moe_thinker"

    def stock_class(self) -> Any:
        """See `Family.stock_class`."""
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

        return Qwen3OmniMoeThinkerForConditionalGeneration
