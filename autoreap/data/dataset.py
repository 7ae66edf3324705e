"""Rows of a task or of calibration: a JSONL file, a Parquet file as the hub stores them, or a data set of the hub."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from autoreap.config.columns import KEYS, TEXTS, ColumnRef, referenced_columns, rename_columns
from autoreap.config.evals import TaskConfig
from autoreap.errors import InputError
from autoreap.media.samples import Sample, check_media_files, read_samples
from autoreap.media.video_files import Media
from autoreap.tasks.normalise import is_language_tag

# Of a hub data set, this many times as many rows are streamed as are drawn: its length is not known before its end.
STREAMED_FOR_ONE = 20

Row = TypeVar("Row")


def is_parquet(path: str) -> bool:
    """Whether `path` names a Parquet file; all that is neither this nor JSONL is for `datasets` to find."""
    return path.endswith(".parquet")


def is_on_this_disk(path: str) -> bool:
    """Whether `path` names a file, so that reading its rows downloads nothing."""
    return path.endswith(".jsonl") or is_parquet(path)


@dataclass(frozen=True)
class HubSource:
    """Rows of a data set of the hub, or of a local folder or Parquet file of the same form.

    Attributes:
        path, name, split: as `datasets.load_dataset` takes them; or the path of a Parquet file, which is all one split.
        columns: our key -> where a row holds it, if not in a column of that name.
        limit: so many rows; they are streamed, so not all of a large set is downloaded. None: all.
        is_drawn: whether these are drawn from the first `STREAMED_FOR_ONE` times as many, or are the first ones.
        where: what messages call it.
    """

    path: str
    name: str | None
    split: str
    where: str
    columns: Mapping[str, ColumnRef] = field(default_factory=dict)
    limit: int | None = None
    is_drawn: bool = False


def drawn(rows: Iterable[Row], limit: int | None) -> list[tuple[int, Row]]:
    """`limit` of `rows` with their numbers, drawn evenly from all of them, in their order; None takes all.

    The first rows of a data set are those of few speakers. Drawn are the numbers with the lowest digests: the same ones
    each time, and a higher limit takes these and more.
    """
    numbered = enumerate(rows)
    if limit is None:
        return list(numbered)
    chosen = heapq.nsmallest(limit, numbered, key=lambda entry: hashlib.sha256(b"%d" % entry[0]).digest())
    return sorted(chosen, key=lambda entry: entry[0])


def read_dataset(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> list[Sample]:
    """The rows of a task, `config.limit` of them `drawn` where that is set, to be heard under `config.condition`.

    A path ending in .jsonl or .parquet is a file in `folder`, all else is for `datasets`. A row needs no question
    where `config.doc_to_text` asks one.

    Raises:
        InputError: there is no such data, or a row lacks what is `required` or names no language by its code.
    """
    if config.doc_to_text is not None and "{question}" not in config.doc_to_text:
        required = tuple(key for key in required if key != "question")
    samples = [replace(sample, condition=config.condition) for sample in _rows_of(config, folder, required)]
    for sample in samples:
        if sample.language and not is_language_tag(sample.language):
            raise InputError(
                f"language must be a code such as en or zh-CN, got {sample.language!r}",
                where=sample.where,
                fix="map a column of codes, or name the language of the whole set: language: en",
            )
    return samples


def _rows_of(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> list[Sample]:
    if config.dataset_path.endswith(".jsonl"):
        rows = _rows_of_file(config, folder / config.dataset_path, required)
        return [sample for _, sample in drawn(rows, config.limit)]
    local = folder / config.dataset_path
    is_file = is_parquet(config.dataset_path)
    source = HubSource(
        path=str(local) if is_file or local.is_dir() else config.dataset_path,
        name=config.dataset_name,
        split=config.test_split,
        where=str(local) if is_file else f"{config.dataset_path} {config.dataset_name or ''}[{config.test_split}]",
        columns=config.columns,
        limit=config.limit,
        is_drawn=True,
    )
    return read_hub(source, required)


def _rows_of_file(config: TaskConfig, path: Path, required: tuple[str, ...]) -> list[Sample]:
    def arrange(row: dict[str, Any], where: str) -> dict[str, Any]:
        columns: dict[str, ColumnRef] = {key: key for key in ("choices", "answer") if key in row}
        columns |= config.columns
        if missing := sorted(frozenset().union(*map(referenced_columns, columns.values())) - row.keys()):
            raise InputError(f"key {missing[0]!r} is missing; columns: takes it from there", where=where)
        return {**row, **rename_columns(row, columns, where)}

    return read_samples(path, required, arrange=arrange)


def read_hub(source: HubSource, required: tuple[str, ...]) -> list[Sample]:
    """The rows, `source.limit` of them where that is set; media stay encoded: librosa, Pillow and PyAV decode them.

    Raises:
        InputError: the data set can't be loaded, has no column of a `required` or mapped key, or a row lacks what is
            required.
    """
    import datasets

    faults = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    try:
        rows = _load(source)
        columns = _columns(source, rows.column_names, required)
        rows = rows.select_columns(sorted(frozenset().union(*map(referenced_columns, columns.values()))))
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Audio | datasets.Image | datasets.Video):
                rows = rows.cast_column(name, type(feature)(decode=False))
        labels = {name: feature for name, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)}
        named = [(number, _with_labels(row, labels)) for number, row in _chosen(rows, source)]
        return list(_samples(named, columns, source.where, required))
    except faults as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        fix = "make it a Parquet file" if is_parquet(source.path) else "check name, split and network"
        raise InputError(f"data set can't be loaded: {reason}", where=source.where, fix=fix) from None


def _load(source: HubSource) -> Any:
    """The rows, streamed where a part is enough.

    A slice (`test[:10%]`) can't be streamed, nor can a data set that is at hand in the cache alone.
    """
    import datasets
    import pyarrow.parquet

    if is_parquet(source.path):
        if not Path(source.path).is_file():
            raise InputError("no such file", where=source.where)
        # `load_dataset` would write a copy to its cache, and fail where the user's home can't be written.
        return datasets.Dataset(pyarrow.parquet.read_table(source.path))
    if source.limit is not None and "[" not in source.split:
        try:
            rows = datasets.load_dataset(source.path, source.name, split=source.split, streaming=True)
            if rows.features is not None:
                return rows
        except (OSError, RuntimeError, datasets.exceptions.DatasetsError):
            pass
    return datasets.load_dataset(source.path, source.name, split=source.split)


def _chosen(rows: Iterable[Row], source: HubSource) -> list[tuple[int, Row]]:
    """As many of `rows` as the source takes, with their numbers."""
    if source.is_drawn and source.limit is not None:
        # A file is read as a whole; of a data set on the hub not more is downloaded than needed.
        rows = rows if is_parquet(source.path) else islice(rows, STREAMED_FOR_ONE * source.limit)
        return drawn(rows, source.limit)
    return list(enumerate(islice(rows, source.limit)))


def _columns(source: HubSource, present: list[str], required: tuple[str, ...]) -> dict[str, ColumnRef]:
    """Our keys -> where a row holds them."""
    if unknown := [key for key in source.columns if key not in KEYS]:
        raise InputError(
            f"columns: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}",
            where=source.where,
            fix="our key comes first, the data set's column second",
        )
    columns = {key: source.columns.get(key, key) for key in KEYS}
    for key in (*required, *source.columns):
        if missing := sorted(referenced_columns(columns[key]) - set(present)):
            raise InputError(
                f"has no column {missing[0]!r}; it has {', '.join(present)}",
                where=source.where,
                fix="map it in columns:",
            )
    return {key: place for key, place in columns.items() if referenced_columns(place) <= set(present)}


def _with_labels(row: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with the names of its class labels, which are stored as numbers; -1 stands for none."""
    stored = {name: row[name] for name in labels if row[name] is not None}
    return {**row, **{name: labels[name].int2str(label) if label >= 0 else None for name, label in stored.items()}}


def _samples(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    columns: Mapping[str, ColumnRef],
    where: str,
    required: tuple[str, ...],
) -> Iterator[Sample]:
    for number, row in rows:
        place = f"{where} row {number}"
        yield _sample(rename_columns(row, columns, place), number, place, required)


def _sample(row: Mapping[str, Any], number: int, where: str, required: tuple[str, ...]) -> Sample:
    empty = [key for key in required if row[key] in (None, "")]
    if empty:
        raise InputError(f"{empty[0]} is empty", where=where)
    texts: dict[str, Any] = {key: str(row[key]) for key in TEXTS if row.get(key) is not None}
    sample = Sample(
        id=str(number) if row.get("id") is None else str(row["id"]),
        where=where,
        audio=_media("audio", row.get("audio"), where),
        image=_media("image", row.get("image"), where),
        video=_video(row.get("video"), where),
        choices=tuple(row.get("choices") or ()),
        answers=tuple(row.get("answers") or ()),
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
