"""What fits where: the memory that a candidate needs, as far as the model's headers are still at hand."""

from pathlib import Path
from typing import Any

import optuna

from autoreap.described import Described, describe
from autoreap.errors import AutoreapError
from autoreap.footprint import Footprint
from autoreap.plan import PruningPlan
from autoreap.study import PLAN

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


def memory_of(described: Described | None, plan: PruningPlan | None) -> list[dict[str, Any]]:
    """One entry a clip and number of bits: weights, cache and working memory in bytes; none where it is not known."""
    if described is None:
        return []
    footprint = Footprint.of(described.checkpoint, plan)
    needed = ((seconds, bits, footprint.memory_needed(seconds, bits)) for seconds in CLIPS_SECONDS for bits in BITS)
    return [
        {
            "clip_seconds": seconds,
            "bits": bits,
            "weights": one.weights_bytes,
            "cache": one.kv_cache_bytes,
            "working": one.working_bytes,
        }
        for seconds, bits, one in needed
    ]
