"""The ways to prune. To add one, write its file beside this one and list it here.

Each file holds both halves of one edit, side by side: `mask`, the reversible form in memory, and `rewrite_tensor` with
`rewrite_config`, the same edit on disk. What a mask computes and what the rewritten checkpoint computes must be equal
bit for bit; tests/contract/test_dimensions.py holds every dimension to it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from autoreap.dimensions import bits, experts, healed, layers, polished, routing, speech, vision
from autoreap.models.families.family import Family
from autoreap.models.families.layout import CheckpointLayout, Config, Shapes, TensorRole
from autoreap.plan import PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Dimension(Protocol):
    """What a module in this folder provides."""

    def mask(self, model: PreTrainedModel, family: Family, plan: PruningPlan) -> AbstractContextManager[None]:
        """Apply the edit in memory; leaving the context restores every bit, after an exception too."""
        ...

    def rewrite_tensor(self, role: TensorRole, plan: PruningPlan) -> TensorRole | None:
        """The role in the pruned checkpoint, or None if the tensor is dropped.

        All tensors of one expert are kept or dropped together, so counting asks about only one of them.
        """
        ...

    def rewrite_config(self, config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
        """Edit the raw config in place; the tensors that must be added, filled with zeros."""
        ...


# All that names layers comes before `layers`: a plan names original ones, and `layers` renumbers them. What is fitted
# is quantised afterwards, and trained routers take the place of narrowed ones.
DIMENSIONS: tuple[Dimension, ...] = (healed, bits, experts, routing, polished, layers, vision, speech)
