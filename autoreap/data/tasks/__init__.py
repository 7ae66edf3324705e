"""What a model is scored on. To add a task, write its file beside this one and list it here."""

import re
from typing import Protocol

from autoreap.data.samples import Sample
from autoreap.data.tasks import asr, asr_characters, audio_qa
from autoreap.scores import Counts


class Task(Protocol):
    """What a module in this folder provides.

    Attributes:
        NAME: as `task:` in an evals file.
        METRIC: the metric it yields; of several tasks of one NAME, `metric_list` picks by it.
        AGGREGATION: as lm-eval calls how counts become the metric: `mean`, or the metric's own name for a rate of sums.
        DIRECTION: `minimize` or `maximize`.
        MARGIN: the loss against the unpruned model that counts as none, unless a space states another.
        REQUIRED: the keys its rows must have.
        TARGET: the key of what a perfect model answers.
        QUESTION: what is asked where neither the row nor the evals file says.
    """

    NAME: str
    METRIC: str
    AGGREGATION: str
    DIRECTION: str
    MARGIN: float
    REQUIRED: tuple[str, ...]
    TARGET: str
    QUESTION: str

    def reference(self, sample: Sample) -> str:
        """What a perfect model answers."""
        ...

    def question(self, sample: Sample, template: str) -> str:
        """What the user says beside the media."""
        ...

    def judge(self, sample: Sample, output: str) -> tuple[Counts, bool]:
        """The counts of one output, and whether it failed: could not be parsed. A failure never counts as right."""
        ...


TASKS: tuple[Task, ...] = (asr, asr_characters, audio_qa)


def task_named(name: str, metric: str | None = None) -> Task:
    """The task of that NAME that yields `metric`; None takes the first, which is the usual one."""
    return next(task for task in TASKS if name == task.NAME and metric in (None, task.METRIC))


def task_of_metric(metric: str) -> Task | None:
    """The first task that yields `metric`."""
    for task in TASKS:
        if base_name(metric) == task.METRIC:
            return task
    return None


def base_name(metric: str) -> str:
    """`metric` without its label and its language: `wer` of `wer.noisy/zh`."""
    return re.split("[./]", metric)[0]
