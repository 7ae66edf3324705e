"""The rows of one task: a JSONL file, or a data set of the hub."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from autoreap.config import TaskConfig
from autoreap.errors import InputError
from autoreap.samples import Sample, read_samples

_KEYS = ("id", "audio", "text", "question", "answer", "choices", "language", "speaker")


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
    audio_column = config.columns.get("audio", "audio")
    if isinstance(rows.features.get(audio_column), datasets.Audio):
        rows = rows.cast_column(audio_column, datasets.Audio(decode=False))
    columns = {key: config.columns.get(key, key) for key in _KEYS}
    missing = [columns[key] for key in required if columns[key] not in rows.column_names]
    if missing:
        raise InputError(
            f"has no column {missing[0]!r}; it has {', '.join(rows.column_names)}",
            where=where,
            fix="map it in columns:",
        )
    for number, row in enumerate(rows):
        yield _sample(row, columns, number, where)


def _sample(row: Mapping[str, Any], columns: Mapping[str, str], number: int, where: str) -> Sample:
    values = {key: row[column] for key, column in columns.items() if row.get(column) is not None}
    audio = values.pop("audio", None)
    if isinstance(audio, Mapping):
        audio = audio["bytes"] if audio.get("bytes") is not None else Path(audio["path"])
    choices = tuple(str(choice) for choice in values.pop("choices", ()))
    texts: dict[str, Any] = {key: str(value) for key, value in values.items() if key != "id"}
    return Sample(
        id=str(values.get("id", number)), where=f"{where} row {number}", audio=audio, choices=choices, **texts
    )
