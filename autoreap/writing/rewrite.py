"""What a plan makes of a checkpoint, tensor by tensor, from headers alone. No torch."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoreap.checkpoint import Checkpoint, TensorInfo
from autoreap.dimensions import DIMENSIONS
from autoreap.errors import InputError
from autoreap.families import Family, family_of
from autoreap.families.family import Config
from autoreap.plan import COMPONENTS, PruningPlan, check_plan


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the result: `rows` of `source` (all of it for None), or zeros where there is no source."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    source: TensorInfo | None
    rows: tuple[int, ...] | None = None

    @property
    def num_parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def byte_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of its bytes in the source's file, in order; neighbouring rows are one run."""
        if self.source is None:
            return
        if self.rows is None:
            yield self.source.offset, self.source.num_bytes
            return
        row_bytes = self.source.num_bytes // self.source.shape[0]
        start = self.rows[0]
        for row, following in zip(self.rows, (*self.rows[1:], None), strict=True):
            if following != row + 1:
                yield self.source.offset + start * row_bytes, (row + 1 - start) * row_bytes
                start = row if following is None else following


@dataclass(frozen=True)
class Rewrite:
    """Everything that will be written: the tensors in order, the config, and how many source tensors are dropped."""

    tensors: tuple[OutputTensor, ...]
    config: Config
    num_dropped: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, as the index's `total_size` counts them."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Parameters of the result."""
        return sum(tensor.num_parameters for tensor in self.tensors)


def plan_rewrite(checkpoint: Checkpoint, plan: PruningPlan) -> Rewrite:
    """What `plan` makes of every tensor of `checkpoint`.

    Raises:
        InputError: the plan belongs to another model, or the checkpoint holds a tensor of unknown purpose.
    """
    family, config, added = _rewritten_config(checkpoint, plan)
    kept = [tensor for info in checkpoint.tensors.values() if (tensor := _rewritten(info, family, plan)) is not None]
    stubs = [_zeros(name, shape, _like(checkpoint, family, name)) for name, shape in added.items()]
    return Rewrite(tuple(kept + stubs), config, num_dropped=len(checkpoint.tensors) - len(kept))


def rewrite_config(checkpoint: Checkpoint, plan: PruningPlan) -> Config:
    """The config that goes with `plan_rewrite`'s tensors, without looking at these; raises as it does."""
    return _rewritten_config(checkpoint, plan)[1]


def _rewritten_config(
    checkpoint: Checkpoint, plan: PruningPlan
) -> tuple[Family, Config, Mapping[str, tuple[int, ...]]]:
    """The family, the config of the result, and the shapes of tensors that it needs and the checkpoint lacks."""
    family = family_of(checkpoint.config, where=checkpoint.path / "config.json")
    if plan.base_model.fingerprint != checkpoint.fingerprint:
        raise InputError(
            f"the plan was made for another model ({plan.base_model.name}, {plan.base_model.fingerprint}), "
            f"this one is {checkpoint.fingerprint}",
            where=checkpoint.path,
            fix="give the model that the plan was made for, or plan again",
        )
    check_plan(plan, family.shape(checkpoint.config))
    config = copy.deepcopy(dict(checkpoint.config))
    added: dict[str, tuple[int, ...]] = {}
    for dimension in DIMENSIONS:
        added |= dimension.rewrite_config(config, family, plan)
    return family, config, added


def _rewritten(info: TensorInfo, family: Family, plan: PruningPlan) -> OutputTensor | None:
    role = family.role_of(info)
    edit = plan.component(role.part) if role.part in COMPONENTS else None
    if edit is not None and role.layer is not None and role.layer >= len(edit.experts):
        raise InputError(f"tensor {info.name} is of a layer that config.json does not have", where=info.shard)
    for dimension in DIMENSIONS:
        rewritten = dimension.rewrite_tensor(role, plan)
        if rewritten is None:
            return None
        role = rewritten
    if role.rows is None:
        return OutputTensor(role.full_name, info.dtype, info.shape, info.num_bytes, source=info)
    shape = (len(role.rows), *info.shape[1:])
    num_bytes = info.num_bytes // info.shape[0] * len(role.rows)
    return OutputTensor(role.full_name, info.dtype, shape, num_bytes, source=info, rows=role.rows)


def _zeros(name: str, shape: tuple[int, ...], like: TensorInfo) -> OutputTensor:
    item_bytes = like.num_bytes // like.num_parameters
    return OutputTensor(name, like.dtype, shape, math.prod(shape) * item_bytes, source=None)


def _like(checkpoint: Checkpoint, family: Family, name: str) -> TensorInfo:
    """A stored tensor of the same part as `name`, for its type; any tensor where the part has none left."""
    part = family.role(name).part
    stored = checkpoint.tensors.values()
    return next((info for info in stored if family.role(info.name).part == part), next(iter(stored)))
