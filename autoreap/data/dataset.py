"""Rows of a task or of calibration: a JSONL file, a Parquet file as the hub stores them, or a data set of the hub."""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from autoreap.data.columns import KEYS, TEXTS, ColumnRef, referenced_columns, rename_columns
from autoreap.data.draws import draw_in_blocks, draw_rows
from autoreap.data.evals_config import TaskConfig
from autoreap.data.languages import language_mistake
from autoreap.data.media_files import Media
from autoreap.data.parquet_rows import ParquetRows, open_parquet_file, open_parquet_split
from autoreap.data.parts import PART_KEYS
from autoreap.data.samples import Sample, check_sample, read_samples
from autoreap.errors import InputError, first_line, one_line
from autoreap.reading import is_file, is_there

# Of a set that is not Parquet, this many times as many rows are streamed as are drawn: how many it has is not known.
STREAMED_FOR_ONE = 20

_FAULTS = (OSError, ValueError, RuntimeError, ImportError)  # of a data set, or of the way to it
_OF_FILES = (".json", ".csv", ".tsv", ".txt", ".yaml", ".xml", ".arrow", ".gz", ".zip", ".wav")


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
        limit: so many rows; no more of a large set is downloaded than these need. None: all.
        is_drawn: whether these are drawn from all of the set, or are the first ones.
        where: what messages call it.
    """

    path: str
    name: str | None
    split: str
    where: str
    columns: Mapping[str, ColumnRef] = field(default_factory=dict)
    limit: int | None = None
    is_drawn: bool = False


def read_dataset(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> list[Sample]:
    """The rows of a task, `config.limit` of them drawn where that is set, to be heard under `config.condition`.

    A path ending in .jsonl or .parquet is a file in `folder`, all else is for `datasets`. A row needs no question
    where `config.doc_to_text` asks one.

    Raises:
        InputError: there is no such data, or a row lacks what is `required` or names no language by its code.
    """
    if config.doc_to_text is not None and "{question}" not in config.doc_to_text:
        required = tuple(key for key in required if key != "question")
    if config.dataset_path.endswith(".jsonl"):
        rows = _read_file(config, folder / config.dataset_path, required)
        samples = [sample for _, sample in draw_rows(rows, config.limit)]
    else:
        samples = read_hub(_hub_source(config, folder), required)
    for sample in samples:
        if sample.language and (mistake := language_mistake(sample.language)) is not None:
            raise InputError(
                f"language {mistake}, got {sample.language!r}",
                where=sample.where,
                fix="map a column of codes, or name the language of the whole set: language: en",
            )
    return [replace(sample, condition=config.condition) for sample in samples]


def _read_file(config: TaskConfig, path: Path, required: tuple[str, ...]) -> list[Sample]:
    """All rows of a JSONL file, under our keys."""

    def arrange(row: dict[str, Any], where: str) -> dict[str, Any]:
        columns = dict(config.columns)
        for key in ("choices", "answer"):  # these may be stored in several forms
            if key in row:
                columns.setdefault(key, key)
        missing = _referenced(columns) - row.keys()
        if missing:
            raise InputError(f"key {min(missing)!r} is missing; columns: takes it from there", where=where)
        return {**row, **rename_columns(row, columns, where)}

    return read_samples(path, required, arrange=arrange)


def _hub_source(config: TaskConfig, folder: Path) -> HubSource:
    """Where `datasets` finds the rows of a task: in a Parquet file or a folder of `folder`, or on the hub."""
    path, where = config.dataset_path, f"{config.dataset_path} {config.dataset_name or ''}[{config.test_split}]"
    if is_parquet(path):
        path = where = str(folder / path)
    elif is_there(folder / path) and (folder / path).is_dir():
        path = str(folder / path)
    elif (folder / path).is_file() or Path(path).suffix in _OF_FILES:
        problem = "no such file"
        if (folder / path).exists():
            problem = "its name does not say how to read it"
        raise InputError(problem, where=folder / path, fix="name it .jsonl if each line is a JSON object, or .parquet")
    return HubSource(
        path=path,
        name=config.dataset_name,
        split=config.test_split,
        where=where,
        columns=config.columns,
        limit=config.limit,
        is_drawn=True,
    )


def _referenced(columns: Mapping[str, ColumnRef]) -> frozenset[str]:
    """The columns that any of `columns` reads."""
    return frozenset().union(*map(referenced_columns, columns.values()))


def read_hub(source: HubSource, required: tuple[str, ...]) -> list[Sample]:
    """The rows, `source.limit` of them where that is set; media stay encoded: librosa, Pillow and PyAV decode them.

    Raises:
        InputError: the data set can't be loaded, has no column of a `required` or mapped key, or a row lacks what is
            required.
    """
    import datasets
    import httpx2

    try:
        with _recordings_as_stored():
            return _read_rows(source, required)
    except TypeError as error:
        # So `datasets` says that files have other types in a column; any other is a fault of this code.
        if not str(error).startswith("Couldn't cast"):
            raise
        raise _refuse(error, source) from None
    except (*_FAULTS, httpx2.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise _refuse(error, source) from None


def _read_rows(source: HubSource, required: tuple[str, ...]) -> list[Sample]:
    opened = _open(source)
    columns = _find_columns(source, opened.column_names, required)
    parts = [key for key in PART_KEYS if key in opened.column_names]
    needed = sorted(_referenced(columns).union(parts))
    samples = []
    for number, row in _choose_rows(opened, needed, source):
        where = f"{source.where} row {number}"
        sample = _make_sample(rename_columns(row, columns, where), number, where, required)
        check_sample(sample, row, fix="store media in the data set, or paths that hold from here")
        samples.append(sample)
    if not samples:
        raise InputError("has no rows", where=source.where)
    return samples


def _choose_rows(opened: Any, needed: list[str], source: HubSource) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that the source takes, with their numbers; of each the columns that are needed."""
    if isinstance(opened, ParquetRows):
        for numbers, table in opened.read(_choose_numbers(opened.num_rows, source), needed):
            yield from zip(numbers, _rows_of(table), strict=True)
        return
    table = opened.select_columns(needed)
    if opened.info.builder_name == "parquet":  # the same rows as `ParquetRows` has
        numbers = _choose_numbers(len(table), source)
        yield from zip(numbers, _rows_of(table.select(numbers)), strict=True)
    elif source.limit is None or not source.is_drawn:
        yield from enumerate(islice(_rows_of(table), source.limit))
    else:
        yield from draw_rows(islice(_rows_of(table), STREAMED_FOR_ONE * source.limit), source.limit)


def _rows_of(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of a data set; media stay encoded, and class labels, stored as numbers, are named."""
    import datasets

    class_labels = {}
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Audio | datasets.Image | datasets.Video):
            table = table.cast_column(name, type(feature)(decode=False))
        if isinstance(feature, datasets.ClassLabel):
            class_labels[name] = feature
    for row in table:
        named = dict(row)
        for name, feature in class_labels.items():
            number = row[name]
            named[name] = None
            if number is not None and number >= 0:  # -1 is no label
                named[name] = feature.int2str(number)
        yield named


def _choose_numbers(num_rows: int, source: HubSource) -> list[int]:
    """The numbers of the rows that the source takes."""
    if source.limit is None or not source.is_drawn:
        return list(range(num_rows))[: source.limit]
    if is_parquet(source.path):
        # It lies on this disk, where many row groups cost little.
        return [number for number, _ in draw_rows(range(num_rows), source.limit)]
    return draw_in_blocks(num_rows, source.limit)


def _refuse(error: BaseException, source: HubSource) -> InputError:
    """The error to raise where `datasets` has failed; of those that tell nothing, the cause."""
    import datasets

    while isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    reason = first_line(error)
    fix = "check name, split and network"
    if isinstance(error, datasets.table.CastError):
        reason = f"its files must have the same columns, and {error.details()}"
        fix = "give all files the same columns, or each form a configuration of its own"
    elif isinstance(error, TypeError):  # `datasets` names the two types, each on a line of its own
        reason = one_line(str(error))
        fix = "a column must have one type in all files; or make it a Parquet file, which is read as it is stored"
    elif isinstance(error, ImportError):
        library = error.name
        named = re.search(r"install '?([\w-]+)", reason)
        if named is not None:
            library = named[1]
        fix = f"pip install {library}, or make it a Parquet file"
    elif is_parquet(source.path):
        fix = "make it a Parquet file"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        fix = "rows are kept on this disk; HF_HOME names a folder with room for them"
    return InputError(f"data set can't be loaded: {reason}", where=source.where, fix=fix)


@contextmanager
def _recordings_as_stored() -> Iterator[None]:
    """Read recordings without torchcodec, which `datasets` wants even where they stay encoded."""
    import datasets

    encode = datasets.Audio.encode_example

    def keep(self: Any, value: Any) -> Any:
        if isinstance(value, str):
            return {"bytes": None, "path": value}
        # Arrays and raw samples have no header that a decoder could read: these are left to `datasets`.
        if isinstance(value, dict) and "array" not in value and not str(value.get("path")).endswith("pcm"):
            path, encoded = value.get("path"), value.get("bytes")
            if path is not None and Path(path).is_file():
                encoded = None  # it is read from there
            return {"bytes": encoded, "path": path}
        return encode(self, value)

    datasets.Audio.encode_example = keep
    try:
        yield
    finally:
        datasets.Audio.encode_example = encode


def _open(source: HubSource) -> Any:
    """The rows: `ParquetRows`, or what `datasets` makes of another form, streamed where a part is enough."""
    import datasets

    if is_parquet(source.path):
        if not is_file(Path(source.path)):
            raise InputError("no such file", where=source.where)
        return open_parquet_file(source.path)
    enough = source.limit
    if source.is_drawn:
        enough = None  # any row may be drawn
    rows = open_parquet_split(source.path, source.name, source.split, source.where, enough)
    if rows is not None:
        return rows
    # Of another form than Parquet, a slice can't be streamed.
    if source.limit is None or "[" in source.split:
        return datasets.load_dataset(source.path, source.name, split=source.split)
    streamed = datasets.load_dataset(source.path, source.name, split=source.split, streaming=True)
    # The hub is out of reach: this is the cache of `datasets`.
    if streamed.info.builder_name == "parquet":
        return datasets.load_dataset(source.path, source.name, split=source.split)
    if streamed.features is None:
        streamed = streamed._resolve_features()  # from its first rows
    return streamed


def _find_columns(source: HubSource, present: list[str], required: tuple[str, ...]) -> dict[str, ColumnRef]:
    """Our keys -> where a row holds them; without the keys that no row holds."""
    for key in source.columns:
        if key not in KEYS:
            raise InputError(
                f"columns: unknown key {key!r}; known: {', '.join(KEYS)}",
                where=source.where,
                fix="our key comes first, the data set's column second",
            )
    columns: dict[str, ColumnRef] = {}
    for key in KEYS:
        ref = source.columns.get(key, key)
        missing = referenced_columns(ref) - set(present)
        if not missing:
            columns[key] = ref
        elif key in required or key in source.columns:
            raise InputError(
                f"has no column {min(missing)!r}; it has {', '.join(present)}",
                where=source.where,
                fix="map it in columns:",
            )
    return columns


def _make_sample(row: Mapping[str, Any], number: int, where: str, required: tuple[str, ...]) -> Sample:
    """The sample of a row, whose media are stored in the data set or as paths."""
    for key in required:
        if row[key] in (None, "", []) or (isinstance(row[key], str) and not row[key].strip()):
            raise InputError(f"{key} is empty", where=where)
    texts: dict[str, Any] = {key: str(row[key]) for key in TEXTS if row.get(key) is not None}
    video = row.get("video")
    if isinstance(video, list):
        frames = []
        for stored in video:
            frame = _encoded("video", stored, where)
            if frame is not None:
                frames.append(frame)
        video = tuple(frames)
    else:
        video = _encoded("video", video, where) or ()
    identity = row.get("id")
    if identity is None:
        identity = number
    return Sample(
        id=str(identity),
        where=where,
        audio=_encoded("audio", row.get("audio"), where),
        image=_encoded("image", row.get("image"), where),
        video=video,
        choices=tuple(row.get("choices") or ()),
        answers=tuple(row.get("answers") or ()),
        **texts,
    )


def _encoded(key: str, stored: Any, where: str) -> Media | None:
    """What an undecoded column of media, of {bytes, path} structs or of paths holds."""
    if isinstance(stored, Mapping):
        stored = stored.get("bytes") or stored.get("path")
        if stored is None:
            raise InputError(f"{key} has neither bytes nor path", where=where, fix="store it encoded, not as an array")
    if not stored:
        return None
    if isinstance(stored, str):
        return Path(stored)
    if not isinstance(stored, bytes):
        raise InputError(f"{key} must be encoded, or a path, got {type(stored).__name__}", where=where)
    return stored
