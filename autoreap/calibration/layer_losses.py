"""Rank layers by what the answers to the audio rows lose when they are cut: one forward pass over all rows a layer.

Greedy, as SLEB (Song et al., 2024, arXiv:2402.09025): each layer is judged with those before it in the order cut.

Shape legend: B rows, T tokens (left-padded), A tokens of answers, H hidden.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from autoreap.calibration.batching import batches
from autoreap.calibration.calibrator import Options
from autoreap.data.samples import Sample
from autoreap.errors import InputError, ScoringError
from autoreap.masking import masked
from autoreap.models.families.encoded import Encoded, mark_tokens
from autoreap.models.loading import Loaded
from autoreap.models.prompts import audio_of, embedded, without_features
from autoreap.plan import ComponentPlan, PruningPlan
from autoreap.planning import edges
from autoreap.progress import Progress
from autoreap.saliency import LayerOrder

logger = logging.getLogger(__name__)

_HEAD_ROWS = 512  # rows of logits in memory at once: a vocabulary may have 150,000 entries


def check_answers(data: Mapping[str, Sequence[Sample]]) -> None:
    """Raise `InputError` if no audio row of calibration data has an answer."""
    samples = data["audio"]
    if not any(sample.media and sample.text for sample in samples):
        raise _no_answers(samples)


def _no_answers(samples: Sequence[Sample]) -> InputError:
    return InputError(
        "no audio row has an answer, so layers can't be ranked by loss",
        where=samples[0].where,
        fix="give audio rows with their text, or select layers by cosine",
    )


def order_layers(
    loaded: Loaded, samples: Sequence[Sample], num_layers: int, start: LayerOrder, options: Options
) -> Iterator[LayerOrder]:
    """The first `num_layers` layers of the thinker in the order in which greedy cuts them; each time it is one longer.

    Each next one is the layer whose cut leaves the mean negative log-likelihood of the answers lowest; ties go to the
    lower number. The edges are never cut, all experts stay. The loss is that of `samples` with media and an answer;
    each token counts as often as its row's weight says. Their audio embeddings are in memory all the while.

    Args:
        loaded: the model; all its layers are in memory.
        samples: the audio rows.
        num_layers: at most as many as are no edges.
        start: the first of them, as measured before.
        options: how to batch, and how many rows may be unreadable.

    Raises:
        InputError: no row has an answer, or too many can't be read.
        ScoringError: the model's output is not a number, whatever layer is cut.
    """
    shape = loaded.model_info.shape.components["thinker"]
    free = [layer for layer in range(shape.num_layers) if layer not in edges(shape.num_layers)]
    batches_heard = _hear(loaded, samples, options)
    order = start
    num_passes = sum(len(free) - number for number in range(len(start.layers), num_layers))
    logger.info(f"ranking {num_layers} layers by loss: {num_passes} forward passes over the audio rows")
    with Progress("ranking layers by loss, batches", num_passes * len(batches_heard)) as progress:
        while len(order.layers) < num_layers:
            losses = {}
            for layer in free:
                if layer not in order.layers:
                    losses[layer] = _loss_without(loaded, batches_heard, {*order.layers, layer}, progress)
            # Of equal losses the first, which is the lower number: a dict keeps its order.
            best = min(losses, key=lambda layer: losses[layer])
            if not math.isfinite(losses[best]):
                raise ScoringError("layers can't be ranked by loss: the model's output is not a number")
            order = LayerOrder((*order.layers, best), (*order.losses, losses[best]))
            yield order


@dataclass(frozen=True)
class _Heard:
    """Rows of one forward pass that have an answer, their audio embedded, in host memory."""

    encoded: tuple[Encoded, ...]
    audio: tuple[torch.Tensor | None, ...]
    weight: float


@torch.inference_mode()
def _hear(loaded: Loaded, samples: Sequence[Sample], options: Options) -> list[_Heard]:
    """The batches of calibration without rows that have no answer; no cut changes what is heard."""
    running, model = loaded.running, loaded.model
    heard = []
    num_rows = 0
    sequence = batches(loaded.inputs, samples, options.batch_tokens, max_unreadable=options.max_unreadable)
    with Progress("embedding audio", len(samples)) as progress:
        for batch in sequence:
            rows, audio = [], []
            for encoded in batch.encoded:
                if len(encoded.input_ids) == encoded.num_prompt_tokens:
                    continue  # no answer
                embeddings = audio_of(running, model, encoded)
                if embeddings is not None:
                    # Those of all rows might fill a device that holds the model.
                    embeddings = embeddings.cpu()
                rows.append(without_features(encoded))
                audio.append(embeddings)
            if rows:
                heard.append(_Heard(tuple(rows), tuple(audio), batch.weight))
            progress.advance(batch.position.num_rows - num_rows)
            num_rows = batch.position.num_rows
    if not heard:
        raise _no_answers(samples)
    return heard


def _loss_without(loaded: Loaded, heard: Sequence[_Heard], cut: set[int], progress: Progress) -> float:
    """The mean negative log-likelihood of the answers' tokens without the layers `cut`; infinite if it is no number."""
    shape = loaded.model_info.shape.components["thinker"]
    everything = ComponentPlan.identity(shape)
    thinker = replace(everything, layers=tuple(layer for layer in everything.layers if layer not in cut))
    nats = num_tokens = 0.0  # both weighted
    with masked(loaded.model, PruningPlan(loaded.model_info.base_model, False, thinker)):
        for batch in heard:
            losses = _token_losses(loaded, batch)
            nats += batch.weight * float(losses.sum())
            num_tokens += batch.weight * len(losses)
            progress.advance()
    mean = nats / num_tokens
    # Not NaN: the lowest of numbers and NaN would depend on their order.
    return mean if math.isfinite(mean) else math.inf


@torch.inference_mode()
def _token_losses(loaded: Loaded, batch: _Heard) -> torch.Tensor:
    """The negative log-likelihood of each answer token of a batch, the end among them; float64 [A]."""
    running, model = loaded.running, loaded.model
    thinker: Any = running.thinker(model)
    inputs = embedded(running, model, loaded.inputs, batch.encoded, batch.audio)
    hidden = thinker.base_model(**inputs, use_cache=False).last_hidden_state  # [B, T, H]
    is_answer = mark_tokens(batch.encoded, "answer")[:, 1:].to(hidden.device)
    # The head sees these alone: logits of all tokens would take gigabytes.
    states = hidden[:, :-1][is_answer]  # [A, H]: each token is foretold by the one before it
    tokens = inputs["input_ids"][:, 1:].to(hidden.device)[is_answer]  # [A]
    head = thinker.get_output_embeddings()
    losses = []
    for some_states, some_tokens in zip(torch.split(states, _HEAD_ROWS), torch.split(tokens, _HEAD_ROWS), strict=True):
        logits = head(some_states).float()
        losses.append(cross_entropy(logits, some_tokens.to(logits.device), reduction="none").double().cpu())
    return torch.cat(losses)
