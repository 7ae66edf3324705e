"""What fits where: the memory that a candidate needs, as far as the model's headers are still at hand."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoreap.errors import AutoreapError
from autoreap.models.loading import Described, describe
from autoreap.plan import PruningPlan
from autoreap.search.records import ScoredModel, StudyRecord, TrialRecord
from autoreap.writing.footprint import Footprint
from autoreap.writing.rewrite import rewrite_config

GIGABYTES = (8, 12, 16, 24, 32, 80)  # of accelerators and laptops
CLIPS_SECONDS = (30, 2400)  # a voice message, and what the model is said to hear at once
BITS = (16, 8, 4)


def open_searched_model(study: StudyRecord) -> Described | None:
    """The model that `study` searched, from this disk alone; None where it is gone or has changed."""
    base = next((trial.plan.base_model for trial in study.trials if trial.plan is not None), None)
    path = _local_path(base.name) if base is not None else None
    if base is None or path is None:
        return None
    try:
        described = describe(path)
    except AutoreapError:
        return None
    return described if described.checkpoint.fingerprint == base.fingerprint else None


def _local_path(name: str) -> str | None:
    """A model's directory, or its name if that is the embedded one; a report downloads nothing."""
    if name == "tiny" or Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def memory_of(
    described: Described | None, plan: PruningPlan | None, scored: ScoredModel | TrialRecord
) -> list[dict[str, Any]]:
    """One entry a clip and number of bits: weights, cache and working memory in bytes, and the tokens of the cache.

    Empty where the model is not known. Sizes that the search recorded in `scored` are not counted again.
    """
    if described is None:
        return []
    footprint = Footprint.of(described.checkpoint)
    if plan is not None:
        footprint = replace(footprint, config=rewrite_config(described.checkpoint, plan))
    token_bytes = footprint.kv_bytes(1)
    entries = []
    for seconds in CLIPS_SECONDS:
        for bits in BITS:
            weights_bytes = scored.size_bytes
            if bits < 16:
                recorded = scored.metrics.get(f"size_{bits}bit_bytes")
                if recorded is None:
                    weights_bytes = Footprint.of(described.checkpoint, plan).size_bytes(bits)
                else:
                    weights_bytes = int(recorded.value)
            needed = footprint.memory_with(weights_bytes, seconds)
            entries.append(
                {
                    "clip_seconds": seconds,
                    "bits": bits,
                    "weights": needed.weights_bytes,
                    "cache": needed.kv_cache_bytes,
                    "working": needed.working_bytes,
                    "tokens": needed.kv_cache_bytes // token_bytes,
                }
            )
    return entries


def stored_type(described: Described | None) -> str | None:
    """The type of most of the model's bytes, by the name that people use; None where it is not known."""
    if described is None:
        return None
    num_bytes: Counter[str] = Counter()
    for tensor in described.checkpoint.tensors.values():
        num_bytes[tensor.dtype] += tensor.num_bytes
    ((dtype, _),) = num_bytes.most_common(1)
    return {"F32": "fp32", "F16": "fp16"}.get(dtype, dtype.lower())
