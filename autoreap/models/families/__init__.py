"""Model families. To add one, write its file beside this one and list it here."""

from collections.abc import Mapping
from typing import Any

from autoreap.errors import InputError
from autoreap.models.families.family import Family
from autoreap.models.families.qwen2_5_omni import Qwen25Omni, Qwen25OmniThinker
from autoreap.models.families.qwen2_audio import Qwen2Audio
from autoreap.models.families.qwen3_omni import Qwen3Omni, Qwen3OmniThinker

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: tuple[Family, ...] = (
    Qwen3Omni(),
    Qwen3OmniThinker(),
    Qwen25Omni(),
    Qwen25OmniThinker(),
    Qwen2Audio(),
)


def family_of(config: Mapping[str, Any], where: object = "config.json") -> Family:
    """The family whose `model_type` the config names; `InputError` if there is none."""
    for family in FAMILIES:
        if config.get("model_type") == family.model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise InputError(
        f"model_type {config.get('model_type')!r} is not supported", where=where, fix=f"supported: {known}"
    )
