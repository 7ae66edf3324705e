"""A file of evals/ -> the tasks of each split. All mistakes are reported at once, each with its line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.config import checks, lm_eval_keys
from autoreap.config.checks import KeyPath, Problems, read_yaml
from autoreap.config.columns import Place
from autoreap.errors import InputError
from autoreap.media.conditions import NOISES, Condition
from autoreap.tasks import TASKS, Task, task_named

SPLITS = ("search", "report")


@dataclass(frozen=True)
class TaskConfig:
    """One task on one data set. Keys are lm-eval's where lm-eval has them.

    Attributes:
        task: `asr` or `audio_qa`.
        label: tells metrics of the same name apart: `noisy` makes `wer.noisy`; empty for the main one.
        dataset_path: a JSONL or Parquet file (relative to the evals file) or a data set of the hub.
        dataset_name, test_split: configuration and split of a hub data set.
        columns: our key -> where a row holds it, if not in a column of that name.
        doc_to_text: what is asked; of a question with choices, where `{question}` and `{choices}` (or `{lettered}`) go;
            None takes the task's.
        max_new_tokens: bound on an answer; None bounds it by its reference.
        limit: score so many rows, drawn evenly and the same each time; None scores all.
        condition: what is done to each recording before it is heard; None leaves it as it is.
        max_unreadable: the share of the rows whose media may be broken; they are left out.
        metric: of the task's metrics, if not its usual one.
        version: of the data or the prompt, as its author counts them; part of what a study is known by.
    """

    task: str
    label: str
    dataset_path: str
    dataset_name: str | None = None
    test_split: str = "test"
    columns: Mapping[str, Place] = field(default_factory=dict)
    doc_to_text: str | None = None
    max_new_tokens: int | None = None
    limit: int | None = None
    condition: Condition | None = None
    metric: str | None = None
    version: str | None = None
    max_unreadable: float = 0.01


# `metric` and `version` are written as lm-eval has them; `language` is a column, or the same in every row.
KEYS = [*(key for key in TaskConfig.__dataclass_fields__ if key not in ("metric", "version")), "language"]


@dataclass(frozen=True)
class EvalsConfig:
    """The tasks of each split, and the file they came from."""

    path: Path
    splits: Mapping[str, tuple[TaskConfig, ...]]


def load_evals(path: Path) -> EvalsConfig:
    """Read an evals file: the splits `search` and `report`, each a list of tasks."""
    document, problems = read_yaml(path)
    if "task" in document or "dataset_path" in document:
        raise InputError("is one task; put it in the list of a split, as `search: [{task: asr, ...}]`", where=path)
    problems.unknown_keys(document, SPLITS)
    splits = {}
    for split in SPLITS:
        entries = document.get(split, [])
        if not isinstance(entries, list):
            problems.add((split,), "must be a list of tasks")
            continue
        tasks = [_task(entry, (split, number), problems, path.parent) for number, entry in enumerate(entries)]
        splits[split] = tuple(task for task in tasks if task is not None)
        labels = [task and (task_of(task).METRIC, task.label) for task in tasks]
        for number, label in enumerate(labels):
            if label and label in labels[:number]:
                problems.add((split, number), f"a second task with {label[0]} needs a label of its own")
    if not document.get("search"):
        problems.add(("search",), "needs at least one task")
    problems.finish()
    return EvalsConfig(path=path, splits=splits)


def task_of(config: TaskConfig) -> Task:
    """The task that scores `config`."""
    return task_named(config.task, config.metric)


def metric_name(config: TaskConfig) -> str:
    """`wer`, or `wer.noisy` for a task labelled noisy."""
    metric = task_of(config).METRIC
    return f"{metric}.{config.label}" if config.label else metric


def _task(entry: Any, at: KeyPath, problems: Problems, folder: Path) -> TaskConfig | None:
    if not isinstance(entry, dict):
        problems.add(at, f"must be a mapping with the keys {', '.join(KEYS)}")
        return None
    lm_eval_keys.known_keys(entry, KEYS, at, problems)
    for key in ("task", "dataset_path"):
        if entry.get(key) in (None, ""):
            problems.add(at, f"key {key} is missing")
    name = problems.take(entry, "task", at, checks.one_of(list(dict.fromkeys(known.NAME for known in TASKS))))
    values = {
        "task": name,
        "columns": lm_eval_keys.places(entry, task_named(name or TASKS[0].NAME), at, problems),
        "condition": _condition(entry.get("condition"), (*at, "condition"), problems, folder),
        "limit": problems.take(entry, "limit", at, checks.is_positive_integer),
        "max_new_tokens": lm_eval_keys.bound(entry, at, problems),
        "doc_to_text": lm_eval_keys.prompt(entry, at, problems),
        "metric": lm_eval_keys.metric(entry, name, at, problems) if name else None,
        "version": lm_eval_keys.version(entry, at, problems),
        "max_unreadable": problems.take(entry, "max_unreadable", at, checks.is_share),
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
