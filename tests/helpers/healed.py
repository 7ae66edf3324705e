"""Plans with fitted weights, without the fit."""

import torch

from autoreap.dimensions.healed import digest_of
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.families import family_of
from autoreap.plan import COMPONENTS, Healing, PruningPlan

HEALING = Healing(method="stream", ridge=0.01, data={"audio": "of no rows"}, tokens="both")


def fitted_at_random(plan: PruningPlan, checkpoint: Checkpoint, *, seed: int = 0) -> PruningPlan:
    """`plan` as if healing had fitted random weights, of the stored type."""
    layout = family_of(checkpoint.config).layout
    generator = torch.Generator().manual_seed(seed)
    fitted: dict[tuple[str, int], torch.Tensor] = {}
    for info in checkpoint.tensors.values():
        role = layout.role(info.name)
        edit = plan.component(role.part) if role.part in COMPONENTS else None
        if edit is None or not role.is_down_projection or role.layer not in edit.layers:
            continue
        kept = edit.experts[role.layer]
        shape = (len(kept), *info.shape[-2:]) if kept else info.shape
        weights = torch.randn(shape, generator=generator) * 1.5 / shape[-1] ** 0.5
        fitted.setdefault((role.part, role.layer), weights.to(torch.bfloat16))
    return plan.with_fitted(fitted, digest_of(fitted))
