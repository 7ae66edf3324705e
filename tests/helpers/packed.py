"""What packed models compute."""

from typing import Any

import torch

from autoreap.models.loading import Loaded


def logits(loaded: Loaded) -> torch.Tensor:
    """Logits of the embedded model, however it is loaded, for two rows of text."""
    ids = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    model: Any = loaded.model
    result: torch.Tensor = model.thinker(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return result
