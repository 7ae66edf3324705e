"""What a model family is made of: the only place where its module paths, config keys and tensor names are known.

A dimension (`autoreap.dimensions`) asks these three parts and never spells such a name itself. A question has an answer
already where most families give the same. docs/adding-a-family.md walks through one.
"""

from dataclasses import dataclass

from autoreap.models.families.layout import CheckpointLayout
from autoreap.models.families.running import RunningModel
from autoreap.models.families.voice import Voice


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
