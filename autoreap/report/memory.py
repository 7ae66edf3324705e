"""What fits where: the memory that a candidate needs, as far as the model's headers are still at hand."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from autoreap.candidate import BITS
from autoreap.errors import AutoreapError
from autoreap.models.loading import ModelInfo, open_model
from autoreap.plan import PruningPlan
from autoreap.search.records import StudyRecord
from autoreap.writing.footprint import Footprint

GIGABYTES = (8, 12, 16, 24, 32, 80)  # of accelerators and laptops
CLIPS_SECONDS = (30, 2400)  # a voice message, and what the model is said to hear at once


def open_searched_model(study: StudyRecord) -> ModelInfo | None:
    """The model that `study` searched, from this disk alone; None where it is gone or has changed."""
    base = study.base_model
    if base is None:
        return None
    try:
        model_info = open_model(base.name, download=False)
    except AutoreapError:
        return None
    # Another model may lie under this name by now, such as one that was trained further.
    if model_info.checkpoint.fingerprint != base.fingerprint:
        return None
    return model_info


def memory_of(model_info: ModelInfo | None, plan: PruningPlan | None) -> list[dict[str, Any]]:
    """One entry a clip and number of bits: weights, cache and working memory in bytes, and the tokens of the cache.

    Of a plan that quantises there is one a clip, as it is stored. Empty where the model is not known.
    """
    if model_info is None:
        return []
    footprint = Footprint.of(model_info.checkpoint, plan)
    token_bytes = footprint.kv_bytes(1)
    all_bits: Sequence[int] = BITS
    stored = None
    if plan is not None and plan.bits is not None:
        # A plan that quantises is stored as it is; what it would take at other bits is another plan's.
        all_bits = BITS[:1]
        stored = {"experts": plan.bits.experts, "rest": plan.bits.rest}
    entries: list[dict[str, Any]] = []
    for seconds in CLIPS_SECONDS:
        for bits in all_bits:
            needed = footprint.memory_needed(seconds, bits)
            entry: dict[str, Any] = {
                "clip_seconds": seconds,
                "bits": bits,
                "weights": needed.weights_bytes,
                "cache": needed.kv_cache_bytes,
                "working": needed.working_bytes,
                "tokens": needed.kv_cache_bytes // token_bytes,
            }
            if stored is not None:
                entry["stored"] = stored
            entries.append(entry)
    return entries


def stored_type(model_info: ModelInfo | None) -> str | None:
    """The type of most of the model's bytes, by the name that people use; None where it is not known."""
    if model_info is None:
        return None
    num_bytes: Counter[str] = Counter()
    for tensor in model_info.checkpoint.tensors.values():
        num_bytes[tensor.dtype] += tensor.num_bytes
    ((dtype, _),) = num_bytes.most_common(1)
    return {"F32": "fp32", "F16": "fp16"}.get(dtype, dtype.lower())
