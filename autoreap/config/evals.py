"""A file of evals/ -> the tasks of each split. All mistakes are reported at once, each with its line."""

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, StrictStr
from pydantic.dataclasses import dataclass as validated_dataclass

from autoreap.config.columns import KEYS as COLUMN_KEYS
from autoreap.config.columns import ColumnRef, Constant, check_template, is_row_template
from autoreap.config.lm_eval_keys import (
    UNSUPPORTED,
    Choices,
    Column,
    Columns,
    GenerationKwargs,
    Metadata,
    MetricEntry,
    metric_mistakes,
    metric_of,
)
from autoreap.config.yaml_file import read_yaml
from autoreap.errors import InputError
from autoreap.media.conditions import Condition
from autoreap.tasks import TASKS, Task, task_named
from autoreap.tasks.normalise import is_language_tag
from autoreap.validation import NO_OTHER_KEYS, Mistake, PositiveInteger, Section, Share, Text, one_of

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
    columns: Mapping[str, ColumnRef] = field(default_factory=dict)
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


def _check_prompt(text: str) -> str:
    """A template of columns, or a text in which at most question, choices and lettered are filled in."""
    if is_row_template(text):
        check_template(text)
        return text
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"is no template ({error})") from None
    if not names <= {"question", "choices", "lettered"}:
        raise ValueError("may use {question}, {choices} and {lettered} alone")
    return text


def _check_language(value: Any) -> str:
    if not isinstance(value, str) or not is_language_tag(value):
        raise ValueError('must be the code of a language, such as en or zh (Norwegian in quotes: "no")')
    return value


@validated_dataclass(frozen=True, config=NO_OTHER_KEYS)
class _TaskEntry(Section):
    """A task as a file writes it."""

    unsupported: ClassVar[Mapping[str, str]] = UNSUPPORTED

    task: Annotated[StrictStr, one_of(dict.fromkeys(task.NAME for task in TASKS))]
    dataset_path: Text
    label: StrictStr = ""
    dataset_name: StrictStr | None = None
    test_split: StrictStr = "test"
    columns: dict[StrictStr, Columns] = field(default_factory=dict)
    doc_to_text: Annotated[StrictStr, AfterValidator(_check_prompt)] | None = None
    max_new_tokens: PositiveInteger | None = None
    limit: PositiveInteger | None = None
    condition: Condition | None = None
    max_unreadable: Share = 0.01
    language: Annotated[Any, AfterValidator(_check_language)] = None
    doc_to_target: Column = None
    doc_to_choice: Choices = None
    generation_kwargs: GenerationKwargs = field(default_factory=GenerationKwargs)
    metric_list: list[MetricEntry] = field(default_factory=list)
    metadata: Metadata = field(default_factory=Metadata)

    @classmethod
    def mistakes(cls, values: Mapping[str, Any], context: Any) -> Iterator[Mistake]:
        """Columns that are not ours or are given twice, the bound given twice, and what the metric can't be."""
        columns = values.get("columns")
        for key in columns if isinstance(columns, dict) else ():
            if key not in COLUMN_KEYS:
                yield ("columns", key), f"unknown key; known: {', '.join(COLUMN_KEYS)}"
        for key, ours in _column_keys(values).items():
            if isinstance(columns, dict) and ours in columns:
                yield (key,), f"columns maps {ours} too; leave one of them out"
        generation = values.get("generation_kwargs")
        generation = generation if isinstance(generation, dict) else {}
        if ("max_gen_toks" in generation) + ("max_new_tokens" in generation) + ("max_new_tokens" in values) > 1:
            yield ("generation_kwargs",), "the bound on an answer is given twice; leave one of them out"
        yield from metric_mistakes(values)

    def config(self) -> TaskConfig:
        """What is done."""
        columns: dict[str, ColumnRef] = dict(self.columns)
        written = {key: getattr(self, key) for key in _COLUMN_KEYS if getattr(self, key) is not None}
        for key, ours in _column_keys({"task": self.task, **written}).items():
            columns[ours] = Constant(self.language) if key == "language" else written[key]
        # The columns of a row are filled into the question; the question is then the whole prompt.
        prompt = "{question}" if self.doc_to_text and is_row_template(self.doc_to_text) else self.doc_to_text
        generation = self.generation_kwargs
        metric = self.metric_list[0].metric if self.metric_list else None
        is_usual = metric is None or metric == task_named(self.task).METRIC
        return TaskConfig(
            task=self.task,
            label=self.label,
            dataset_path=self.dataset_path,
            dataset_name=self.dataset_name,
            test_split=self.test_split,
            columns=columns,
            doc_to_text=prompt,
            max_new_tokens=self.max_new_tokens or generation.max_gen_toks or generation.max_new_tokens,
            limit=self.limit,
            condition=self.condition,
            metric=None if is_usual else metric,
            version=None if self.metadata.version is None else str(self.metadata.version),
            max_unreadable=self.max_unreadable,
        )


# The keys that name a column, beside `columns`.
_COLUMN_KEYS = ("doc_to_target", "doc_to_choice", "language", "doc_to_text")


def _column_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Of `_COLUMN_KEYS` those that `values` has, each with our name of what it holds."""
    text = values.get("doc_to_text")
    found = {}
    if "doc_to_target" in values and metric_of({"task": values.get("task")}) is not None:
        found["doc_to_target"] = task_named(values["task"]).TARGET
    if "doc_to_choice" in values:
        found["doc_to_choice"] = "choices"
    if "language" in values:
        found["language"] = "language"
    if isinstance(text, str) and is_row_template(text):
        found["doc_to_text"] = "question"
    return found


@validated_dataclass(frozen=True, config=NO_OTHER_KEYS)
class _EvalsFile(Section):
    """An evals file."""

    search: list[_TaskEntry] = field(default_factory=list)
    report: list[_TaskEntry] = field(default_factory=list)

    @classmethod
    def mistakes(cls, values: Mapping[str, Any], context: Any) -> Iterator[Mistake]:
        """Nothing to search on, and tasks whose metrics have the same name."""
        if not values.get("search"):
            yield ("search",), "search needs at least one task"
        for split in SPLITS:
            entries = values.get(split)
            seen = set()
            for number, entry in enumerate(entries if isinstance(entries, list) else ()):
                metric = metric_of(entry) if isinstance(entry, dict) else None
                if metric is None or not isinstance(entry.get("label", ""), str):
                    continue
                name = (metric, entry.get("label", ""))
                if name in seen:
                    yield (split, number), f"a second task with {metric} needs a label of its own"
                seen.add(name)


def load_evals(path: Path) -> EvalsConfig:
    """Read an evals file: the splits `search` and `report`, each a list of tasks."""
    file = read_yaml(path)
    if "task" in file.document or "dataset_path" in file.document:
        raise InputError("is one task; put it in the list of a split, as `search: [{task: asr, ...}]`", where=path)
    parsed = file.parse(_EvalsFile)
    splits = {split: tuple(entry.config() for entry in getattr(parsed, split)) for split in SPLITS}
    return EvalsConfig(path=path, splits=splits)


def task_of(config: TaskConfig) -> Task:
    """The task that scores `config`."""
    return task_named(config.task, config.metric)


def metric_name(config: TaskConfig) -> str:
    """`wer`, or `wer.noisy` for a task labelled noisy."""
    metric = task_of(config).METRIC
    return f"{metric}.{config.label}" if config.label else metric
