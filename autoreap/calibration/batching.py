"""Calibration rows to batches of similar length under a token budget, one in memory at a time.

Rows are put in order by an estimate of their lengths, which reads texts and the headers of media alone. Then they are
encoded one by one and gathered while the batch, padded to its longest, stays within the budget by the real lengths. So
batches depend on rows and budget alone, and those after any point can be had again without decoding what came before.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoreap.data.audio_files import seconds_from_header
from autoreap.data.calibration_config import DEFAULT_MAX_UNREADABLE
from autoreap.data.image_files import opened_image
from autoreap.data.samples import Sample, check_unreadable
from autoreap.data.video_files import size_from_header
from autoreap.errors import InputError, MediaError
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded

logger = logging.getLogger(__name__)

DEFAULT_QUESTIONS = {
    "audio": "Transcribe the audio into text.",
    "video": "Describe what is seen.",
    "mixed": "Describe what is heard and seen.",
}
# About what the models of this kind make of media. They decide which rows are neighbours, never how many fit a batch.
_AUDIO_TOKENS_PER_SECOND = 13
_PIXELS_PER_TOKEN = 32 * 32
_FRAMES_PER_TOKEN = 2


@dataclass(frozen=True)
class Position:
    """How far a sequence of batches has come; hand it back to `batches` to go on from there.

    Attributes:
        num_rows: rows used up, in the order of the sequence.
        unreadable: those of them that were left out, each with file, line and reason.
        silent: those of them that the model did not answer; the caller that runs the batches adds them.
    """

    num_rows: int = 0
    unreadable: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


START = Position()


@dataclass(frozen=True)
class Batch:
    """The rows of one forward pass.

    Attributes:
        encoded: the rows; padded to the longest they are within the budget, unless one alone exceeds it.
        weight: how often each of their tokens counts.
        position: where the next batch starts. After the last batch it counts every row.
    """

    encoded: tuple[Encoded, ...]
    weight: float
    position: Position


def batches(
    inputs: ChatInputs,
    samples: Sequence[Sample],
    budget: int,
    *,
    with_answer: bool = True,
    max_unreadable: float = DEFAULT_MAX_UNREADABLE,
    start: Position = START,
) -> Iterator[Batch]:
    """All rows in batches of at most `budget` padded tokens, the longest first; a single longer row stands alone.

    Rows of different weights never share a batch. Rows whose media can't be decoded are logged and left out.

    Raises:
        InputError: more than the share `max_unreadable` of the rows is unreadable, or all are; a row has neither media
            nor text, or spells a special token (known before the first batch).
    """
    order = order_rows(inputs, samples)
    unreadable = list(start.unreadable)
    rows: list[Encoded] = []
    weight = 1.0
    for number, sample in enumerate(order[start.num_rows :], start=start.num_rows):
        try:
            encoded = encode(inputs, sample, with_answer=with_answer)
        except MediaError as error:
            logger.info(f"left out: {error}")
            unreadable.append(str(error))
            # Each time, not at the end: a set that is mostly broken is refused before hours have gone into it.
            check_unreadable(unreadable, len(order), max_unreadable, option="--max-unreadable")
            continue
        # Padding costs what tokens cost.
        longest = max(len(row.input_ids) for row in [*rows, encoded])
        is_full = longest * (len(rows) + 1) > budget
        if rows and (is_full or sample.weight != weight):
            yield Batch(tuple(rows), weight, Position(number, tuple(unreadable)))
            rows = []
        rows.append(encoded)
        weight = sample.weight
    if rows:
        yield Batch(tuple(rows), weight, Position(len(order), tuple(unreadable)))


def encode(inputs: ChatInputs, sample: Sample, *, with_answer: bool) -> Encoded:
    """A calibration row as tensors; a row without media is its text.

    Raises:
        MediaError: its media can't be decoded.
        InputError: it has neither media nor text, or spells a special token.
    """
    if not sample.media:
        if not sample.text:
            raise InputError("row has neither media nor text", where=sample.where)
        return inputs.encode_text(sample.text, sample.where, awaits_answer=not with_answer)
    question = sample.question or DEFAULT_QUESTIONS[sample.modality]
    return inputs.encode(sample, question, sample.text if with_answer else None)


def order_rows(inputs: ChatInputs, samples: Sequence[Sample]) -> list[Sample]:
    """The order in which rows are batched.

    Rows whose header is broken come first, so that a data set full of them is refused at once; then weight by weight,
    the longest first, so that too large a budget shows at once; ties as they were given.
    """
    # In the order in which they come first.
    weights = list(dict.fromkeys(sample.weight for sample in samples))
    lengths = [_estimate_length(inputs, sample) for sample in samples]

    def key(number: int) -> tuple[bool, int, float, int]:
        is_readable = math.isfinite(lengths[number])
        return is_readable, weights.index(samples[number].weight), -lengths[number], number

    return [samples[number] for number in sorted(range(len(samples)), key=key)]


def estimate_tokens(inputs: ChatInputs, samples: Sequence[Sample]) -> float:
    """About how many tokens all `samples` are, without decoding media; none of a row whose header is broken."""
    total = 0.0
    for sample in samples:
        length = _estimate_length(inputs, sample)
        if math.isfinite(length):
            total += length
    return total


def _estimate_length(inputs: ChatInputs, sample: Sample) -> float:
    """About how long `sample` will be, without decoding media; infinite if a header can't be read."""
    # Text alone is encoded fast enough to know its length.
    if not sample.media:
        return len(encode(inputs, sample, with_answer=True).input_ids)
    tokens: float = len(inputs.encode_text(f"{sample.question or ''} {sample.text or ''}", sample.where).input_ids)
    try:
        if sample.audio is not None:
            tokens += seconds_from_header(sample.audio, sample.where) * _AUDIO_TOKENS_PER_SECOND
        # A film, not a list of images.
        if not isinstance(sample.video, tuple):
            num_frames, width, height = size_from_header(sample.video, sample.where)
            return tokens + num_frames / _FRAMES_PER_TOKEN * width * height / _PIXELS_PER_TOKEN
        images = sample.video
        if not images and sample.image is not None:
            images = (sample.image,)
        if images:
            # One header of a list: the others are taken to be as large.
            with opened_image(images[0], sample.where) as image:
                # An image alone fills a patch in time, too.
                shown = max(len(images) / _FRAMES_PER_TOKEN, 1)
                tokens += shown * image.width * image.height / _PIXELS_PER_TOKEN
    except MediaError:
        return math.inf
    return tokens
