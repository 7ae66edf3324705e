"""What a checkpoint's bytes are spent on, from headers alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoreap.checkpoint import TensorInfo
from autoreap.families import Family
from autoreap.families.family import TensorRole
from autoreap.rewrite import OutputTensor


@dataclass(frozen=True)
class Size:
    """Parameters and bytes of one kind of tensor."""

    num_parameters: int
    num_bytes: int
    num_tensors: int


def component_sizes(tensors: Iterable[TensorInfo | OutputTensor], family: Family) -> Mapping[str, Size]:
    """Sizes by component, decoders split into experts, routers and the rest; the last entry is the total.

    `tensors` are those of a checkpoint, or those that a plan would make of them.
    """
    sizes: dict[str, Size] = {}
    for info in tensors:
        for name in (_component(family.role(info.name)), "total"):
            size = sizes.get(name, Size(0, 0, 0))
            sizes[name] = Size(
                size.num_parameters + info.num_parameters, size.num_bytes + info.num_bytes, size.num_tensors + 1
            )
    return dict(sorted(sizes.items(), key=lambda entry: (entry[0] == "total", entry[0])))


def _component(role: TensorRole) -> str:
    if role.expert is not None or (role.rows_are_experts and ".experts." in role.name):
        return f"{role.part} experts"
    if role.rows_are_experts:
        return f"{role.part} routers"
    if ".self_attn." in role.name and role.layer is not None:
        return f"{role.part} attention"
    return role.part if role.part in ("audio", "vision", "speech") else f"{role.part} rest"
