"""Keep some experts of each layer, the same number in all layers of a component."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.models.families.running import Router
from autoreap.plan import COMPONENTS, PruningPlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Narrow every router to its retained experts; the experts' own weights stay untouched where they are."""
    with ExitStack() as stack:
        for _, decoder, edit in family.edited_decoders(model, plan):
            for layer, kept in zip(decoder.layers, edit.experts, strict=True):
                router = family.running.router(layer)
                # A router that keeps all its experts needs no mask, and a dense layer has none.
                if router is not None and len(kept) < router.num_experts:
                    stack.enter_context(narrowed(router, kept))
        yield


@contextmanager
def narrowed(router: Router, kept: tuple[int, ...]) -> Iterator[None]:
    """Slice the router's rows to `kept` and translate the indices it returns back to the original experts.

    This is what the pruned router computes, to the bit. Masking the logits of dropped experts would not be: softmax
    over E entries rounds otherwise than softmax over K (up to 4e-2 in bf16).
    """
    import torch

    original = router.weight
    num_experts, top_k = router.num_experts, router.top_k
    keep = torch.tensor(kept, device=original.device)

    def to_original(_module: nn.Module, _inputs: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits, weights, indices = output
        return logits, weights, keep[indices]

    handle = router.register_forward_hook(to_original)
    try:
        router.weight = torch.nn.Parameter(original.detach()[keep], requires_grad=False)
        # The stock router raises an error where it is to choose more experts than there are.
        router.num_experts, router.top_k = len(kept), min(top_k, len(kept))
        yield
    finally:
        handle.remove()
        router.weight, router.num_experts, router.top_k = original, num_experts, top_k


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Drop experts that are not retained, renumber the others, slice routers and fused experts."""
    edit = plan.component(role.part) if role.part in COMPONENTS else None
    if edit is None or role.layer is None:
        return role
    kept = edit.experts[role.layer]
    if role.rows_are_experts:
        return replace(role, rows=kept)
    if role.expert is None:
        return role
    if role.expert not in kept:
        return None
    return replace(role, expert=kept.index(role.expert))


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Set the number of experts; top-k follows where fewer are left."""
    for component in COMPONENTS:
        if edit := plan.component(component):
            layout.write_experts(config, component, edit.num_retained_experts)
    return {}
