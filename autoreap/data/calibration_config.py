"""What to measure saliency on: the `calibration` of a space, or a file of its own, or a command's options."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, StrictStr, ValidationInfo
from pydantic.dataclasses import dataclass

from autoreap.data.calibration_choices import DEFAULT_GATES, DEFAULT_TOKENS, GATES, TOKENS
from autoreap.data.yaml_file import read_yaml
from autoreap.errors import InputError
from autoreap.reading import is_file, is_there
from autoreap.validation import (
    NO_OTHER_KEYS,
    Mistake,
    PositiveInteger,
    PositiveNumber,
    Section,
    Share,
    Text,
    error_of,
    one_of,
)

DEFAULT_MAX_UNREADABLE = 0.01
_HUB_KEYS = ("dataset_name", "split", "columns")


def _locate(path: str, info: ValidationInfo) -> str:
    """`path` in the folder of the file that names it, if it is there; else it is a data set of the hub."""
    folder: Path | None = info.context
    if folder is None:  # made in Python, not read from a file
        return path
    if is_there(folder / path):
        return str(folder / path)
    if not _is_hub_name(path):
        raise error_of([((), f"no such file: {folder / path}")])
    return path


def _is_hub_name(path: str) -> bool:
    """Whether `path` has the form of a data set's name on the hub: `owner/name`, or a name alone without dots."""
    if path.endswith((".jsonl", ".parquet")):
        return False
    return re.fullmatch(r"[\w-]+|[\w-][\w.-]*/[\w-][\w.-]*", path) is not None


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class CalibrationSet(Section):
    """One set of calibration rows. Keys are `TaskConfig`'s where it has them.

    Attributes:
        dataset_path: a JSONL or Parquet file, a folder of the form the hub stores, or a data set of the hub.
        dataset_name, split: configuration and split of a hub data set.
        columns: our key -> the data set's column, where they differ.
        weight: how often each token of the set counts.
        limit: measure on the first so many rows; None takes all.
    """

    form: ClassVar[str] = "a JSONL file, or a mapping with dataset_path"

    dataset_path: Annotated[Text, AfterValidator(_locate)]
    dataset_name: StrictStr | None = None
    split: StrictStr = "train"
    columns: dict[StrictStr, StrictStr] = field(default_factory=dict)
    weight: PositiveNumber = 1.0
    limit: PositiveInteger | None = None

    @classmethod
    def mistakes(cls, values: Mapping[str, Any], context: Any) -> Iterator[Mistake]:
        """The keys for the hub that a file does not need."""
        path = values.get("dataset_path")
        if context is None or not isinstance(path, str) or not is_file(context / path):
            return
        for key in _HUB_KEYS:
            # A Parquet file has no split or configuration, but its columns may have names of their own.
            is_meant = key == "columns" and path.endswith(".parquet")
            if key in values and not is_meant:
                yield (key,), "is for a data set of the hub; a JSONL file has rows with our keys"


def _list_sets(value: Any) -> Any:
    """The entries of one modality: a path, a mapping, or a list of both."""
    if value == []:
        raise ValueError("needs at least one data set")
    if isinstance(value, tuple):  # from Python, not from a file
        return value
    if not isinstance(value, list):
        value = [value]
    entries = []
    for entry in value:
        if isinstance(entry, str):
            entry = {"dataset_path": entry}
        entries.append(entry)
    return tuple(entries)


Sets = Annotated[tuple[CalibrationSet, ...], BeforeValidator(_list_sets)]


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class CalibrationConfig(Section):
    """What to measure on, and how.

    Attributes:
        audio, video, mixed: the sets of each modality.
        max_unreadable: the share of a modality's rows whose media may be broken; such rows are left out.
        tokens, gates: see `calibrate.Options`.
    """

    audio: Sets = ()
    video: Sets = ()
    mixed: Sets = ()
    max_unreadable: Share = DEFAULT_MAX_UNREADABLE
    tokens: Annotated[StrictStr, one_of(TOKENS)] = DEFAULT_TOKENS
    gates: Annotated[StrictStr, one_of(GATES)] = DEFAULT_GATES

    @property
    def sets(self) -> dict[str, tuple[CalibrationSet, ...]]:
        """The sets of each modality that has some."""
        by_modality = {"audio": self.audio, "video": self.video, "mixed": self.mixed}
        return {modality: sets for modality, sets in by_modality.items() if sets}

    def limited(self, num_rows: int | None) -> "CalibrationConfig":
        """The same with at most the first `num_rows` rows of each set; None sets no further bound."""
        if num_rows is None:
            return self
        bounded: dict[str, Any] = {}
        for modality, sets in self.sets.items():
            limited = []
            for each in sets:
                limited.append(replace(each, limit=min(each.limit or num_rows, num_rows)))
            bounded[modality] = tuple(limited)
        return replace(self, **bounded)


def load_calibration(path: Path) -> CalibrationConfig:
    """Read a file that holds what a space has under `calibration`, under that key or alone; a space will do, too."""
    file = read_yaml(path)
    if "calibration" in file.document:
        return file.parse(CalibrationConfig, ("calibration",))
    return file.parse(CalibrationConfig)


def calibration_of(
    path: Path | None, named: Mapping[str, Sequence[tuple[str, float]]], **given: Any
) -> CalibrationConfig:
    """What a command is to measure on: the sets in the file `path`, then those its options name, with their weights.

    What else is `given` of a `CalibrationConfig` and not None goes over the file's.

    Raises:
        InputError: a set is not there, or none is of audio.
    """
    config = CalibrationConfig()
    if path is not None:
        config = load_calibration(path)
    for modality, entries in named.items():
        added = []
        for name, weight in entries:
            if not is_there(Path(name)) and not _is_hub_name(name):
                fix = "name a JSONL file or a data set of the hub"
                raise InputError(f"no such file: {name}", where=f"--{modality}", fix=fix)
            added.append(CalibrationSet(name, weight=weight))
        given[modality] = (*getattr(config, modality), *added)
    config = replace(config, **{key: value for key, value in given.items() if value is not None})
    if not config.audio:
        raise InputError("calibration needs audio data", where=path or "--audio", fix="give a JSONL file of audio rows")
    return config
