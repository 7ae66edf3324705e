"""Rows of calibration and evaluation data: read, validate, digest, and load their audio.

A row names its media relative to the JSONL file. A row of a hub data set carries its audio as bytes instead.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreap.errors import InputError

SAMPLING_RATE = 16_000
MIN_SAMPLES = 400  # one window of the feature extractor, 25 ms
MODALITIES = ("audio", "video", "mixed")

_STRINGS = ("modality", "text", "audio", "image", "question", "answer", "language", "speaker", "kind")
_LISTS = ("video", "choices")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One utterance, question or calibration row.

    Attributes:
        where: the file and line it came from, for messages.
        text: what is said (evaluation), or the expected answer (calibration); the whole sample where it has no media.
        question: the user's words beside the media; None leaves them to the task.
        audio: an audio file, or its encoded bytes.
        image, video: an image file; the frames of a video, one file each.
        answer, choices: of a question.
    """

    id: str
    where: str
    modality: str = "audio"
    text: str | None = None
    question: str | None = None
    audio: Path | bytes | None = None
    image: Path | None = None
    video: tuple[Path, ...] = ()
    answer: str | None = None
    choices: tuple[str, ...] = ()
    language: str | None = None
    speaker: str | None = None
    kind: str | None = None


def read_samples(path: Path, required: Sequence[str] = ()) -> list[Sample]:
    """All rows of a JSONL file; keys that `Sample` does not know are ignored.

    Raises:
        InputError: the file is missing or empty, or a row is broken, repeats an id, lacks a `required` key or names a
            media file that is not there; the message names file, line and key.
    """
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for where, row in _rows(path):
        sample = _sample(row, where, path.parent, required)
        if sample.id in seen:
            raise InputError(f"id {sample.id!r} was used before, at {seen[sample.id]}", where=where)
        seen[sample.id] = where
        samples.append(sample)
    if not samples:
        raise InputError("has no rows", where=path)
    return samples


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would break at U+2028
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"not a JSONL file: {error}", where=path) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.colno}") from None
        if not isinstance(row, dict):
            raise InputError("each line must be a JSON object", where=where)
        yield where, row


def _sample(row: Mapping[str, Any], where: str, folder: Path, required: Sequence[str]) -> Sample:
    missing = [key for key in ("id", *required) if row.get(key) in (None, "", [])]
    if missing:
        raise InputError(f"key {missing[0]!r} is missing", where=where)
    for key in _STRINGS:
        if not isinstance(row.get(key), str | None):
            raise InputError(f"key {key!r} must be a string, got {row[key]!r}", where=where)
    for key in _LISTS:
        values = row.get(key) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InputError(f"key {key!r} must be a list of strings, got {values!r}", where=where)
    modality = row.get("modality") or "audio"
    if modality not in MODALITIES:
        raise InputError(f"modality must be one of {', '.join(MODALITIES)}, got {modality!r}", where=where)
    files = {key: folder / row[key] for key in ("audio", "image") if row.get(key)}
    frames = tuple(folder / frame for frame in row.get("video") or ())
    for media in (*files.values(), *frames):
        if not media.is_file():
            raise InputError(f"no such media file: {media}", where=where, fix="paths are relative to the JSONL file")
    plain = {key: row[key] for key in _STRINGS if key in row and key not in ("audio", "image", "modality")}
    choices = tuple(row.get("choices") or ())
    return Sample(id=str(row["id"]), where=where, modality=modality, video=frames, choices=choices, **files, **plain)


def digest(samples: Sequence[Sample]) -> str:
    """Sixteen hex digits of what the samples hold: their values and the bytes of their media, not where they lie."""
    total = hashlib.sha256()
    for sample in samples:
        values = (sample.id, sample.modality, sample.text, sample.question, sample.answer, sample.choices)
        total.update(repr((values, contents(sample))).encode())
    return total.hexdigest()[:16]


def contents(sample: Sample) -> list[str]:
    """A digest of each recording, image and frame, or of the question where there is none.

    The same recording has the same digest under any name and in any row.
    """
    media = [content for content in (sample.audio, sample.image, *sample.video) if content is not None]
    if not media:
        return [hashlib.sha256(repr((sample.question, sample.text)).encode()).hexdigest()[:16]]
    encoded = (content if isinstance(content, bytes) else content.read_bytes() for content in media)
    return [hashlib.sha256(content).hexdigest()[:16] for content in encoded]


def load_audio(sample: Sample) -> NDArray[np.float32]:
    """The waveform of `sample`, mono at 16 kHz, shape [num_samples].

    Raises:
        InputError: the audio can't be decoded, or holds no sound; the message names file and line.
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
        raise InputError(f"audio can't be decoded: {reason}", where=sample.where) from None
    if waveform.size < MIN_SAMPLES:
        raise InputError(f"audio of {waveform.size} samples is too short to hear", where=sample.where)
    return np.asarray(waveform, dtype=np.float32)
