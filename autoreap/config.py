"""YAML -> frozen configuration. All mistakes in a file are reported at once, each with its line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoreap import checks
from autoreap.candidate import INTEGERS, PRESETS, Candidate
from autoreap.checks import KeyPath, Problems, read_yaml
from autoreap.conditions import NOISES, Condition
from autoreap.errors import InputError
from autoreap.measuring import DEFAULT_GATES, DEFAULT_TOKENS, GATES, TOKENS
from autoreap.samples import MODALITIES
from autoreap.tasks import TASKS

SPLITS = ("search", "report")
SAMPLERS = ("tpe", "random", "nsgaii", "gp")
DIRECTIONS = {"minimise": "minimize", "minimize": "minimize", "maximise": "maximize", "maximize": "maximize"}
SELECTION_RULES = ("knee",)  # the others need a number that only their user knows
DEFAULT_MAX_UNREADABLE = 0.01
_HUB_KEYS = {"dataset_name", "split", "columns"}


@dataclass(frozen=True)
class TaskConfig:
    """One task on one data set. Keys are lm-eval's where lm-eval has them.

    Attributes:
        task: `asr` or `audio_qa`.
        label: tells metrics of the same name apart: `noisy` makes `wer.noisy`; empty for the main one.
        dataset_path: a JSONL file (relative to the evals file) or a data set of the hub.
        dataset_name, test_split: configuration and split of a hub data set.
        columns: our key -> the data set's column, where they differ.
        doc_to_text: what is asked; of a question with choices, where `{question}` and `{choices}` (or `{lettered}`) go;
            None takes the task's.
        max_new_tokens: bound on an answer; None bounds it by its reference.
        limit: score the first so many rows; None scores all.
        condition: what is done to each recording before it is heard; None leaves it as it is.
    """

    task: str
    label: str
    dataset_path: str
    dataset_name: str | None = None
    test_split: str = "test"
    columns: Mapping[str, str] = field(default_factory=dict)
    doc_to_text: str | None = None
    max_new_tokens: int | None = None
    limit: int | None = None
    condition: Condition | None = None


@dataclass(frozen=True)
class CalibrationSet:
    """One set of calibration rows. Keys are `TaskConfig`'s where it has them.

    Attributes:
        dataset_path: a JSONL file, a folder of the form the hub stores, or a data set of the hub.
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


@dataclass(frozen=True)
class EvalsConfig:
    """The tasks of each split, and the file they came from."""

    path: Path
    splits: Mapping[str, tuple[TaskConfig, ...]]


@dataclass(frozen=True)
class Range:
    """A parameter to sample from `low` to `high`, in steps of `step` where given."""

    low: float
    high: float
    step: float | None = None


# Fixed value, range, or list of choices.
Parameter = float | int | str | bool | Range | tuple[Any, ...]


@dataclass(frozen=True)
class SpaceConfig:
    """What to search, and on what: one file of search_spaces/."""

    path: Path
    name: str
    calibration: CalibrationConfig
    evals: Path
    parameters: Mapping[str, Parameter]
    objectives: Mapping[str, str]
    trials: int = 100
    hours: float | None = None
    seed: int = 0
    sampler: str = "tpe"
    presets: tuple[str, ...] = tuple(PRESETS)
    materialise: str | None = None
    batch_size: int = 32


def load_evals(path: Path) -> EvalsConfig:
    """Read an evals file: the splits `search` and `report`, each a list of tasks."""
    document, problems = read_yaml(path)
    problems.unknown_keys(document, SPLITS)
    splits = {}
    for split in SPLITS:
        entries = document.get(split, [])
        if not isinstance(entries, list):
            problems.add((split,), "must be a list of tasks")
            continue
        tasks = [_task(entry, (split, number), problems, path.parent) for number, entry in enumerate(entries)]
        splits[split] = tuple(task for task in tasks if task is not None)
        labels = [task and (task.task, task.label) for task in tasks]
        for number, label in enumerate(labels):
            if label and label in labels[:number]:
                problems.add((split, number), f"a second {label[0]} task needs a label of its own")
    if not document.get("search"):
        problems.add(("search",), "needs at least one task")
    problems.finish()
    return EvalsConfig(path=path, splits=splits)


def _task(entry: Any, at: KeyPath, problems: Problems, folder: Path) -> TaskConfig | None:
    known = list(TaskConfig.__dataclass_fields__)
    if not isinstance(entry, dict):
        problems.add(at, f"must be a mapping with the keys {', '.join(known)}")
        return None
    problems.unknown_keys(entry, known, at)
    for key in ("task", "dataset_path"):
        if entry.get(key) in (None, ""):
            problems.add(at, f"key {key} is missing")
    values = {
        "task": problems.take(entry, "task", at, checks.one_of([known.NAME for known in TASKS])),
        "columns": problems.take(entry, "columns", at, checks.is_string_mapping),
        "condition": _condition(entry.get("condition"), (*at, "condition"), problems, folder),
        **{key: problems.take(entry, key, at, checks.is_positive_integer) for key in ("max_new_tokens", "limit")},
        "doc_to_text": problems.take(entry, "doc_to_text", at, checks.is_template),
        **{
            key: problems.take(entry, key, at, checks.is_string)
            for key in ("dataset_path", "dataset_name", "test_split", "label")
        },
    }
    values["label"] = values["label"] or ""
    if not (values["task"] and values["dataset_path"]):
        return None
    return TaskConfig(**{key: value for key, value in values.items() if value is not None})


def _condition(section: Any, at: KeyPath, problems: Problems, folder: Path) -> Condition | None:
    """The condition; a recording of noise is named relative to the evals file."""
    if section is None:
        return None
    numbers = ("speed", "room_seconds", "snr_db")
    if not isinstance(section, dict):
        problems.add(at, f"must be a mapping with some of {', '.join(Condition.__dataclass_fields__)}")
        return None
    problems.unknown_keys(section, list(Condition.__dataclass_fields__), at)
    values = {
        **{key: problems.take(section, key, at, checks.is_number) for key in numbers},
        **{key: problems.take(section, key, at, checks.is_string) for key in ("noise", "band")},
        "seed": problems.take(section, "seed", at, checks.is_integer),
    }
    values = {key: value for key, value in values.items() if value is not None}
    if values.get("noise", NOISES[0]) not in NOISES:
        values["noise"] = str(folder / values["noise"])
    try:
        return Condition(**values)
    except InputError as error:
        problems.add((*at, str(error.where)), error.problem)
        return None


def load_space(path: Path) -> SpaceConfig:
    """Read a file of search_spaces/. Paths in it are relative to it."""
    document, problems = read_yaml(path)
    known = ["calibration", "evals", "parameters", "objectives", "trials", "hours", "seed", "sampler", "presets"]
    problems.unknown_keys(document, [*known, "materialise", "batch_size"])
    for key in ("calibration", "evals", "parameters"):
        if document.get(key) in (None, ""):
            problems.add((), f"key {key} is missing")
    plain = {
        "trials": problems.take(document, "trials", (), checks.is_positive_integer),
        "batch_size": problems.take(document, "batch_size", (), checks.is_positive_integer),
        "hours": problems.take(document, "hours", (), checks.is_positive_number),
        "seed": problems.take(
            document, "seed", (), lambda v: None if type(v) is int and v >= 0 else "must be an integer of at least 0"
        ),
        "sampler": problems.take(document, "sampler", (), checks.one_of(SAMPLERS)),
        "materialise": problems.take(document, "materialise", (), checks.one_of(SELECTION_RULES)),
    }
    calibration = _calibration(document.get("calibration", {}), ("calibration",), path.parent, problems)
    if isinstance(document.get("calibration"), dict) and "audio" not in document["calibration"]:
        problems.add(("calibration",), "key audio is missing")
    presets: list[str] | None = problems.take(document, "presets", (), checks.all_of(tuple(PRESETS)))
    evals = problems.take(document, "evals", (), checks.is_string)
    space: dict[str, Any] = {
        "path": path,
        "name": path.stem,
        "calibration": calibration,
        "evals": path.parent / (evals or ""),
        "presets": tuple(PRESETS) if presets is None else tuple(presets),
        "parameters": _parameters(document.get("parameters", {}), problems),
        "objectives": _objectives(document.get("objectives", {"size_bytes": "minimise", "wer": "minimise"}), problems),
        **{key: value for key, value in plain.items() if value is not None},
    }
    problems.finish()
    return SpaceConfig(**space)


def load_calibration(path: Path) -> CalibrationConfig:
    """Read a file that holds what a space has under `calibration`, under that key or alone; a space will do, too."""
    document, problems = read_yaml(path)
    at: KeyPath = ("calibration",) if "calibration" in document else ()
    config = _calibration(document.get("calibration", document), at, path.parent, problems)
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


def _calibration(section: Any, at: KeyPath, folder: Path, problems: Problems) -> CalibrationConfig:
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
            for key in _HUB_KEYS & set(values) if (folder / path).is_file() else ():
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
    may_be_named = checks.is_hub_name(path) and not path.endswith(".jsonl")
    return None if (folder / path).exists() or may_be_named else f"no such file: {folder / path}"


def _parameters(section: Any, problems: Problems) -> dict[str, Parameter]:
    known = Candidate().parameters()
    if not isinstance(section, dict) or not section:
        problems.add(("parameters",), f"must name what to search: {', '.join(known)}")
        return {}
    problems.unknown_keys(section, list(known), ("parameters",))
    parameters = {}
    for name, value in section.items():
        if name in known:
            parameter, fault = _parameter(name, value, integer=name in INTEGERS)
            parameters[name] = parameter
            if fault:
                problems.add(("parameters", name), fault)
    return parameters


def _parameter(name: str, value: Any, *, integer: bool) -> tuple[Any, str | None]:
    """The parameter, and what is wrong with it. Single values are judged by `Candidate` itself."""
    if isinstance(value, list):
        faults = [_fault(name, choice) for choice in value] or ["needs at least one choice"]
        return tuple(value), next(filter(None, faults), None)
    if not isinstance(value, dict):
        return value, _fault(name, value)
    if not {"low", "high"} <= set(value) <= {"low", "high", "step"}:
        return None, f"a range has low, high and, if need be, step, got {value!r}"
    step = value.get("step", 1 if integer else None)
    parameter = Range(low=value["low"], high=value["high"], step=step)
    if fault := _fault(name, value["low"]) or _fault(name, value["high"]):
        return parameter, fault
    if value["low"] > value["high"]:
        return parameter, f"low must not exceed high, got {value!r}"
    if step is not None and ((integer and type(step) is not int) or checks.is_positive_number(step)):
        return parameter, f"step must be {'an integer' if integer else 'a number'} above 0, got {step!r}"
    return parameter, None


def _fault(name: str, value: Any) -> str | None:
    try:
        Candidate.from_parameters({name: value})
    except InputError as error:
        return error.problem
    return None


def _objectives(section: Any, problems: Problems) -> dict[str, str]:
    if not isinstance(section, dict) or not section:
        problems.add(("objectives",), "must map metrics to minimise or maximise")
        return {}
    for metric, direction in section.items():
        if str(direction) not in DIRECTIONS:
            problems.add(("objectives", metric), f"must be minimise or maximise, got {direction!r}")
    return {metric: DIRECTIONS.get(str(direction), "minimize") for metric, direction in section.items()}
