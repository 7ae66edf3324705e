"""What to measure saliency on: the `calibration` of a space, or a file of its own, or a command's options."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoreap.config import checks
from autoreap.config.checks import KeyPath, Problems, read_yaml
from autoreap.errors import InputError
from autoreap.measuring import DEFAULT_GATES, DEFAULT_TOKENS, GATES, TOKENS
from autoreap.media.samples import MODALITIES

DEFAULT_MAX_UNREADABLE = 0.01
_HUB_KEYS = {"dataset_name", "split", "columns"}


@dataclass(frozen=True)
class CalibrationSet:
    """One set of calibration rows. Keys are `TaskConfig`'s where it has them.

    Attributes:
        dataset_path: a JSONL or Parquet file, a folder of the form the hub stores, or a data set of the hub.
        dataset_name, split: configuration and split of a hub data set.
        columns: our key -> the data set's column, where they differ.
        weight: how often each token of the set counts.
        limit: measure on the first so many rows; None takes all.
    """

    dataset_path: str
    dataset_name: str | None = None
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    limit: int | None = None


@dataclass(frozen=True)
class CalibrationConfig:
    """What to measure on, and how.

    Attributes:
        sets: the sets of each modality.
        max_unreadable: the share of a modality's rows whose media may be broken; such rows are left out.
        tokens, gates: see `calibrate.Options`.
    """

    sets: Mapping[str, tuple[CalibrationSet, ...]]
    max_unreadable: float = DEFAULT_MAX_UNREADABLE
    tokens: str = DEFAULT_TOKENS
    gates: str = DEFAULT_GATES

    def limited(self, num_rows: int | None) -> "CalibrationConfig":
        """The same with at most the first `num_rows` rows of each set; None sets no further bound."""
        if num_rows is None:
            return self
        sets = {
            modality: tuple(replace(each, limit=min(each.limit or num_rows, num_rows)) for each in entries)
            for modality, entries in self.sets.items()
        }
        return replace(self, sets=sets)


def load_calibration(path: Path) -> CalibrationConfig:
    """Read a file that holds what a space has under `calibration`, under that key or alone; a space will do, too."""
    document, problems = read_yaml(path)
    at: KeyPath = ("calibration",) if "calibration" in document else ()
    config = calibration_section(document.get("calibration", document), at, path.parent, problems)
    problems.finish()
    return config


def calibration_of(
    path: Path | None, named: Mapping[str, Sequence[tuple[str, float]]], **given: Any
) -> CalibrationConfig:
    """What a command is to measure on: the sets in the file `path`, then those its options name, with their weights.

    What else is `given` of a `CalibrationConfig` and not None goes over the file's.

    Raises:
        InputError: a set is not there, or none is of audio.
    """
    config = load_calibration(path) if path is not None else CalibrationConfig({})
    sets = dict(config.sets)
    for modality, entries in named.items():
        for name, _ in entries:
            if fault := _missing(name, Path()):
                raise InputError(fault, where=f"--{modality}", fix="name a JSONL file or a data set of the hub")
        added = tuple(CalibrationSet(name, weight=weight) for name, weight in entries)
        sets |= {modality: (*sets.get(modality, ()), *added)} if added else {}
    if not sets.get("audio"):
        raise InputError("calibration needs audio data", where=path or "--audio", fix="give a JSONL file of audio rows")
    return replace(config, sets=sets, **{key: value for key, value in given.items() if value is not None})


def calibration_section(section: Any, at: KeyPath, folder: Path, problems: Problems) -> CalibrationConfig:
    """The `calibration` of a YAML file, which lies in `folder`; its mistakes are added to `problems`."""
    if not isinstance(section, dict):
        problems.add(at, "must map audio, video and mixed to JSONL files or lists of data sets")
        return CalibrationConfig({})
    problems.unknown_keys(section, (*MODALITIES, "max_unreadable", "tokens", "gates"), at)
    plain = {
        "max_unreadable": problems.take(section, "max_unreadable", at, checks.is_share),
        "tokens": problems.take(section, "tokens", at, checks.one_of(TOKENS)),
        "gates": problems.take(section, "gates", at, checks.one_of(GATES)),
    }
    sets = {
        modality: tuple(_sets(section[modality], (*at, modality), folder, problems))
        for modality in MODALITIES
        if modality in section
    }
    return CalibrationConfig(sets, **{key: value for key, value in plain.items() if value is not None})


def _sets(section: Any, at: KeyPath, folder: Path, problems: Problems) -> Iterator[CalibrationSet]:
    """The sets of one modality: one file or mapping, or a list of them."""
    if not isinstance(section, list):
        entries: list[tuple[Any, KeyPath]] = [(section, at)]
    else:
        entries = [(entry, (*at, number)) for number, entry in enumerate(section)]
    if not entries:
        problems.add(at, "needs at least one data set")
    for entry, place in entries:
        mapping = entry if isinstance(entry, dict) else {"dataset_path": entry}
        values = _set_values(mapping, place, problems)
        path = mapping.get("dataset_path")
        if not isinstance(path, str) or not path:
            problems.add(place, f"must be a JSONL file, or a mapping with dataset_path, got {entry!r}")
        elif fault := _missing(path, folder):
            problems.add((*place, "dataset_path") if isinstance(entry, dict) else place, fault)
        elif (folder / path).exists():
            # A Parquet file is one split of one configuration, but its columns may have names of their own.
            unused = _HUB_KEYS - {"columns"} if path.endswith(".parquet") else _HUB_KEYS
            for key in unused & set(values) if (folder / path).is_file() else ():
                problems.add((*place, key), "is for a data set of the hub; a JSONL file has rows with our keys")
            yield CalibrationSet(str(folder / path), **values)
        else:
            yield CalibrationSet(path, **values)


def _set_values(mapping: Mapping[str, Any], at: KeyPath, problems: Problems) -> dict[str, Any]:
    problems.unknown_keys(mapping, list(CalibrationSet.__dataclass_fields__), at)
    values = {
        **{key: problems.take(mapping, key, at, checks.is_string) for key in ("dataset_name", "split")},
        "columns": problems.take(mapping, "columns", at, checks.is_string_mapping),
        "weight": problems.take(mapping, "weight", at, checks.is_weight),
        "limit": problems.take(mapping, "limit", at, checks.is_positive_integer),
    }
    return {key: value for key, value in values.items() if value is not None}


def _missing(path: str, folder: Path) -> str | None:
    """What is wrong with `path` if it is neither in `folder` nor a name on the hub."""
    may_be_named = checks.is_hub_name(path) and not path.endswith((".jsonl", ".parquet"))
    return None if (folder / path).exists() or may_be_named else f"no such file: {folder / path}"
