"""What a checkpoint costs to run, from headers and config alone: of a model as it is, or as a plan makes it. No torch.

A forward pass is counted as transformers runs it at batch 1 with attention that never holds a whole score matrix (SDPA,
flash). The talker's passes are not counted; its weights are, while a plan keeps them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from autoreap.candidate import BITS
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.families import family_of
from autoreap.models.families.layout import CheckpointLayout, TensorRole
from autoreap.models.headers import TensorForm, TensorInfo
from autoreap.plan import PruningPlan
from autoreap.scores import Metric
from autoreap.writing.output_tensor import OutputTensor
from autoreap.writing.rewrite import rewrite_role, rewrite_tensor, start_rewrite
from autoreap.writing.sizes import quantised_bytes

# Of fast speech. The cache of a transcript lies beside that of what was heard.
_TRANSCRIPT_TOKENS_PER_SECOND = 4


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
    """The weights of a checkpoint, counted, with the config they are loaded by.

    Attributes:
        weights_bytes: bytes of all tensors, by the bits of a weight: as stored at 16 bits, else with the matrices of
            decoder layers at 8 or 4 bits. `sizes.quantised_bytes` tells which these are and what their scales take.
        active_parameters: parameters that a token of the thinker meets, as model cards count them: top-k of the
            experts, and all of attention, routers, norms, embeddings and head. Of the published Qwen3-Omni-30B-A3B it
            is 3.35e9, where its card says 3.3B (https://huggingface.co/Qwen/Qwen3-30B-A3B, the same decoder); without
            the table of embeddings, of which a token reads one row, it would be 3.04e9. Encoders are left out: they
            run once, and not for text.
        item_bytes: of a value of the thinker's matrices that are not packed. Cache and working memory have their type.
    """

    layout: CheckpointLayout
    config: Mapping[str, Any]
    weights_bytes: Mapping[int, int]
    active_parameters: int
    item_bytes: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, plan: PruningPlan | None = None) -> "Footprint":
        """Of `checkpoint` under `plan`, or as it is. Raises as `plan_rewrite` does.

        Example:
            >>> from autoreap.models.loading import open_model
            >>> Footprint.of(open_model("tiny").checkpoint).size_bytes()
            6782314
        """
        stubs: list[OutputTensor] = []
        if plan is None:
            layout = family_of(checkpoint.config, where=checkpoint.path / "config.json").layout
            config = checkpoint.config
        else:
            layout, config, stubs = start_rewrite(checkpoint, plan)
        counted: list[tuple[TensorForm, TensorRole, int]] = []
        counted += _count_tensors(checkpoint, plan, layout)
        counted += [(stub, layout.role(stub.name), 1) for stub in stubs]
        weights_bytes = dict.fromkeys(BITS, 0)
        active_parameters = 0
        item_bytes = 0
        thinker = layout.shape(config).components["thinker"]
        for tensor, role, num_tensors in counted:
            for bits in BITS:
                weights_bytes[bits] += num_tensors * quantised_bytes(tensor, role, bits)
            if role.part != "thinker":
                continue
            share: float = 1
            if role.is_expert_matrix:
                share = thinker.top_k / thinker.num_experts
            active_parameters += num_tensors * round(tensor.num_parameters * share)
            if len(tensor.shape) > 1 and tensor.stands_for is None and not item_bytes:
                item_bytes = tensor.num_bytes // tensor.num_parameters
        return cls(layout, config, weights_bytes, active_parameters, item_bytes)

    def size_bytes(self, bits: int = 16) -> int:
        """Bytes of all tensors with 16 (as stored), 8 or 4 bits a weight."""
        return self.weights_bytes[bits]

    def kv_bytes(self, num_tokens: int) -> int:
        """Bytes of the thinker's cache for so many tokens, of the type of its attention."""
        return num_tokens * self.layout.cache_values_per_token(self.config) * self.item_bytes

    @property
    def kv_bytes_per_minute(self) -> int:
        """Bytes of cache for the tokens of a minute of audio."""
        return self.kv_bytes(self._num_audio_tokens(60))

    def memory_needed(self, seconds: float, bits: int = 16) -> MemoryNeeded:
        """What it takes to transcribe a clip of `seconds`, with weights of 16 (as stored), 8 or 4 bits.

        The cache holds the clip and a transcript of four tokens a second. The working memory is the family's own
        estimate for hearing and reading the whole clip at once; a server that reads in pieces needs less.
        """
        num_tokens = self._num_audio_tokens(seconds)
        num_frames = round(seconds * self.layout.frames_per_second)
        working = self.layout.working_values(self.config, num_frames, num_tokens) * self.item_bytes
        transcript = round(_TRANSCRIPT_TOKENS_PER_SECOND * seconds)
        return MemoryNeeded(self.size_bytes(bits), self.kv_bytes(num_tokens + transcript), working)

    def metrics(self) -> dict[str, Metric]:
        """All but `size_bytes`, by the names of objectives."""
        values = {
            "size_8bit_bytes": self.size_bytes(8),
            "size_4bit_bytes": self.size_bytes(4),
            "active_parameters": self.active_parameters,
            "kv_bytes_per_minute": self.kv_bytes_per_minute,
        }
        return {name: Metric.static(value) for name, value in values.items()}

    def _num_audio_tokens(self, seconds: float) -> int:
        return self.layout.num_audio_tokens(round(seconds * self.layout.frames_per_second))


@dataclass(frozen=True)
class _TensorGroup:
    """The tensors of one name in one layer: one for each expert, or a single one.

    Attributes:
        info: the first of them; the others have its type and shape.
        roles: of each of them.
    """

    info: TensorInfo
    roles: tuple[TensorRole, ...]


@lru_cache(maxsize=4)
def _group_tensors(checkpoint: Checkpoint) -> list[_TensorGroup]:
    """All tensors of `checkpoint`, in their order."""
    # To read 28,010 names takes longer than all else that a footprint needs, and is the same for every plan.
    layout = family_of(checkpoint.config, where=checkpoint.path / "config.json").layout
    first: dict[tuple[Any, ...], TensorInfo] = {}
    roles: dict[tuple[Any, ...], list[TensorRole]] = {}
    for info in checkpoint.tensors.values():
        role = layout.role_of(info)
        key = (role.part, role.name, role.layer, info.dtype, info.shape, role.expert is None)
        first.setdefault(key, info)
        roles.setdefault(key, []).append(role)
    return [_TensorGroup(info, tuple(roles[key])) for key, info in first.items()]


def _count_tensors(
    checkpoint: Checkpoint, plan: PruningPlan | None, layout: CheckpointLayout
) -> Iterator[tuple[TensorForm, TensorRole, int]]:
    """What `plan` leaves of each group: a tensor of it, the role, and how many of these tensors there are."""
    is_retained: dict[tuple[str, int | None, int], bool] = {}  # part, layer, expert
    for group in _group_tensors(checkpoint):
        info = group.info
        if plan is None:
            yield info, group.roles[0], len(group.roles)
            continue
        retained_roles = []
        for role in group.roles:
            if role.expert is None:
                retained_roles.append(role)
                continue
            # All tensors of an expert share its fate (see `Dimension`).
            key = (role.part, role.layer, role.expert)
            if key not in is_retained:
                is_retained[key] = rewrite_role(role, plan, info.shard) is not None
            if is_retained[key]:
                retained_roles.append(role)
        if retained_roles:
            for tensor in rewrite_tensor(info, retained_roles[0], plan, layout):
                yield tensor, retained_roles[0], len(retained_roles)
