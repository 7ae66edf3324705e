"""Healed weights, read back from a checkpoint that was written with them."""

from dataclasses import replace

import torch

from autoreap.dimensions import experts, layers
from autoreap.errors import InputError
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.loading import ModelInfo
from autoreap.models.tensors import read_tensor
from autoreap.plan import COMPONENTS, PruningPlan


def with_written_weights(plan: PruningPlan, base: ModelInfo, written: Checkpoint) -> PruningPlan:
    """`plan` with the down projections of `written`, the checkpoint that it made of `base`.

    Layers that its healing did not fit are read too: they hold the base's bytes. Who heals nothing needs none.

    Raises:
        InputError: it is quantised.
    """
    if plan.bits is not None:
        fix = "materialise its plan without bits, polish that, and quantise what comes of it"
        raise InputError("its weights are quantised, and can't be trained", where=written.path, fix=fix)
    healed = [component for component in COMPONENTS if plan.healing(component)]
    if not healed:
        return plan
    layout = base.family.layout
    found: dict[tuple[str, int], dict[int | None, torch.Tensor]] = {}
    for name in base.checkpoint.tensors:
        role = layout.role(name)
        if role.part not in healed or role.layer is None or not role.is_down_projection:
            continue
        # In this order, as `DIMENSIONS` has them: which experts are kept is said of the original layers.
        kept = experts.rewrite_tensor(role, plan)
        renumbered = kept and layers.rewrite_tensor(kept, plan)
        if renumbered:
            by_expert = found.setdefault((role.part, role.layer), {})
            by_expert[renumbered.expert] = read_tensor(written.tensors[renumbered.full_name])
    fitted: dict[tuple[str, int], torch.Tensor] = {}
    for place, by_expert in found.items():
        if None in by_expert:  # of a dense layer, or of all experts as one tensor
            fitted[place] = by_expert[None]
        else:
            # [K, H, I].
            fitted[place] = torch.stack([by_expert[expert] for expert in range(len(by_expert))])
    return replace(plan, fitted=fitted)
