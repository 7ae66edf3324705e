"""What a checkpoint costs to run, from headers and config alone: of a model as it is, or as a plan makes it. No torch.

A forward pass is counted as transformers runs it at batch 1 with attention that never holds a whole score matrix (SDPA,
flash). The talker's passes are not counted; its weights are, while a plan keeps them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autoreap.checkpoint import Checkpoint, TensorInfo
from autoreap.families import Family, family_of
from autoreap.plan import PruningPlan
from autoreap.scores import exact
from autoreap.sizing.sizes import is_expert, is_router, quantised_bytes
from autoreap.writing.rewrite import OutputTensor, plan_rewrite

_TRANSCRIPT_TOKENS_PER_SECOND = 4  # fast speech; the cache of a transcript lies beside that of what was heard
DIRECTIONS = dict.fromkeys(
    ("size_bytes", "size_8bit_bytes", "size_4bit_bytes", "active_parameters", "kv_bytes_per_minute"), "minimize"
)


@dataclass(frozen=True)
class MemoryNeeded:
    """Bytes to hear one clip: the weights are counted, the cache too, the working memory is about so much."""

    weights_bytes: int
    kv_cache_bytes: int
    working_bytes: int

    @property
    def total_bytes(self) -> int:
        """All three; what a driver and an allocator take beside them is not known here."""
        return self.weights_bytes + self.kv_cache_bytes + self.working_bytes


@dataclass(frozen=True)
class Footprint:
    """The tensors of a checkpoint with the config they are loaded by."""

    family: Family
    tensors: Sequence[TensorInfo | OutputTensor]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint, plan: PruningPlan | None = None) -> "Footprint":
        """Of `checkpoint` under `plan`, or as it is. Raises as `plan_rewrite` does."""
        family = family_of(checkpoint.config, where=checkpoint.path / "config.json")
        if plan is None:
            return cls(family, tuple(checkpoint.tensors.values()), checkpoint.config)
        rewrite = plan_rewrite(checkpoint, plan)
        return cls(family, rewrite.tensors, rewrite.config)

    def size_bytes(self, bits: int = 16) -> int:
        """Bytes of all tensors: as stored at 16 bits, else with the matrices of decoder layers at 8 or 4 bits.

        See `sizes.quantised_bytes` for which these are and what their scales take.
        """
        if bits == 16:
            return sum(tensor.num_bytes for tensor in self.tensors)
        return sum(quantised_bytes(tensor, self.family.role(tensor.name), bits) for tensor in self.tensors)

    @property
    def active_parameters(self) -> int:
        """Parameters that a token of the thinker meets, as model cards count them.

        That is top-k of the experts, and all of attention, routers, norms, embeddings and head. Of the published
        Qwen3-Omni-30B-A3B it is 3.35e9, where its card says 3.3B (https://huggingface.co/Qwen/Qwen3-30B-A3B, the same
        decoder); without the table of embeddings, of which a token reads one row, it would be 3.04e9. Encoders are left
        out: they run once, and not for text.
        """
        shape = self.family.shape(self.config).components["thinker"]
        total = 0
        for tensor in self.tensors:
            role = self.family.role(tensor.name)
            if role.part == "thinker":
                share = shape.top_k / shape.num_experts if is_expert(role) else 1
                total += round(tensor.num_parameters * share)
        return total

    def kv_bytes(self, num_tokens: int) -> int:
        """Bytes of the thinker's cache for so many tokens, of the type of its attention."""
        return num_tokens * self.family.cache_values_per_token(self.config) * self._item_bytes

    @property
    def kv_bytes_per_minute(self) -> int:
        """Bytes of cache for the tokens of a minute of audio."""
        return self.kv_bytes(self._num_audio_tokens(60))

    def memory_needed(self, seconds: float, bits: int = 16) -> MemoryNeeded:
        """What it takes to transcribe a clip of `seconds`, with weights of 16 (as stored), 8 or 4 bits.

        The cache holds the clip and a transcript of four tokens a second. The working memory is the family's own
        estimate for hearing and reading the whole clip at once; a server that reads in pieces needs less.
        """
        return self.memory_with(self.size_bytes(bits), seconds)

    def memory_with(self, weights_bytes: int, seconds: float) -> MemoryNeeded:
        """The same where what the weights take is known; of the tensors only their type counts then."""
        num_tokens = self._num_audio_tokens(seconds)
        num_frames = round(seconds * self.family.frames_per_second)
        working = self.family.working_values(self.config, num_frames, num_tokens) * self._item_bytes
        transcript = round(_TRANSCRIPT_TOKENS_PER_SECOND * seconds)
        return MemoryNeeded(weights_bytes, self.kv_bytes(num_tokens + transcript), working)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """All but `size_bytes`, by the names of objectives."""
        values = {
            "size_8bit_bytes": self.size_bytes(8),
            "size_4bit_bytes": self.size_bytes(4),
            "active_parameters": self.active_parameters,
            "kv_bytes_per_minute": self.kv_bytes_per_minute,
        }
        return {name: exact(value) for name, value in values.items()}

    def _num_audio_tokens(self, seconds: float) -> int:
        return self.family.num_audio_tokens(round(seconds * self.family.frames_per_second))

    @cached_property
    def _item_bytes(self) -> int:
        """Bytes of a value of the thinker: what its passes and its cache hold has the type of its matrices."""
        for tensor in self.tensors:
            role = self.family.role(tensor.name)
            if role.part == "thinker" and role.layer is not None and not is_router(role) and len(tensor.shape) > 1:
                return tensor.num_bytes // tensor.num_parameters
        raise AssertionError("a thinker has matrices")
