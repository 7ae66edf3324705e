"""What a plan makes of a checkpoint, tensor by tensor, from headers alone. No torch."""

import copy
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoreap.dimensions import DIMENSIONS
from autoreap.dimensions.polished import trained_tensor
from autoreap.errors import InputError
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.families import family_of
from autoreap.models.families.layout import CheckpointLayout, Config, TensorRole
from autoreap.models.headers import TensorInfo
from autoreap.plan import COMPONENTS, PruningPlan, check_plan
from autoreap.writing.output_tensor import OutputTensor
from autoreap.writing.packing import Matrix

if TYPE_CHECKING:
    import torch


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
    layout, config, stubs = start_rewrite(checkpoint, plan)
    tensors: list[OutputTensor] = []
    num_dropped = 0
    for info in checkpoint.tensors.values():
        rewritten = rewrite_tensor(info, layout.role_of(info), plan, layout)
        num_dropped += not rewritten
        tensors += rewritten
    return Rewrite((*tensors, *stubs), config, num_dropped)


def start_rewrite(checkpoint: Checkpoint, plan: PruningPlan) -> tuple[CheckpointLayout, Config, list[OutputTensor]]:
    """The layout, the config of the result, and the tensors that it needs and the checkpoint lacks.

    Raises:
        InputError: the plan belongs to another model.
    """
    layout = family_of(checkpoint.config, where=checkpoint.path / "config.json").layout
    if plan.base_model.fingerprint != checkpoint.fingerprint:
        raise InputError(
            f"the plan was made for another model ({plan.base_model.name}, {plan.base_model.fingerprint}), "
            f"this one is {checkpoint.fingerprint}",
            where=checkpoint.path,
            fix="give the model that the plan was made for, or plan again",
        )
    check_plan(plan, layout.shape(checkpoint.config))
    # A copy, which the dimensions change in place.
    config = copy.deepcopy(dict(checkpoint.config))
    stubs: list[OutputTensor] = []
    for dimension in DIMENSIONS:
        for name, shape in dimension.rewrite_config(config, layout, plan).items():
            stored = _first_of_each_part(checkpoint)
            # A stub has the type of its part; where the part has nothing stored, that of the checkpoint's first tensor.
            like = stored.get(layout.role(name).part) or next(iter(stored.values()))
            stubs.append(OutputTensor(name, like.dtype, shape, math.prod(shape) * like.item_bytes, source=None))
    return layout, config, stubs


def rewrite_role(role: TensorRole, plan: PruningPlan, shard: Path) -> TensorRole | None:
    """The role of a tensor of `shard` in the pruned checkpoint, or None if it is dropped."""
    if role.part in COMPONENTS and role.layer is not None:
        edit = plan.component(role.part)
        if edit is not None and role.layer >= len(edit.experts):
            raise InputError(f"tensor {role.full_name} is of a layer that config.json does not have", where=shard)
    for dimension in DIMENSIONS:
        rewritten = dimension.rewrite_tensor(role, plan)
        if rewritten is None:
            return None
        role = rewritten
    return role


def rewrite_tensor(
    info: TensorInfo, role: TensorRole, plan: PruningPlan, layout: CheckpointLayout
) -> tuple[OutputTensor, ...]:
    """What becomes of a stored tensor; nothing if it is dropped, three if it is packed.

    Experts that are stored fused become one matrix each where they are packed.
    """
    rewritten = rewrite_role(role, plan, info.shard)
    if rewritten is None:
        return ()
    if rewritten.bits < 16 and len(info.shape) > 2:
        # The matrices of fused experts lie one after another.
        tensors: list[OutputTensor] = []
        offset = info.offset
        for name, shape in layout.unfuse_experts(info.name, info.shape).items():
            num_bytes = math.prod(shape) * info.item_bytes
            piece = TensorInfo(name, info.dtype, shape, num_bytes, info.shard, offset)
            tensors += rewrite_tensor(piece, layout.role_of(piece), plan, layout)
            offset += num_bytes
        return tuple(tensors)
    fitted = None
    if rewritten.is_fitted:
        fitted = _fitted_tensor(role, plan)
    if rewritten.bits < 16:
        assert plan.bits is not None
        matrix = Matrix(rewritten.full_name, info, rewritten.bits, plan.bits.group_size, fitted)
        return matrix.parts()
    rows = rewritten.rows
    shape, num_bytes = info.shape, info.num_bytes
    if rows is not None:
        shape = (len(rows), *info.shape[1:])
        num_bytes = info.num_bytes // info.shape[0] * len(rows)
    tensor = OutputTensor(rewritten.full_name, info.dtype, shape, num_bytes, info, rows, stands_for=info.stands_for)
    if fitted is not None:
        tensor = replace(tensor, values=lambda: fitted)
    return (tensor,)


def _fitted_tensor(role: TensorRole, plan: PruningPlan) -> "torch.Tensor":
    """The trained or fitted weights in the place of the tensor `role` of the base model."""
    trained = trained_tensor(role, plan)
    if trained is not None:
        return trained
    edit = plan.component(role.part)
    assert role.layer is not None
    assert plan.fitted is not None
    assert edit is not None
    weights: torch.Tensor = plan.fitted[role.part, role.layer]
    if role.expert is None:
        return weights
    # They are those of the retained experts alone, in their order.
    return weights[edit.experts[role.layer].index(role.expert)]


@lru_cache(maxsize=4)
def _first_of_each_part(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """The first stored tensor of each part: `talker`, `vision`, ..."""
    # To read 28,010 names takes as long as all else that a plan's footprint needs, and is the same for every plan.
    layout = family_of(checkpoint.config, where=checkpoint.path / "config.json").layout
    first: dict[str, TensorInfo] = {}
    for info in checkpoint.tensors.values():
        first.setdefault(layout.role(info.name).part, info)
    return first
