"""Plans with fitted and trained weights, without the fit and the training."""

from dataclasses import replace

import torch

from autoreap.dimensions.healed import digest_of
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.families import family_of
from autoreap.plan import COMPONENTS, Healing, Polishing, PruningPlan

HEALING = Healing(method="stream", ridge=0.01, data={"audio": "of no rows"}, tokens="both")
POLISHING = Polishing({"audio": "of no rows"}, step=1, learning_rate=0.001, batch_tokens=1, seed=0, weights="random")


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
    return plan.with_fitted(fitted, dict.fromkeys(COMPONENTS, digest_of(fitted)))


def polished_at_random(plan: PruningPlan, checkpoint: Checkpoint, *, seed: int = 0) -> PruningPlan:
    """`plan` as if polishing had trained random routers and norms, of the stored type."""
    layout = family_of(checkpoint.config).layout
    generator = torch.Generator().manual_seed(seed)
    polished = {}
    for info in checkpoint.tensors.values():
        role = layout.role(info.name)
        if role.part != "thinker" or (role.layer is not None and role.layer not in plan.thinker.layers):
            continue
        if role.rows_are_experts and role.name.endswith("mlp.gate.weight"):
            assert role.layer is not None
            weights = torch.randn((len(plan.thinker.experts[role.layer]), info.shape[1]), generator=generator)
        elif role.name_in_decoder.endswith("norm.weight"):
            weights = 1 + 0.1 * torch.randn(info.shape, generator=generator)
        else:
            continue
        polished[role.name_in_decoder] = weights.to(torch.bfloat16)
    return replace(plan, polished=polished)
