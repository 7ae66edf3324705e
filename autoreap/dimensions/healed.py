"""Put fitted weights in the place of the down projections that remain; `autoreap.healing` fits them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from autoreap.errors import InputError
from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.plan import FittedWeights, PruningPlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Put the fitted weights in the place of the original ones, which are kept in host memory."""
    with ExitStack() as stack:
        for component, decoder, edit in family.edited_decoders(model, plan):
            check_fitted(plan, component)
            for (of, number), weights in (plan.fitted or {}).items():
                if of == component:
                    down = family.running.down_projection(decoder.layers[number])
                    stack.enter_context(standing_in(down, edit.experts[number], weights))
        yield


@contextmanager
def standing_in(down: nn.Parameter, kept: tuple[int, ...], weights: torch.Tensor) -> Iterator[None]:
    """`weights` in the place of the `kept` experts of `down` [E, H, I], or of all of it [H, I] where it has none.

    Expert by expert from and to the host's memory: nothing must be allocated on a device that may be full by then.
    """
    import torch

    if down.is_meta:
        raise InputError("is on disk or offloaded, so it can't be fitted", where="heal", fix="use a larger device")
    values = down.detach()
    # Pinned memory moves at the speed of the link.
    waiting = torch.empty(weights.shape, dtype=values.dtype, pin_memory=values.is_cuda)
    places, originals, others = [values], [waiting], [weights]
    if kept:
        # Views, one an expert: an index of several at once would make a copy on the device.
        places, originals, others = [values[expert] for expert in kept], list(waiting), list(weights)
    for place, original in zip(places, originals, strict=True):
        original.copy_(place)
    try:
        for place, other in zip(places, others, strict=True):
            place.copy_(other)
        yield
    finally:
        for place, original in zip(places, originals, strict=True):
            place.copy_(original)


def check_fitted(plan: PruningPlan, component: str) -> None:
    """Raise `InputError` if the plan heals `component`, but its weights are not fitted yet."""
    if not plan.is_fitted(component):
        problem = f"heals the {component}, but its weights are not fitted yet"
        raise InputError(problem, where="plan", fix="fit them with healing.healer.Healer")


def digest_of(fitted: FittedWeights) -> str:
    """Sixteen hex digits of all fitted weights."""
    return digest_of_named((f"{component}.{layer}", fitted[component, layer]) for component, layer in sorted(fitted))


def digest_of_named(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Sixteen hex digits of named weights, in their order."""
    digest = hashlib.sha256()
    for name, tensor in weights:
        digest.update(name.encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()[:16]


def bytes_of(weights: torch.Tensor) -> memoryview:
    """The bytes of `weights` as they are stored."""
    import torch

    stored = weights.cpu().contiguous().flatten().view(torch.uint8)
    return memoryview(stored.numpy().data)


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Mark what is fitted; `writing.rewrite` takes it from the plan. Of a plan not yet fitted nothing can be said."""
    if plan.fitted is None or not role.is_down_projection or (role.part, role.layer) not in plan.fitted:
        return role
    return replace(role, is_fitted=True)


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Nothing: only values change."""
    return {}
