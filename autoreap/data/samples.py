"""Rows of calibration and evaluation data: read, validate, digest, and load their media.

A row names its media relative to the JSONL file. A row of a hub data set carries them as bytes instead.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, StrictFloat, StrictInt, StrictStr, TypeAdapter
from pydantic.dataclasses import dataclass as validated_dataclass

from autoreap.data.audio_files import waveform_of
from autoreap.data.conditions import Condition
from autoreap.data.image_files import opened_image
from autoreap.data.media_files import Media
from autoreap.data.parts import check_whole
from autoreap.data.video_files import FRAMES_PER_SECOND, MAX_PIXELS, Frames, sampled_frames
from autoreap.errors import InputError, MediaError
from autoreap.reading import is_file, is_there
from autoreap.validation import error_of, one_of, read_jsonl, validate

SAMPLING_RATE = 16_000
MIN_SAMPLES = 400  # one window of the feature extractor, 25 ms
MODALITIES = ("audio", "video", "mixed")

_NAMED = 5  # unreadable rows in a message
_SILENT = 1e-4  # a peak of three steps of 16 bits: nothing was recorded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One utterance, question or calibration row.

    Attributes:
        where: the file and line it came from, for messages.
        text: what is said (evaluation), or the expected answer (calibration); the whole sample where it has no media.
        question: the user's words beside the media; None leaves them to the task.
        audio, image: a file, or its encoded bytes.
        video: a video's frames in order, one image each; or a video file.
        answer, choices: of a question; `answers` are others that count as right.
        weight: how often each of its tokens counts in calibration.
        condition: what is done to the recording before it is heard.
    """

    id: str
    where: str
    modality: str = "audio"
    text: str | None = None
    question: str | None = None
    audio: Media | None = None
    image: Media | None = None
    video: tuple[Media, ...] | Media = ()
    answer: str | None = None
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    language: str | None = None
    speaker: str | None = None
    kind: str | None = None
    weight: float = 1.0
    condition: Condition | None = None

    @property
    def media(self) -> tuple[Media, ...]:
        """Every recording, image, frame and video file of the row."""
        media = [self.audio, self.image]
        if isinstance(self.video, tuple):
            media += self.video
        else:
            media.append(self.video)
        return tuple(content for content in media if content is not None)


def _check_not_address(path: str) -> str:
    if "://" in path:
        raise error_of([((), f"addresses are not fetched: {path} (download it, and name the file)")])
    return path


def _check_video(video: Any) -> Any:
    parts = video if isinstance(video, list) else [video]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a video file or a list of frames")
    for part in parts:
        _check_not_address(part)
    return video


_MediaFile = Annotated[StrictStr, AfterValidator(_check_not_address)]


@validated_dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _Row:
    """A row of a JSONL file. What it has beyond this is for other tools."""

    id: StrictStr | StrictInt | StrictFloat
    modality: Annotated[StrictStr, one_of(MODALITIES)]
    text: StrictStr | None = None
    question: StrictStr | None = None
    audio: _MediaFile | None = None
    image: _MediaFile | None = None
    video: Annotated[Any, AfterValidator(_check_video)] | None = None
    answer: StrictStr | None = None
    answers: list[StrictStr] | None = None
    choices: list[StrictStr] | None = None
    language: StrictStr | None = None
    speaker: StrictStr | None = None
    kind: StrictStr | None = None


_ROW = TypeAdapter(_Row)

# Takes a row, and the file and line it came from.
Arrange = Callable[[dict[str, Any], str], dict[str, Any]]


def read_samples(
    path: Path, required: Sequence[str] = (), *, modality: str = "audio", arrange: Arrange | None = None
) -> list[Sample]:
    """All rows of a JSONL file, of `modality` unless they name another; keys that `Sample` does not know are ignored.

    `arrange` turns a row of other keys into one of `Sample`'s.

    Raises:
        InputError: the file is missing or empty, or a row is broken, repeats an id, lacks a `required` key or names a
            media file that is not there; the message names file, line and key.
    """
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for where, row in read_jsonl(path):
        if arrange is not None:
            row = arrange(row, where)
        row = {**row, "modality": row.get("modality") or modality}
        sample = _make_sample(row, where, path.parent, required)
        if sample.id in seen:
            raise InputError(f"id {sample.id!r} was used before, at {seen[sample.id]}", where=where)
        seen[sample.id] = where
        samples.append(sample)
    if not samples:
        raise InputError("has no rows", where=path)
    return samples


def _make_sample(values: Mapping[str, Any], where: str, folder: Path, required: Sequence[str]) -> Sample:
    """The sample of a row, whose media lie relative to `folder`."""
    for key in ("id", *required):
        value = values.get(key)
        if value is None:
            raise InputError(f"key {key!r} is missing", where=where)
        if value in ("", []):
            raise InputError(f"key {key!r} is empty", where=where, fix="fill it in, or leave the row out")
        if isinstance(value, str) and not value.strip():
            raise InputError(f"key {key!r} is blank", where=where, fix="fill it in, or leave the row out")
    row = validate(_ROW, values, where)
    audio = image = None
    if row.audio:
        audio = folder / row.audio
    if row.image:
        image = folder / row.image
    video: tuple[Media, ...] | Media = ()
    if isinstance(row.video, str):
        video = folder / row.video
    elif row.video:
        video = tuple(folder / frame for frame in row.video)
    sample = Sample(
        id=str(row.id),
        where=where,
        modality=row.modality,
        text=row.text,
        question=row.question,
        audio=audio,
        image=image,
        video=video,
        answer=row.answer,
        answers=tuple(row.answers or ()),
        choices=tuple(row.choices or ()),
        language=row.language,
        speaker=row.speaker,
        kind=row.kind,
    )
    check_sample(sample, values, fix="paths are relative to the JSONL file")
    return sample


def check_sample(sample: Sample, row: Mapping[str, Any], *, fix: str) -> None:
    """Raise `InputError` if a media file is not there, `row` names a part of its recording, or a text is broken.

    Args:
        row: what `sample` was made of, as it is stored.
        fix: says what the paths of media are relative to.
    """
    for media in sample.media:
        if isinstance(media, Path) and not is_file(media):
            problem = f"no such media file: {media}"
            if is_there(media):
                problem = f"not a file: {media}"
            raise InputError(problem, where=sample.where, fix=fix)
    check_whole(row, sample.audio, sample.where)
    for key in ("id", "text", "question", "answer", "language", "speaker", "answers", "choices"):
        texts = getattr(sample, key) or ""
        if isinstance(texts, tuple):
            texts = " ".join(texts)
        try:
            texts.encode()  # a lone surrogate, as JSON cut short has it, has no UTF-8
        except UnicodeEncodeError as error:
            half = ascii(texts[error.start])
            raise InputError(
                f"{key} holds half a character, {half}", where=sample.where, fix="write the text anew from its source"
            ) from None


def digest(samples: Sequence[Sample]) -> str:
    """Sixteen hex digits of what the samples hold: their values and the bytes of their media, not where they lie."""
    total = hashlib.sha256()
    for sample in samples:
        values: tuple[Any, ...] = (sample.id, sample.modality, sample.text, sample.question, sample.answer)
        values += (sample.choices,)
        # Digests are stored with saliencies. What came later is left out where it has no effect, so they still hold.
        if sample.weight != 1:
            values += (sample.weight,)
        if sample.answers:
            values += (sample.answers,)
        total.update(repr((values, contents(sample))).encode())
    return total.hexdigest()[:16]


def contents(sample: Sample) -> list[str]:
    """A digest of each recording, image, frame and video file, or of the question where there is none.

    The same recording has the same digest under any name and in any row.
    """
    if not sample.media:
        return [hashlib.sha256(repr((sample.question, sample.text)).encode()).hexdigest()[:16]]
    digests = []
    for media in sample.media:
        if isinstance(media, bytes):
            digests.append(hashlib.sha256(media).hexdigest()[:16])
        else:
            status = media.stat()
            digests.append(_file_digest(media, status.st_mtime_ns, status.st_size))
    return digests


# A search asks for it twice: are the splits apart, and are the data those of the study? Time and size are there for
# the cache: a file that was written anew is read anew.
@lru_cache(maxsize=1 << 17)
def _file_digest(path: Path, _modified: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_audio(sample: Sample) -> NDArray[np.float32]:
    """The waveform of `sample` as it is heard, mono at 16 kHz, shape [num_samples].

    Raises:
        MediaError: the audio can't be decoded, or holds no sound; the message names file and line.
    """
    if sample.audio is None:
        raise InputError("has no audio", where=sample.where)
    waveform = waveform_of(sample.audio, SAMPLING_RATE, sample.where)
    if waveform.size < MIN_SAMPLES:
        raise MediaError(f"audio of {waveform.size} samples is too short to hear", where=sample.where)
    # Before the condition, whose noise would hide that nothing was recorded.
    if np.abs(waveform).max() < _SILENT:
        _warn_of_silence(sample.where)
    if sample.condition is not None:
        waveform = sample.condition.applied(waveform, SAMPLING_RATE, sample.id)
    return np.asarray(waveform, dtype=np.float32)


@lru_cache(maxsize=1 << 17)  # a recording is loaded several times
def _warn_of_silence(where: str) -> None:
    logger.warning("%s: the recording is digital silence: all that is heard of it is zeros", where)


def load_frames(sample: Sample) -> Frames | None:
    """The image of `sample`, or the frames of its video, all of one size; None where it has neither.

    Frames that come one by one count as `FRAMES_PER_SECOND`.

    Raises:
        MediaError: one can't be decoded, or the frames differ in size; the message names file and line.
        InputError: the video is a file, and the library that decodes it is not installed.
    """
    if not isinstance(sample.video, tuple):
        return sampled_frames(sample.video, sample.where)
    media = sample.video
    if not media and sample.image is not None:
        media = (sample.image,)
    if not media:
        return None
    images = []
    for content in media:
        with opened_image(content, sample.where) as image:
            image.load()  # within the context, which makes a `MediaError` of what fails
            images.append(image)
    if sum(image.width * image.height for image in images) > MAX_PIXELS:
        raise MediaError(f"the frames of a video have more than {MAX_PIXELS:,} pixels", where=sample.where)
    if len({image.size for image in images}) > 1:
        raise MediaError("the frames of a video must all have the same size", where=sample.where)
    return Frames(tuple(images), 1 / FRAMES_PER_SECOND)


def check_unreadable(unreadable: Sequence[str], num_rows: int, most: float, *, option: str) -> None:
    """Raise `InputError` where more than the share `most` of the rows, or all of them, can't be read.

    Args:
        unreadable: of each such row, its place and the reason.
        num_rows: of the data, those included that were not tried yet.
        option: what allows more, as it is written before the number.
    """
    share = len(unreadable) / num_rows
    if share <= most and len(unreadable) < num_rows:
        return
    named = "; ".join(unreadable[:_NAMED])
    if len(unreadable) == num_rows:
        raise InputError(f"none of {num_rows} rows can be read: {named}", fix="mend them, or name other data")
    # The share to allow is rounded up, to the next twentieth, so that it is enough.
    raise InputError(
        f"{len(unreadable)} of {num_rows} rows so far can't be read, more than the share {most:g}: {named}",
        fix=f"mend or remove them, or allow more, such as {option} {math.ceil(share * 20) / 20:g}",
    )


def spread(lengths: Sequence[int], number: int) -> list[int]:
    """Of `number` rows the numbers, evenly spread over their lengths, the shortest first; `number` is at most all."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    chosen = []
    for place in range(number):
        middle = (place + 0.5) * len(order) / number  # of this one of `number` equal parts
        chosen.append(order[int(middle)])
    return chosen
