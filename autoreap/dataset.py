"""Rows of a task or of calibration: a JSONL file, or a data set of the hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from autoreap.errors import InputError
from autoreap.evals_config import TaskConfig
from autoreap.samples import Sample, check_media_files, read_samples
from autoreap.video_files import Media

_TEXTS = ("text", "question", "answer", "language", "speaker")
KEYS = ("id", "audio", "image", "video", "choices", *_TEXTS)


@dataclass(frozen=True)
class HubSource:
    """Rows of a data set of the hub, or of a local folder of the same form.

    Attributes:
        path, name, split: as `datasets.load_dataset` takes them.
        columns: our key -> the data set's column, where they differ.
        limit: the first so many rows; they are streamed, so no more than they is downloaded. None: all.
        where: what messages call it.
    """

    path: str
    name: str | None
    split: str
    where: str
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None


def read_dataset(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> list[Sample]:
    """The first `config.limit` rows, to be heard under `config.condition`.

    A path ending in .jsonl is a file in `folder`, all else is for `datasets`.

    Raises:
        InputError: there is no such data, or a row lacks what is `required`.
    """
    return [replace(sample, condition=config.condition) for sample in _rows_of(config, folder, required)]


def _rows_of(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> list[Sample]:
    if config.dataset_path.endswith(".jsonl"):
        return read_samples(folder / config.dataset_path, required)[: config.limit]
    local = folder / config.dataset_path
    source = HubSource(
        path=str(local) if local.is_dir() else config.dataset_path,
        name=config.dataset_name,
        split=config.test_split,
        where=f"{config.dataset_path} {config.dataset_name or ''}[{config.test_split}]",
        columns=config.columns,
        limit=config.limit,
    )
    return read_hub(source, required)


def read_hub(source: HubSource, required: tuple[str, ...]) -> list[Sample]:
    """The first `source.limit` rows, with media left encoded: decoding is librosa's, Pillow's and PyAV's.

    Raises:
        InputError: the data set can't be loaded, has no column of a `required` or mapped key, or a row lacks what is
            required.
    """
    import datasets

    faults = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    try:
        rows = _load(source)
        columns = _columns(source, rows.column_names, required)
        rows = rows.select_columns(sorted(set(columns.values())))
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Audio | datasets.Image | datasets.Video):
                rows = rows.cast_column(name, type(feature)(decode=False))
        return list(_samples(islice(rows, source.limit), columns, source.where, required))
    except faults as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"data set can't be loaded: {reason}", where=source.where, fix="check name, split and network"
        ) from None


def _load(source: HubSource) -> Any:
    """The rows, streamed where a part is enough; a data set that is at hand in the cache alone can't be streamed."""
    import datasets

    if source.limit is not None:
        try:
            rows = datasets.load_dataset(source.path, source.name, split=source.split, streaming=True)
            if rows.features is not None:
                return rows
        except (OSError, RuntimeError, datasets.exceptions.DatasetsError):
            pass
    return datasets.load_dataset(source.path, source.name, split=source.split)


def _columns(source: HubSource, present: list[str], required: tuple[str, ...]) -> dict[str, str]:
    """Our keys -> the columns that hold them."""
    if unknown := [key for key in source.columns if key not in KEYS]:
        raise InputError(
            f"columns: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}",
            where=source.where,
            fix="our key comes first, the data set's column second",
        )
    columns = {key: source.columns.get(key, key) for key in KEYS}
    if missing := [columns[key] for key in (*required, *source.columns) if columns[key] not in present]:
        raise InputError(
            f"has no column {missing[0]!r}; it has {', '.join(present)}", where=source.where, fix="map it in columns:"
        )
    return {key: column for key, column in columns.items() if column in present}


def _samples(
    rows: Iterator[Mapping[str, Any]], columns: Mapping[str, str], where: str, required: tuple[str, ...]
) -> Iterator[Sample]:
    for number, row in enumerate(rows):
        yield _sample({key: row[column] for key, column in columns.items()}, number, f"{where} row {number}", required)


def _sample(row: Mapping[str, Any], number: int, where: str, required: tuple[str, ...]) -> Sample:
    empty = [key for key in required if row[key] in (None, "")]
    if empty:
        raise InputError(f"{empty[0]} is empty", where=where)
    choices = row.get("choices")
    if not isinstance(choices, list | None):
        raise InputError(f"choices must be a list of texts, got {choices!r}", where=where)
    texts: dict[str, Any] = {key: str(row[key]) for key in _TEXTS if row.get(key) is not None}
    sample = Sample(
        id=str(number) if row.get("id") is None else str(row["id"]),
        where=where,
        audio=_media("audio", row.get("audio"), where),
        image=_media("image", row.get("image"), where),
        video=_video(row.get("video"), where),
        choices=tuple(str(choice) for choice in choices or ()),
        **texts,
    )
    check_media_files(sample, fix="store media in the data set, or paths that hold from here")
    return sample


def _media(key: str, stored: Any, where: str) -> Media | None:
    """What an undecoded column of media, of {bytes, path} structs or of paths holds."""
    if isinstance(stored, Mapping):
        stored = stored.get("bytes") or stored.get("path")
        if stored is None:
            raise InputError(f"{key} has neither bytes nor path", where=where, fix="store it encoded, not as an array")
    return Path(stored) if isinstance(stored, str) else stored


def _video(stored: Any, where: str) -> tuple[Media, ...] | Media:
    """A video file, or a list of frames."""
    if isinstance(stored, list):
        frames = (_media("video", frame, where) for frame in stored)
        return tuple(frame for frame in frames if frame is not None)
    return _media("video", stored, where) or ()
