"""The rows of one task: a JSONL file, or a data set of the hub."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from autoreap.config import TaskConfig
from autoreap.errors import InputError
from autoreap.samples import Sample, read_samples

_TEXTS = ("text", "question", "answer", "language", "speaker")
_KEYS = ("id", "audio", "choices", *_TEXTS)


def read_dataset(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> list[Sample]:
    """The first `config.limit` rows; a path ending in .jsonl is a file in `folder`, all else is for `datasets`.

    Raises:
        InputError: there is no such data, or a row lacks what is `required`.
    """
    if config.dataset_path.endswith(".jsonl"):
        return read_samples(folder / config.dataset_path, required)[: config.limit]
    return list(islice(_hub_rows(config, folder, required), config.limit))


def _hub_rows(config: TaskConfig, folder: Path, required: tuple[str, ...]) -> Iterator[Sample]:
    """Rows of a hub data set (or a local folder of the same form), audio left encoded: decoding is librosa's."""
    import datasets

    local = folder / config.dataset_path
    source = str(local) if local.is_dir() else config.dataset_path
    where = f"{config.dataset_path} {config.dataset_name or ''}[{config.test_split}]"
    try:
        rows = datasets.load_dataset(source, config.dataset_name, split=config.test_split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"data set can't be loaded: {reason}", where=where, fix="check name, split and network"
        ) from None
    columns = {key: config.columns.get(key, key) for key in _KEYS}
    missing = [columns[key] for key in required if columns[key] not in rows.column_names]
    if missing:
        raise InputError(
            f"has no column {missing[0]!r}; it has {', '.join(rows.column_names)}",
            where=where,
            fix="map it in columns:",
        )
    columns = {key: column for key, column in columns.items() if column in rows.column_names}
    rows = rows.select_columns(sorted(set(columns.values())))
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
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
    return Sample(
        id=str(number) if row.get("id") is None else str(row["id"]),
        where=where,
        audio=_audio(row.get("audio"), where),
        choices=tuple(str(choice) for choice in choices or ()),
        **texts,
    )


def _audio(stored: Any, where: str) -> Path | bytes | None:
    """The encoded audio of an undecoded Audio column, of a {bytes, path} struct, or of a column of paths."""
    if isinstance(stored, Mapping):
        stored = stored.get("bytes") or stored.get("path")
        if stored is None:
            raise InputError("audio has neither bytes nor path", where=where, fix="store it encoded, not as an array")
    return Path(stored) if isinstance(stored, str) else stored
