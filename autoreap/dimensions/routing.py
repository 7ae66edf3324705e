"""Route a token of the thinker to another number of experts. No weight changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.models.families.running import Router
from autoreap.plan import PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Lower the routers' top-k; the routers are narrowed already."""
    decoder = family.running.decoder(model, "thinker")
    with ExitStack() as stack:
        if plan.active_experts is not None and decoder is not None:
            for layer in decoder.layers:
                router = family.running.router(layer)
                if router is not None:
                    stack.enter_context(choosing(router, plan.active_experts))
        yield


@contextmanager
def choosing(router: Router, num_active: int) -> Iterator[None]:
    """`router` chooses `num_active` experts for a token while the context lasts."""
    before = router.top_k
    router.top_k = num_active
    try:
        yield
    finally:
        router.top_k = before


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Nothing: no tensor changes."""
    return role


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Set top-k."""
    if plan.active_experts is not None:
        layout.write_active_experts(config, plan.active_experts)
    return {}
