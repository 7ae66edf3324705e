"""The tasks and rows of an evals file. Each split is opened once, and handed on."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from autoreap.data.dataset import read_dataset
from autoreap.data.evals_config import EvalsConfig, TaskConfig, load_evals, metric_name, task_of
from autoreap.data.samples import Sample, contents, digest
from autoreap.data.tasks import Task
from autoreap.errors import InputError


@dataclass(frozen=True)
class EvalTask:
    """One task with its rows."""

    config: TaskConfig
    samples: tuple[Sample, ...]

    @property
    def metric(self) -> str:
        """The metric it yields, with its label: `wer.noisy`."""
        return metric_name(self.config)

    @property
    def task(self) -> Task:
        """What asks and judges."""
        return task_of(self.config)

    @cached_property
    def digest(self) -> str:
        """Of the rows and their media."""
        return digest(self.samples)


@dataclass(frozen=True)
class EvalSet:
    """One split of an evals file: its tasks with their rows."""

    path: Path
    split: str
    tasks: tuple[EvalTask, ...]

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of all that is asked: rows, media and prompts."""
        total = hashlib.sha256()
        # Where the data lie does not count, and a condition counts by what it does.
        for task in self.tasks:
            total.update(repr(replace(task.config, dataset_path="", condition=None)).encode())
            if task.config.condition:
                total.update(task.config.condition.identity().encode())
            total.update(task.digest.encode())
        return total.hexdigest()[:16]

    def visual_metrics(self) -> dict[str, str]:
        """The metrics of tasks that show an image or a video, each with the first row that does."""
        found: dict[str, str] = {}
        for task in self.tasks:
            for sample in task.samples:
                if sample.image or sample.video:
                    found.setdefault(task.metric, sample.where)
        return found

    def without(self, metrics: Collection[str]) -> "EvalSet":
        """The same without the tasks of `metrics`."""
        return replace(self, tasks=tuple(task for task in self.tasks if task.metric not in metrics))


class Evals:
    """An evals file whose splits are read when they are first needed, each once."""

    def __init__(self, config: EvalsConfig) -> None:
        self.config = config

    @property
    def path(self) -> Path:
        """The evals file."""
        return self.config.path

    @cached_property
    def search(self) -> EvalSet:
        """The split that candidates are scored on."""
        return open_eval_set(self.config, "search")

    @cached_property
    def report(self) -> EvalSet:
        """The split that judges what was chosen."""
        return open_eval_set(self.config, "report")

    def check_splits_apart(self) -> None:
        """Raise `InputError` if an utterance of the search split is in the report split too.

        A front chosen on an utterance can't be judged on it: the choice has already fitted its noise.
        """
        seen: dict[str, Sample] = {}
        for task in self.search.tasks:
            for sample in task.samples:
                for content in contents(sample):
                    seen[content] = sample
        for task in self.report.tasks:
            for sample in task.samples:
                for content in contents(sample):
                    if content not in seen:
                        continue
                    where = seen[content].where
                    raise InputError(
                        f"is in the search split too, at {where}; it can't judge what was chosen on it",
                        where=sample.where,
                        fix="take it out of one of the two",
                    )


def open_evals(path: Path) -> Evals:
    """The evals file `path`; its rows are read when they are needed."""
    return Evals(load_evals(path))


def open_eval_set(config: EvalsConfig, split: str) -> EvalSet:
    """One split of `config` with its rows.

    Raises:
        InputError: a data set is not there, or a row lacks what its task needs.
    """
    tasks = []
    for task in config.splits[split]:
        tasks.append(EvalTask(task, tuple(read_task(task, config.path.parent))))
    return EvalSet(config.path, split, tuple(tasks))


def read_task(config: TaskConfig, folder: Path) -> list[Sample]:
    """The rows of one task, checked to have what the task needs; paths are relative to `folder`."""
    task = task_of(config)
    samples = read_dataset(config, folder, task.REQUIRED)
    for sample in samples:
        # What the task can't read in the reference, no model could answer.
        if sample.choices and task.judge(sample, task.reference(sample))[1]:
            raise InputError(
                f"answer {task.reference(sample)!r} is none of its choices: {', '.join(sample.choices)}",
                where=sample.where,
                fix="name a choice by its text, its letter, or its place as a number from 0",
            )
    return samples
