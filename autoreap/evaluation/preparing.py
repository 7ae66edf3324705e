"""What no candidate can change, computed once: prompts, and what the audio tower makes of each recording.

A row whose media can't be read is left out here, for the unpruned model and for every candidate alike: it would tell
nothing about any of them.

Shape legend: A audio tokens, H hidden.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from autoreap.data.evals_config import TaskConfig, task_of
from autoreap.data.samples import Sample, check_unreadable
from autoreap.errors import MediaError
from autoreap.evaluation.draft_rows import Prompt
from autoreap.evaluation.tensor_store import TensorStore
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded
from autoreap.models.families.running import RunningModel
from autoreap.models.faults import is_out_of_memory
from autoreap.models.prompts import audio_of, embedded, without_features
from autoreap.progress import Progress

logger = logging.getLogger(__name__)

# An answer may be this much longer than its reference before it counts as a runaway and is stopped.
_RUNAWAY_FACTOR, _RUNAWAY_SPARE = 2, 8


@dataclass(frozen=True)
class Item:
    """One prompt, ready to run. `audio` is [A, H]; `max_new_tokens` bounds the answer. `sample` has no media."""

    sample: Sample
    encoded: Encoded
    audio: torch.Tensor | None
    max_new_tokens: int

    def prompt(self, draft: Sequence[int]) -> Prompt:
        """As the decoder takes it."""
        return Prompt(len(self.encoded.input_ids), self.max_new_tokens, tuple(draft))


@dataclass(frozen=True)
class Preparer:
    """Makes items of rows, and inputs of the thinker of items; `store` holds what is large."""

    running: RunningModel
    model: PreTrainedModel
    inputs: ChatInputs
    store: TensorStore

    @torch.inference_mode()
    def items(self, config: TaskConfig, samples: Sequence[Sample], progress: Progress) -> tuple[Item, ...]:
        """The rows that can be read, in order.

        Raises:
            InputError: more than the share `config.max_unreadable` can't be read, or none can; a row spells a special
                token.
        """
        items: list[Item] = []
        unreadable: list[str] = []
        for sample in samples:
            try:
                items.append(self._item(config, sample))
            except MediaError as error:
                logger.info(f"left out: {error}")
                unreadable.append(str(error))
                check_unreadable(unreadable, len(samples), config.max_unreadable, option="max_unreadable:")
            progress.advance()
        return tuple(items)

    def _item(self, config: TaskConfig, sample: Sample) -> Item:
        task = task_of(config)
        encoded = self.encoded(config, sample)
        try:
            audio = audio_of(self.running, self.model, encoded)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MediaError("recording is too long for the memory there is", where=sample.where) from None
        num_reference_tokens = len(self.inputs.text_tokens(task.reference(sample)))
        bound = config.max_new_tokens or _RUNAWAY_FACTOR * num_reference_tokens + _RUNAWAY_SPARE
        pixels = encoded.pixels
        if pixels is not None:
            pixels = self.store.keep(pixels)
        if audio is not None:
            audio = self.store.keep(audio)
        # Without the recording and its features: thousands of items are kept for a whole search.
        return Item(
            sample=replace(sample, audio=None, image=None, video=()),
            encoded=replace(without_features(encoded), pixels=pixels),
            audio=audio,
            max_new_tokens=bound,
        )

    def encoded(self, config: TaskConfig, sample: Sample) -> Encoded:
        """The prompt of a row. Raises as `ChatInputs.encode` does."""
        task = task_of(config)
        return self.inputs.encode(sample, task.question(sample, config.doc_to_text or task.QUESTION))

    def embedded(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Inputs of the thinker, as `Embed` gives them."""
        encoded, audio = [item.encoded for item in items], [item.audio for item in items]
        return embedded(self.running, self.model, self.inputs, encoded, audio)
