"""Put trained routers and norms in the place of the thinker's own; `autoreap.healing.polish` trains them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError
from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.plan import PolishedWeights, PruningPlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Put the trained weights in the place of the original ones. Routers are narrowed already."""
    from torch import nn

    # A name leads to the original layer: this is entered before layers are cut and renumbered.
    decoder = cast("nn.Module", family.running.decoder(model, "thinker"))
    with ExitStack() as stack:
        for name, weights in polished_weights(plan).items():
            module: Any = decoder.get_submodule(name.removesuffix(".weight"))
            trained = nn.Parameter(weights.to(module.weight.device, module.weight.dtype), requires_grad=False)
            stack.enter_context(standing_in(module, trained))
        yield


@contextmanager
def standing_in(module: nn.Module, weight: nn.Parameter) -> Iterator[None]:
    """`weight` in the place of that of `module`."""
    original = module.weight
    module.weight = weight
    try:
        yield
    finally:
        module.weight = original


def polished_weights(plan: PruningPlan) -> PolishedWeights:
    """The trained weights of the plan; none if it polishes nothing.

    Raises:
        InputError: the plan is of a polished checkpoint, and its weights are there alone.
    """
    if plan.polish is None:
        return {}
    if plan.polished is None:
        problem = "is of a polished checkpoint, and only that checkpoint has the trained weights"
        raise InputError(problem, where="plan", fix="give the checkpoint instead of its plan")
    return plan.polished


def trained_tensor(role: TensorRole, plan: PruningPlan) -> torch.Tensor | None:
    """What takes the place of the tensor `role` of the base model; None where it was not trained."""
    if plan.polished is None or role.part != "thinker":
        return None
    return plan.polished.get(role.name_in_decoder)


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Mark what is trained; `writing.rewrite` takes it from the plan."""
    if trained_tensor(role, plan) is None:
        return role
    return replace(role, is_fitted=True)


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Nothing: only values change."""
    return {}
