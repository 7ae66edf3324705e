"""What the decoder is given of the calibration rows that are fitted on."""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from autoreap import __version__
from autoreap.calibration.batching import batches, encode, estimate_tokens
from autoreap.calibration.calibrator import DEFAULT_BATCH_TOKENS, listen, speak
from autoreap.data.conditions import read_condition
from autoreap.data.draws import draw_rows
from autoreap.data.samples import Sample
from autoreap.errors import InputError, MediaError, SilenceError
from autoreap.models.decoder_calls import catch_arguments, catch_steps
from autoreap.models.families.encoded import mark_tokens
from autoreap.models.loading import Loaded
from autoreap.models.places import library_versions
from autoreap.progress import Progress

logger = logging.getLogger(__name__)

# Of one modality; some 100 clips. An expert's map of 768 inputs needs about twice as many tokens, and 64 of 128 experts
# with a top-k of 8 get 2,000 each of these.
MAX_TOKENS = 16_384


@dataclass(frozen=True)
class DecoderCall:
    """A batch.

    Attributes:
        hidden: h_0 [B, T, H].
        arguments: the decoder's others.
        counted: the numbers of the tokens that count, in [0, B * T).
        weight: how often each of them counts.
    """

    hidden: torch.Tensor
    arguments: Mapping[str, Any]
    counted: torch.Tensor
    weight: float


def drawn_rows(loaded: Loaded, samples: Sequence[Sample], max_tokens: int = MAX_TOKENS) -> list[Sample]:
    """Rows of about `max_tokens` tokens, drawn evenly from `samples`, in their order; all where there are fewer."""
    # About so many, as rows are of different lengths.
    limit = int(max_tokens / max(estimate_tokens(loaded.inputs, samples), 1) * len(samples))
    return [sample for _, sample in draw_rows(samples, max(1, limit))]


def decoder_calls(
    loaded: Loaded,
    samples: Sequence[Sample],
    tokens: str,
    condition: str = "",
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[DecoderCall]:
    """What the thinker's decoder is given of `samples`, rows of one modality, heard under `condition`.

    Rows that can't be read are left out, as many as there are: calibration has judged them.
    """
    if condition:
        changed = read_condition(condition, where="heal_condition")
        samples = [replace(sample, condition=changed) for sample in samples]
    calls = []
    decoder = loaded.decoder("thinker")
    for batch in batches(loaded.inputs, samples, batch_tokens, max_unreadable=1.0):
        # The decoder's layers are not run, so a model that is read layer by layer needs none in memory.
        arguments = catch_arguments(decoder, partial(listen, loaded, batch))
        hidden = arguments.pop("inputs_embeds")
        counted = mark_tokens(batch.encoded, tokens).flatten().nonzero().squeeze(1)
        calls.append(DecoderCall(hidden, arguments, counted.to(hidden.device), batch.weight))
    return calls


def spoken_calls(loaded: Loaded, samples: Sequence[Sample], max_tokens: int = MAX_TOKENS) -> list[DecoderCall]:
    """What the talker's decoder is given while the model answers `samples` aloud, a call for each answer.

    All that it is given counts, as in calibration. Rows are taken in a random order, the same one each time, until they
    have `max_tokens` tokens; those that can't be read or are answered with nothing are left out.

    Raises:
        InputError: no row is answered.
    """
    decoder = loaded.decoder("talker")
    shuffled = list(samples)
    random.Random(0).shuffle(shuffled)
    calls: list[DecoderCall] = []
    num_tokens = 0  # that the talker was given: how many is known only once it has spoken
    with Progress("answers aloud, tokens", max_tokens) as progress:
        for sample in shuffled:
            if num_tokens >= max_tokens:
                break
            try:
                encoded = encode(loaded.inputs, sample, with_answer=False)
                arguments = catch_steps(decoder, partial(speak, loaded, encoded))
            except (MediaError, SilenceError) as error:
                logger.info(f"left out: {sample.where}: {error}")
                continue
            hidden = arguments.pop("inputs_embeds")
            counted = torch.arange(hidden.shape[1], device=hidden.device)
            calls.append(DecoderCall(hidden, arguments, counted, sample.weight))
            num_tokens += len(counted)
            progress.advance(len(counted))
    if not calls:
        raise InputError("no row was answered aloud", where=samples[0].where, fix="leave the talker unhealed")
    return calls


def computed_with(loaded: Loaded) -> dict[str, str]:
    """The device, the type and the versions that decide how numbers are rounded."""
    return {
        "where": f"{loaded.model.device}, {loaded.model.dtype}",
        "versions": " ".join(library_versions().values()),
        "autoreap": __version__,
    }
