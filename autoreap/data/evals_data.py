"""The rows behind an evals file: read and digested, and its splits kept apart."""

import hashlib
from dataclasses import replace
from pathlib import Path

from autoreap.config.evals import EvalsConfig, TaskConfig, metric_name, task_of
from autoreap.data.dataset import read_dataset
from autoreap.errors import InputError
from autoreap.media.samples import Sample, contents, digest


def read_task(config: TaskConfig, folder: Path) -> list[Sample]:
    """The rows of one task, checked to have what the task needs."""
    return read_dataset(config, folder, task_of(config).REQUIRED)


def seeing(evals: EvalsConfig, split: str) -> dict[str, str]:
    """The metrics of the tasks of a split that show an image or a video, each with its first row that does."""
    found: dict[str, str] = {}
    for task in evals.splits[split]:
        for sample in read_task(task, evals.path.parent):
            if sample.image or sample.video:
                found.setdefault(metric_name(task), sample.where)
    return found


def check_splits_apart(evals: EvalsConfig) -> None:
    """Raise `InputError` if an utterance of the search split is in the report split too.

    A front chosen on an utterance can't be judged on it: the choice has already fitted its noise.
    """
    seen: dict[str, Sample] = {}
    for config in evals.splits["search"]:
        for sample in read_task(config, evals.path.parent):
            seen |= dict.fromkeys(contents(sample), sample)
    for config in evals.splits["report"]:
        for sample in read_task(config, evals.path.parent):
            if twin := next((seen[content] for content in contents(sample) if content in seen), None):
                raise InputError(
                    f"is in the search split too, at {twin.where}; what a candidate was chosen on can't judge it",
                    where=sample.where,
                    fix="take it out of one of the two",
                )


def evals_digest(evals: EvalsConfig, split: str = "search") -> str:
    """Sixteen hex digits of a split: its rows, media and prompts."""
    total = hashlib.sha256()
    for config in evals.splits[split]:
        total.update(repr(replace(config, dataset_path="", condition=None)).encode())
        total.update(config.condition.identity().encode() if config.condition else b"")
        total.update(digest(read_task(config, evals.path.parent)).encode())
    return total.hexdigest()[:16]
