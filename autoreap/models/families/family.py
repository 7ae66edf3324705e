"""What a model family is made of: the only place where its module paths, config keys and tensor names are known.

A dimension (`autoreap.dimensions`) asks these three parts and never spells such a name itself. A question has an answer
already where most families give the same. docs/adding-a-family.md walks through one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoreap.models.families.layout import CheckpointLayout
from autoreap.models.families.running import Decoder, RunningModel
from autoreap.models.families.voice import Voice
from autoreap.plan import COMPONENTS, ComponentPlan, PruningPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One model family of transformers.

    Attributes:
        layout: its checkpoints, of which headers and config.json are read, without torch.
        running: the model once it is loaded.
        voice: how it speaks; None if it can't.
    """

    layout: CheckpointLayout
    running: RunningModel
    voice: Voice | None = None

    def edited_decoders(
        self, model: PreTrainedModel, plan: PruningPlan
    ) -> Iterator[tuple[str, Decoder, ComponentPlan]]:
        """Component, decoder and edit of each that `plan` edits; a talker that was not loaded is passed over."""
        for component in COMPONENTS:
            decoder, edit = self.running.decoder(model, component), plan.component(component)
            if decoder is not None and edit is not None:
                yield component, decoder, edit
