"""Rows of calibration and evaluation data: read, validate, digest, and load their media.

A row names its media relative to the JSONL file. A row of a hub data set carries them as bytes instead.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from autoreap.errors import InputError, MediaError
from autoreap.media.conditions import Condition
from autoreap.media.video_files import FRAMES_PER_SECOND, Frames, Media, sampled_frames

SAMPLING_RATE = 16_000
MIN_SAMPLES = 400  # one window of the feature extractor, 25 ms
MODALITIES = ("audio", "video", "mixed")

_NAMED = 5  # unreadable rows in a message
_STRINGS = ("modality", "text", "audio", "image", "question", "answer", "language", "speaker", "kind")


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
        video = self.video if isinstance(self.video, tuple) else (self.video,)
        return tuple(content for content in (self.audio, self.image, *video) if content is not None)


Arrange = Callable[[dict[str, Any], str], dict[str, Any]]  # a row, and the file and line it came from


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
    for where, stored in _rows(path):
        row = arrange(stored, where) if arrange else stored
        sample = _sample({**row, "modality": row.get("modality") or modality}, where, path.parent, required)
        if sample.id in seen:
            raise InputError(f"id {sample.id!r} was used before, at {seen[sample.id]}", where=where)
        seen[sample.id] = where
        samples.append(sample)
    if not samples:
        raise InputError("has no rows", where=path)
    return samples


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would break at U+2028
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"not a JSONL file: {error}", where=path) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.colno}") from None
        except KeyError as error:
            raise InputError(f"key {error} is there twice", where=where, fix="leave one out") from None
        if not isinstance(row, dict):
            raise InputError("each line must be a JSON object", where=where)
        yield where, row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; `KeyError` for a key that is there twice, of which JSON would keep the last in silence."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise KeyError(key)
        found[key] = value
    return found


def _sample(row: Mapping[str, Any], where: str, folder: Path, required: Sequence[str]) -> Sample:
    missing = [key for key in ("id", *required) if row.get(key) in (None, "", [])]
    if missing:
        raise InputError(f"key {missing[0]!r} is missing", where=where)
    blank = [key for key in required if isinstance(row[key], str) and not row[key].strip()]
    if blank:
        raise InputError(f"key {blank[0]!r} is blank", where=where, fix="fill it in, or leave the row out")
    for key in _STRINGS:
        if not isinstance(row.get(key), str | None):
            raise InputError(f"key {key!r} must be a string, got {row[key]!r}", where=where)
    strings = "a list of strings"
    for key, form in (("choices", strings), ("answers", strings), ("video", "a video file or a list of frames")):
        values = row.get(key) or []
        is_file = key == "video" and isinstance(values, str)
        if not is_file and not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
            raise InputError(f"key {key!r} must be {form}, got {values!r}", where=where)
    if row["modality"] not in MODALITIES:
        raise InputError(f"modality must be one of {', '.join(MODALITIES)}, got {row['modality']!r}", where=where)
    for key in ("audio", "image", "video"):
        if isinstance(row.get(key), str) and "://" in row[key]:
            raise InputError(
                f"addresses are not fetched: {row[key]}", where=where, fix="download it, and name the file"
            )
    files: dict[str, Any] = {key: folder / row[key] for key in ("audio", "image") if row.get(key)}
    if video := row.get("video"):
        files["video"] = folder / video if isinstance(video, str) else tuple(folder / frame for frame in video)
    plain = {key: row[key] for key in _STRINGS if key in row and key not in ("audio", "image")}
    lists: dict[str, Any] = {key: tuple(row.get(key) or ()) for key in ("choices", "answers")}
    sample = Sample(id=str(row["id"]), where=where, **lists, **files, **plain)
    check_media_files(sample, fix="paths are relative to the JSONL file")
    return sample


def check_media_files(sample: Sample, *, fix: str) -> None:
    """Raise `InputError` if a media file of `sample` is not there; `fix` says what its path is relative to."""
    for media in sample.media:
        if isinstance(media, Path) and not media.is_file():
            problem = f"not a file: {media}" if media.exists() else f"no such media file: {media}"
            raise InputError(problem, where=sample.where, fix=fix)


def digest(samples: Sequence[Sample]) -> str:
    """Sixteen hex digits of what the samples hold: their values and the bytes of their media, not where they lie."""
    total = hashlib.sha256()
    for sample in samples:
        values: tuple[Any, ...] = (sample.id, sample.modality, sample.text, sample.question, sample.answer)
        weight = () if sample.weight == 1 else (sample.weight,)
        answers = (sample.answers,) if sample.answers else ()
        total.update(repr(((*values, sample.choices, *weight, *answers), contents(sample))).encode())
    return total.hexdigest()[:16]


def contents(sample: Sample) -> list[str]:
    """A digest of each recording, image, frame and video file, or of the question where there is none.

    The same recording has the same digest under any name and in any row.
    """
    if not sample.media:
        return [hashlib.sha256(repr((sample.question, sample.text)).encode()).hexdigest()[:16]]
    return [_media_digest(media) for media in sample.media]


def _media_digest(media: Media) -> str:
    if isinstance(media, bytes):
        return hashlib.sha256(media).hexdigest()[:16]
    status = media.stat()
    return _file_digest(media, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1 << 17)  # a search asks for it twice: are the splits apart, and are the data those of the study
def _file_digest(path: Path, _modified: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def load_audio(sample: Sample) -> NDArray[np.float32]:
    """The waveform of `sample` as it is heard, mono at 16 kHz, shape [num_samples].

    Raises:
        MediaError: the audio can't be decoded, or holds no sound; the message names file and line.
    """
    import librosa
    import soundfile

    if sample.audio is None:
        raise InputError("has no audio", where=sample.where)
    try:
        encoded = sample.audio if isinstance(sample.audio, bytes) else sample.audio.read_bytes()
        waveform, _ = librosa.load(io.BytesIO(encoded), sr=SAMPLING_RATE, mono=True)
    except (soundfile.LibsndfileError, librosa.ParameterError, OSError, EOFError, ValueError) as error:
        reason = getattr(error, "error_string", error)
        raise MediaError(f"audio can't be decoded: {reason}", where=sample.where) from None
    if waveform.size < MIN_SAMPLES:
        raise MediaError(f"audio of {waveform.size} samples is too short to hear", where=sample.where)
    if sample.condition is not None:
        waveform = sample.condition.applied(waveform, SAMPLING_RATE, sample.id)
    return np.asarray(waveform, dtype=np.float32)


def load_frames(sample: Sample) -> Frames | None:
    """The image of `sample`, or the frames of its video, all of one size; None where it has neither.

    Frames that come one by one count as `FRAMES_PER_SECOND`.

    Raises:
        MediaError: one can't be decoded, or the frames differ in size; the message names file and line.
        InputError: the video is a file, and the library that decodes it is not installed.
    """
    if not isinstance(sample.video, tuple):
        return sampled_frames(sample.video, sample.where)
    media = sample.video or ((sample.image,) if sample.image is not None else ())
    images = tuple(_open_image(content, sample.where) for content in media)
    if len({image.size for image in images}) > 1:
        raise MediaError("the frames of a video must all have the same size", where=sample.where)
    return Frames(images, 1 / FRAMES_PER_SECOND) if images else None


def _open_image(media: Media, where: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(media) if isinstance(media, bytes) else media) as image:
            image.load()
            return image
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"image can't be decoded: {error}", where=where) from None


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
    raise InputError(
        f"{len(unreadable)} of {num_rows} rows so far can't be read, more than the share {most:g}: {named}",
        fix=f"mend or remove them, or allow more, such as {option} {math.ceil(share * 20) / 20:g}",
    )


def spread(lengths: Sequence[int], number: int) -> list[int]:
    """Of `number` rows the numbers, evenly spread over their lengths, the shortest first; `number` is at most all."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[int((place + 0.5) * len(order) / number)] for place in range(number)]
