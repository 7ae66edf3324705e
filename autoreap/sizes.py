"""What a checkpoint's bytes are spent on, from headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from autoreap.checkpoint import Checkpoint
from autoreap.families import Family
from autoreap.families.family import TensorRole


@dataclass(frozen=True)
class Size:
    """Parameters and bytes of one kind of tensor."""

    num_parameters: int
    num_bytes: int
    num_tensors: int


def component_sizes(checkpoint: Checkpoint, family: Family) -> Mapping[str, Size]:
    """Sizes by component, decoders split into experts, routers and the rest; the last entry is the total."""
    sizes: dict[str, Size] = {}
    for info in checkpoint.tensors.values():
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
