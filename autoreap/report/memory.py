"""What fits where: the memory that a candidate needs, as far as the model's headers are still at hand."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from autoreap.described import Described, describe
from autoreap.errors import AutoreapError
from autoreap.plan import PruningPlan
from autoreap.sizing.footprint import Footprint
from autoreap.study.trials import PLAN
from autoreap.writing.rewrite import rewrite_config

GIGABYTES = (8, 12, 16, 24, 32, 80)  # of accelerators and laptops
CLIPS_SECONDS = (30, 2400)  # a voice message, and what the model is said to hear at once
BITS = (16, 8, 4)


def opened_model(study: optuna.Study) -> Described | None:
    """The model that `study` searched, from this disk alone; None where it is gone or has changed."""
    for trial in study.get_trials(deepcopy=False):
        if PLAN in trial.user_attrs:
            base = trial.user_attrs[PLAN]["base_model"]
            path = _on_disk(str(base["name"]))
            try:
                described = describe(path) if path else None
            except AutoreapError:
                return None
            return described if described and described.checkpoint.fingerprint == base["fingerprint"] else None
    return None


def _on_disk(name: str) -> str | None:
    """A model's directory, or its name if that is the embedded one; a report downloads nothing."""
    if name == "tiny" or Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def memory_of(described: Described | None, plan: PruningPlan | None, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a clip and number of bits: weights, cache and working memory in bytes, and the tokens of the cache.

    There is none where the model is not known. `known` is a trial's result or the baseline: the size of the weights
    in it is not counted again, which would take seconds for the 30B model.
    """
    if described is None:
        return []
    checkpoint = described.checkpoint
    whole = Footprint.of(checkpoint)
    footprint = whole if plan is None else replace(whole, config=rewrite_config(checkpoint, plan))
    weights = {bits: _weights_bytes(described, plan, known, bits) for bits in BITS}
    token_bytes = footprint.kv_bytes(1)
    needed = (
        (seconds, bits, footprint.memory_with(weights[bits], seconds)) for seconds in CLIPS_SECONDS for bits in BITS
    )
    return [
        {
            "clip_seconds": seconds,
            "bits": bits,
            "weights": one.weights_bytes,
            "cache": one.kv_cache_bytes,
            "working": one.working_bytes,
            "tokens": one.kv_cache_bytes // token_bytes,
        }
        for seconds, bits, one in needed
    ]


def _weights_bytes(described: Described, plan: PruningPlan | None, known: Mapping[str, Any], bits: int) -> int:
    if bits == 16:
        return int(known["size_bytes"])
    measured = known["metrics"].get(f"size_{bits}bit_bytes")
    return int(measured["value"]) if measured else Footprint.of(described.checkpoint, plan).size_bytes(bits)


def stored_type(described: Described | None) -> str | None:
    """The type of most of the model's bytes, by the name that people use; None where it is not known."""
    if described is None:
        return None
    num_bytes: Counter[str] = Counter()
    for tensor in described.checkpoint.tensors.values():
        num_bytes[tensor.dtype] += tensor.num_bytes
    ((dtype, _),) = num_bytes.most_common(1)
    return {"F32": "fp32", "F16": "fp16"}.get(dtype, dtype.lower())
