"""Healed weights, read back from a checkpoint that was written with them."""

from dataclasses import replace

import torch

from autoreap.dimensions import experts, layers
from autoreap.errors import InputError
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.loading import ModelInfo
from autoreap.models.tensors import read_tensor
from autoreap.plan import COMPONENTS, FittedWeights, PruningPlan


def with_written_weights(plan: PruningPlan, base: ModelInfo, written: Checkpoint) -> PruningPlan:
    """`plan` with the down projections of `written`, the checkpoint that it made of `base`.

    Layers that its healing did not fit are read too: they hold the base's bytes. Who heals nothing needs none.

    Raises:
        InputError: it is stored in few bits.
    """
    if plan.bits is not None:
        fix = "materialise its plan without bits, polish that, and quantise what comes of it"
        raise InputError("its weights are stored in few bits, and can't be trained", where=written.path, fix=fix)
    healed = [component for component in COMPONENTS if plan.healing(component)]
    if not healed:
        return plan
    layout = base.family.layout
    found: dict[tuple[str, int], list[tuple[int | None, torch.Tensor]]] = {}
    for name in base.checkpoint.tensors:
        role = layout.role(name)
        if role.part not in healed or role.layer is None or not role.is_down_projection:
            continue
        # In this order, as `DIMENSIONS` has them: which experts are kept is said of the original layers.
        kept = experts.rewrite_tensor(role, plan)
        renumbered = kept and layers.rewrite_tensor(kept, plan)
        if renumbered:
            tensor = read_tensor(written.tensors[renumbered.full_name])
            found.setdefault((role.part, role.layer), []).append((renumbered.expert, tensor))
    fitted: FittedWeights = {place: _joined(parts) for place, parts in found.items()}
    return replace(plan, fitted=fitted)


def _joined(parts: list[tuple[int | None, torch.Tensor]]) -> torch.Tensor:
    """The experts of a layer in their order [K, H, I]; a tensor that is of no single expert as it is."""
    by_expert = {expert: tensor for expert, tensor in parts if expert is not None}
    if not by_expert:
        return parts[0][1]
    return torch.stack([by_expert[expert] for expert in range(len(by_expert))])
