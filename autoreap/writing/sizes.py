"""What a checkpoint's bytes are spent on, and what they would be quantised, from headers alone."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoreap.models.families.layout import CheckpointLayout, TensorRole
from autoreap.models.headers import TensorForm
from autoreap.models.packed import SCALE_BITS

_GROUP = 128  # weights along a row that share a scale, the usual size


@dataclass(frozen=True)
class Size:
    """Parameters and bytes of one kind of tensor."""

    num_parameters: int
    num_bytes: int
    num_tensors: int


def component_sizes(tensors: Iterable[TensorForm], layout: CheckpointLayout) -> Mapping[str, Size]:
    """Sizes by component, decoders split into experts, routers and the rest; the last entry is the total.

    `tensors` are those of a checkpoint, or those that a plan would make of them.
    """
    sizes: dict[str, Size] = {}
    for info in tensors:
        for name in (_component(layout.role(info.name)), "total"):
            size = sizes.get(name, Size(0, 0, 0))
            sizes[name] = Size(
                size.num_parameters + info.num_parameters, size.num_bytes + info.num_bytes, size.num_tensors + 1
            )
    total_last = sorted(sizes, key=lambda name: (name == "total", name))
    return {name: sizes[name] for name in total_last}


def is_router(role: TensorRole) -> bool:
    """Whether it is a router."""
    return role.rows_are_experts and ".experts." not in role.name


def quantised_bytes(tensor: TensorForm, role: TensorRole, bits: int) -> int:
    """Bytes of a tensor in a checkpoint quantised to `bits`, as weight-only recipes for MoE models do it.

    Matrices of decoder layers (attention, experts) take `bits` a weight, each row rounded up to whole bytes, and a
    scale of two bytes for every 128 weights of a row, without zero points. All else stays as stored: routers, norms,
    embeddings and heads, encoders, the talker's code predictor and the waveform decoder. So does all at 16 bits, and
    what is packed already.
    """
    is_quantised = role.layer is not None and len(tensor.shape) > 1 and not is_router(role)
    if bits == 16 or tensor.stands_for is not None or not is_quantised:
        return tensor.num_bytes
    *outer, row_length = tensor.shape
    weights_bytes = math.ceil(row_length * bits / 8)
    scales_bytes = math.ceil(row_length / _GROUP) * SCALE_BITS // 8
    # Of very short rows the scales would take more than quantising saves: they stay as they are.
    return min(tensor.num_bytes, math.prod(outer) * (weights_bytes + scales_bytes))


def _component(role: TensorRole) -> str:
    if role.is_expert_matrix:
        return f"{role.part} experts"
    if role.rows_are_experts:
        return f"{role.part} routers"
    if ".self_attn." in role.name and role.layer is not None:
        return f"{role.part} attention"
    if role.part in ("audio", "vision", "speech"):
        return role.part
    return f"{role.part} rest"
