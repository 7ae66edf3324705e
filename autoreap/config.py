"""YAML -> frozen configuration. All mistakes in a file are reported at once, each with its line."""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autoreap.candidate import LAYER_SELECTIONS, PRESETS, RANKINGS
from autoreap.errors import InputError
from autoreap.tasks import TASKS

KeyPath = tuple[str | int, ...]
SPLITS = ("search", "report")
SAMPLERS = ("tpe", "random", "nsgaii", "gp")
DIRECTIONS = {"minimise": "minimize", "minimize": "minimize", "maximise": "maximize", "maximize": "maximize"}
SELECTION_RULES = ("knee", "smallest", "best")


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
Parameter = float | int | str | bool | Range | tuple[str, ...]


@dataclass(frozen=True)
class SpaceConfig:
    """What to search, and on what: one file of search_spaces/."""

    path: Path
    name: str
    calibration: Mapping[str, Path]
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


_INTEGER_PARAMETERS = ("layers_cut", "talker.layers_cut", "seed")
_RANGES = {
    "retention": (0, 1),
    "talker.retention": (0, 1),
    "lambda": (0, float("inf")),
    "beta": (0, float("inf")),
    "layers_cut": (0, float("inf")),
    "talker.layers_cut": (0, float("inf")),
    "seed": (0, float("inf")),
}
_CHOICES = {"saliency": RANKINGS, "layer_selection": LAYER_SELECTIONS}


class _Problems:
    """Collects every mistake of one file; `finish` reports them all."""

    def __init__(self, path: Path, lines: Mapping[KeyPath, int]) -> None:
        self._path = path
        self._lines = lines
        self._found: list[tuple[int, str]] = []

    def add(self, key: KeyPath, problem: str) -> None:
        line = next((self._lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self._lines), 1)
        dotted = ".".join(str(part) for part in key)
        self._found.append((line, f"{self._path}:{line}: {dotted + ': ' if dotted else ''}{problem}"))

    def finish(self) -> None:
        if self._found:
            raise InputError("\n".join(message for _, message in sorted(self._found)))

    def unknown_keys(self, document: Mapping[str, Any], known: Sequence[str], at: KeyPath = ()) -> None:
        for key in document:
            if key not in known:
                self.add((*at, key), f"unknown key; known: {', '.join(known)}")

    def take(self, document: Mapping[str, Any], key: str, at: KeyPath, check: Callable[[Any], str | None]) -> Any:
        """`document[key]` if `check` finds no fault with it, else None, with the fault noted."""
        value = document.get(key)
        if value is not None and (fault := check(value)):
            self.add((*at, key), f"{fault}, got {value!r}")
            return None
        return value


def load_evals(path: Path) -> EvalsConfig:
    """Read an evals file: the splits `search` and `report`, each a list of tasks."""
    document, problems = _read_yaml(path)
    problems.unknown_keys(document, SPLITS)
    splits = {}
    for split in SPLITS:
        entries = document.get(split, [])
        if not isinstance(entries, list):
            problems.add((split,), "must be a list of tasks")
            continue
        tasks = [_task(entry, (split, number), problems) for number, entry in enumerate(entries)]
        splits[split] = tuple(task for task in tasks if task is not None)
        labels = [task and (task.task, task.label) for task in tasks]
        for number, label in enumerate(labels):
            if label and label in labels[:number]:
                problems.add((split, number), f"a second {label[0]} task needs a label of its own")
    if not document.get("search"):
        problems.add(("search",), "needs at least one task")
    problems.finish()
    return EvalsConfig(path=path, splits=splits)


def _task(entry: Any, at: KeyPath, problems: _Problems) -> TaskConfig | None:
    known = list(TaskConfig.__dataclass_fields__)
    if not isinstance(entry, dict):
        problems.add(at, f"must be a mapping with the keys {', '.join(known)}")
        return None
    problems.unknown_keys(entry, known, at)
    for key in ("task", "dataset_path"):
        if entry.get(key) in (None, ""):
            problems.add(at, f"key {key} is missing")
    values = {
        "task": problems.take(entry, "task", at, _one_of([known.NAME for known in TASKS])),
        "columns": problems.take(entry, "columns", at, _is_string_mapping),
        **{key: problems.take(entry, key, at, _is_positive_integer) for key in ("max_new_tokens", "limit")},
        "doc_to_text": problems.take(entry, "doc_to_text", at, _is_template),
        **{
            key: problems.take(entry, key, at, _is_string)
            for key in ("dataset_path", "dataset_name", "test_split", "label")
        },
    }
    values["label"] = values["label"] or ""
    if not (values["task"] and values["dataset_path"]):
        return None
    return TaskConfig(**{key: value for key, value in values.items() if value is not None})


def load_space(path: Path) -> SpaceConfig:
    """Read a file of search_spaces/. Paths in it are relative to it."""
    document, problems = _read_yaml(path)
    known = ["calibration", "evals", "parameters", "objectives", "trials", "hours", "seed", "sampler", "presets"]
    problems.unknown_keys(document, [*known, "materialise", "batch_size"])
    for key in ("calibration", "evals", "parameters"):
        if document.get(key) in (None, ""):
            problems.add((), f"key {key} is missing")
    plain = {
        "trials": problems.take(document, "trials", (), _is_positive_integer),
        "batch_size": problems.take(document, "batch_size", (), _is_positive_integer),
        "hours": problems.take(document, "hours", (), _is_positive_number),
        "seed": problems.take(document, "seed", (), lambda v: None if type(v) is int else "must be an integer"),
        "sampler": problems.take(document, "sampler", (), _one_of(SAMPLERS)),
        "materialise": problems.take(document, "materialise", (), _one_of(SELECTION_RULES)),
    }
    presets: list[str] | None = problems.take(document, "presets", (), _all_of(tuple(PRESETS)))
    evals = problems.take(document, "evals", (), _is_string)
    space: dict[str, Any] = {
        "path": path,
        "name": path.stem,
        "calibration": _calibration(document.get("calibration", {}), path.parent, problems),
        "evals": path.parent / (evals or ""),
        "presets": tuple(PRESETS) if presets is None else tuple(presets),
        "parameters": _parameters(document.get("parameters", {}), problems),
        "objectives": _objectives(document.get("objectives", {"size_bytes": "minimise", "wer": "minimise"}), problems),
        **{key: value for key, value in plain.items() if value is not None},
    }
    problems.finish()
    return SpaceConfig(**space)


def _calibration(section: Any, folder: Path, problems: _Problems) -> dict[str, Path]:
    if not isinstance(section, dict):
        problems.add(("calibration",), "must map audio, video and mixed to JSONL files")
        return {}
    problems.unknown_keys(section, ("audio", "video", "mixed"), ("calibration",))
    if not section.get("audio"):
        problems.add(("calibration",), "key audio is missing")
    files = {modality: problems.take(section, modality, ("calibration",), _is_string) for modality in section}
    for modality, name in files.items():
        if name and not (folder / name).is_file():
            problems.add(("calibration", modality), f"no such file: {folder / name}")
    return {modality: folder / name for modality, name in files.items() if name}


def _parameters(section: Any, problems: _Problems) -> dict[str, Parameter]:
    known = (*_RANGES, *_CHOICES, "strip_vision")
    if not isinstance(section, dict) or not section:
        problems.add(("parameters",), f"must name what to search: {', '.join(known)}")
        return {}
    problems.unknown_keys(section, known, ("parameters",))
    parameters = {}
    for name, value in section.items():
        if name in known:
            parameters[name] = _parameter(name, value, ("parameters", name), problems)
    return {name: value for name, value in parameters.items() if value is not None}


def _parameter(name: str, value: Any, at: KeyPath, problems: _Problems) -> Any:
    if name == "strip_vision":
        return _noted(problems, at, value, None if isinstance(value, bool) else "must be true or false")
    if name in _CHOICES:
        chosen = value if isinstance(value, list) else [value]
        fault = _all_of(_CHOICES[name])(chosen)
        return (
            None if _noted(problems, at, value, fault) is None else (tuple(value) if isinstance(value, list) else value)
        )
    if not isinstance(value, dict):
        return _noted(problems, at, value, _number_fault(name, value))
    problems.unknown_keys(value, ("low", "high", "step"), at)
    faults = [_number_fault(name, value.get(key)) for key in ("low", "high")]
    if any(faults):
        problems.add(at, f"low and high: {next(fault for fault in faults if fault)}, got {value!r}")
        return None
    step = value.get("step", 1 if name in _INTEGER_PARAMETERS else None)
    if value["low"] > value["high"] or (step is not None and (_is_positive_number(step) is not None)):
        problems.add(at, f"low must not exceed high, and step must be above 0, got {value!r}")
        return None
    return Range(low=value["low"], high=value["high"], step=step)


def _number_fault(name: str, value: Any) -> str | None:
    low, high = _RANGES[name]
    integer = name in _INTEGER_PARAMETERS
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        return f"must be {'an integer' if integer else 'a number'}, or low and high"
    above = value > low if name.endswith("retention") else value >= low
    if not (above and value <= high):
        bounds = "above 0 and at most 1" if name.endswith("retention") else "at least 0"
        return f"must be {bounds}"
    return None


def _objectives(section: Any, problems: _Problems) -> dict[str, str]:
    if not isinstance(section, dict) or not section:
        problems.add(("objectives",), "must map metrics to minimise or maximise")
        return {}
    for metric, direction in section.items():
        if str(direction) not in DIRECTIONS:
            problems.add(("objectives", metric), f"must be minimise or maximise, got {direction!r}")
    return {metric: DIRECTIONS.get(str(direction), "minimize") for metric, direction in section.items()}


def _noted(problems: _Problems, at: KeyPath, value: Any, fault: str | None) -> Any:
    if fault is None:
        return value
    problems.add(at, f"{fault}, got {value!r}")
    return None


def _one_of(allowed: Sequence[str]) -> Callable[[Any], str | None]:
    return lambda value: None if value in allowed else f"must be one of {', '.join(allowed)}"


def _all_of(allowed: Sequence[str]) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        fits = isinstance(value, list) and all(entry in allowed for entry in value)
        return None if fits else f"must be among {', '.join(allowed)}"

    return check


def _is_string(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a string"


def _is_string_mapping(value: Any) -> str | None:
    fits = isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)
    return None if fits else "must map keys to column names"


def _is_template(value: Any) -> str | None:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
    except (ValueError, TypeError):
        return "must be a string"
    fits = names <= {"question", "choices", "lettered"}
    return None if fits else "may use {question}, {choices} and {lettered} alone"


def _is_positive_integer(value: Any) -> str | None:
    return None if type(value) is int and value > 0 else "must be an integer above 0"


def _is_positive_number(value: Any) -> str | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return None if fits else "must be a number above 0"


def _read_yaml(path: Path) -> tuple[dict[str, Any], _Problems]:
    try:
        text = path.read_text(encoding="utf-8")
        root, document = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except (yaml.YAMLError, ValueError, IsADirectoryError) as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", where=path) from None
    if not isinstance(document, dict) or root is None:
        raise InputError("must be a mapping of keys to values", where=path)
    return document, _Problems(path, dict(_lines(root, ())))


def _lines(node: yaml.Node, at: KeyPath) -> list[tuple[KeyPath, int]]:
    """The line of every key and entry beneath `node`."""
    found = [(at, node.start_mark.line + 1)]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found += [((*at, key.value), key.start_mark.line + 1), *_lines(value, (*at, key.value))[1:]]
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            found += _lines(value, (*at, number))
    return found
