"""Model families. To add one, write its file beside this one and list it here."""

from collections.abc import Mapping
from typing import Any

from autoreap.errors import InputError
from autoreap.models.families.family import Family
from autoreap.models.families.qwen2_5_omni import QWEN2_5_OMNI, QWEN2_5_OMNI_THINKER
from autoreap.models.families.qwen2_audio import QWEN2_AUDIO
from autoreap.models.families.qwen3_omni import QWEN3_OMNI, QWEN3_OMNI_THINKER

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: tuple[Family, ...] = (
    QWEN3_OMNI,
    QWEN3_OMNI_THINKER,
    QWEN2_5_OMNI,
    QWEN2_5_OMNI_THINKER,
    QWEN2_AUDIO,
)


def family_of(config: Mapping[str, Any], where: object = "config.json") -> Family:
    """The family whose `model_type` the config names; `InputError` if there is none."""
    model_type = config.get("model_type")
    for family in FAMILIES:
        if family.layout.model_type == model_type:
            return family
    known = ", ".join(family.layout.model_type for family in FAMILIES)
    raise InputError(f"model_type {model_type!r} is not supported", where=where, fix=f"supported: {known}")
