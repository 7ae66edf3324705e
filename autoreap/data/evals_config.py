"""A file of evals/ -> the tasks of each split. All mistakes are reported at once, each with its line."""

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, StrictStr
from pydantic.dataclasses import dataclass as validated_dataclass

from autoreap.data.columns import KEYS as COLUMN_KEYS
from autoreap.data.columns import ColumnRef, Constant
from autoreap.data.conditions import Condition
from autoreap.data.languages import language_mistake
from autoreap.data.lm_eval_keys import (
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
from autoreap.data.row_templates import check_template, is_row_template
from autoreap.data.tasks import TASKS, Task, task_named
from autoreap.data.yaml_file import read_yaml
from autoreap.errors import InputError
from autoreap.validation import NO_OTHER_KEYS, Mistake, PositiveInteger, Section, Share, Text, mapping_or_empty, one_of

SPLITS = ("search", "report")
_FILLED_IN = ("question", "choices", "lettered")


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
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("holds half a character")
    if is_row_template(text):
        check_template(text)
        return text
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"is no template ({error})") from None
    for _, name, form, conversion in parts:
        # A width such as {question:>1000000000} would be filled with spaces. A text alone has no name.
        if name is not None and (name not in _FILLED_IN or form or conversion):
            raise ValueError("may use {question}, {choices} and {lettered} alone")
    return text


def _check_language(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('must be the code of a language, such as en or zh (Norwegian in quotes: "no")')
    if (mistake := language_mistake(value)) is not None:
        raise ValueError(mistake)
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
        columns = mapping_or_empty(values.get("columns"))
        for key in columns:
            if key not in COLUMN_KEYS:
                yield ("columns", key), f"unknown key; known: {', '.join(COLUMN_KEYS)}"
        for key, ours in _column_keys(values).items():
            if ours in columns:
                yield (key,), f"columns maps {ours} too; leave one of them out"
        generation = mapping_or_empty(values.get("generation_kwargs"))
        bounds = ["max_new_tokens" in values, "max_new_tokens" in generation, "max_gen_toks" in generation]
        if sum(bounds) > 1:
            yield ("generation_kwargs",), "the bound on an answer is given twice; leave one of them out"
        yield from metric_mistakes(values)

    def config(self) -> TaskConfig:
        """What is done."""
        task = task_named(self.task)
        columns: dict[str, ColumnRef] = dict(self.columns)
        if self.doc_to_target is not None:
            columns[task.TARGET] = self.doc_to_target
        if self.doc_to_choice is not None:
            columns["choices"] = self.doc_to_choice
        if self.language is not None:
            columns["language"] = Constant(self.language)
        prompt = self.doc_to_text
        if prompt is not None and is_row_template(prompt):
            # The columns of a row are filled into the question; the question is then the whole prompt.
            columns["question"] = prompt
            prompt = "{question}"
        metric = None
        if self.metric_list and self.metric_list[0].metric != task.METRIC:
            metric = self.metric_list[0].metric
        version = self.metadata.version
        if version is not None:
            version = str(version)
        generation = self.generation_kwargs
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
            metric=metric,
            version=version,
            max_unreadable=self.max_unreadable,
        )


def _column_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """The keys of `values` that name a column beside `columns`, each with our name of what it holds."""
    found = {"doc_to_choice": "choices", "language": "language"}
    for task in TASKS:
        if values.get("task") == task.NAME:
            found["doc_to_target"] = task.TARGET
    text = values.get("doc_to_text")
    if isinstance(text, str) and is_row_template(text):
        found["doc_to_text"] = "question"
    return {key: ours for key, ours in found.items() if key in values}


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
            if not isinstance(entries, list):
                continue
            seen = []
            for number, entry in enumerate(entries):
                entry = mapping_or_empty(entry)
                metric, label = metric_of(entry), entry.get("label", "")
                # Why there is no metric is a mistake of its own.
                if metric is not None and (metric, label) in seen:
                    yield (split, number), f"a second task with {metric} needs a label of its own"
                seen.append((metric, label))


def load_evals(path: Path) -> EvalsConfig:
    """Read an evals file: the splits `search` and `report`, each a list of tasks."""
    file = read_yaml(path)
    if "task" in file.document or "dataset_path" in file.document:
        raise InputError("is one task; put it in the list of a split, as `search: [{task: asr, ...}]`", where=path)
    parsed = file.parse(_EvalsFile)
    search = tuple(entry.config() for entry in parsed.search)
    report = tuple(entry.config() for entry in parsed.report)
    return EvalsConfig(path=path, splits={"search": search, "report": report})


def task_of(config: TaskConfig) -> Task:
    """The task that scores `config`."""
    return task_named(config.task, config.metric)


def metric_name(config: TaskConfig) -> str:
    """`wer`, or `wer.noisy` for a task labelled noisy."""
    metric = task_of(config).METRIC
    if not config.label:
        return metric
    return f"{metric}.{config.label}"
