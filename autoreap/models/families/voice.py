"""The speech output of a family's model: using it, and leaving it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Voice(ABC):
    """The voice of a family's model, which may have been loaded without it."""

    @abstractmethod
    def speak(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], end_token: int, max_steps: int) -> None:
        """Answer one prompt aloud, of at most `max_steps` steps of the talker; what is said does not matter.

        Raises:
            SilenceError: nothing is said. The talker may have read the prompt by then.
        """

    @abstractmethod
    def without_speech(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Within the context, `model` is as it would be loaded from a checkpoint that can't speak."""

    def with_moved_input(self, model: PreTrainedModel, retained: tuple[int, ...]) -> AbstractContextManager[None]:
        """Within the context, a talker that takes hidden states of a middle layer finds it among the `retained`.

        Nothing changes if the talker reads only the thinker's first or last hidden states.
        """
        return nullcontext()
