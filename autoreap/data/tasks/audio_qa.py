"""Questions about what is heard (or seen): multiple choice, yes or no, or a short answer, scored by accuracy."""

import string

from autoreap.data.samples import Sample
from autoreap.data.tasks.answers import chosen, readings, same, yes_or_no
from autoreap.scores import Counts

NAME = "audio_qa"
METRIC = "accuracy"
AGGREGATION = "mean"
DIRECTION = "maximize"
MARGIN = 0.01
REQUIRED: tuple[str, ...] = ("question", "answer")
TARGET = "answer"
QUESTION = "{question}\n{lettered}"


def reference(sample: Sample) -> str:
    """The answer."""
    return sample.answer or ""


def question(sample: Sample, template: str) -> str:
    """The row's question in `template`: `{choices}` lists the choices in a line, `{lettered}` as A., B., ... below.

    The template is for rows with choices, or whose question is heard; any other question is asked as it stands.
    """
    if sample.question and not sample.choices:
        return sample.question
    lettered = "\n".join(
        f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, sample.choices, strict=False)
    )
    return template.format(question=sample.question or "", choices=", ".join(sample.choices), lettered=lettered)


def judge(sample: Sample, output: str) -> tuple[Counts, bool]:
    """(1 if right, 1). A choice may be named by its text or its letter; what can't be read is wrong, and has failed."""
    named: bool | int | None
    if sample.choices:
        named = chosen(sample.choices, output, sample.language)
        accepted = {chosen(sample.choices, answer, sample.language) for answer in (reference(sample), *sample.answers)}
        right = named is not None and named in accepted
    elif (expected := yes_or_no(reference(sample))) is not None:
        named = yes_or_no(output)
        right = named is expected
    else:
        named = True if output.strip() else None
        right = named is not None and _is_right(sample, output)
    return Counts(int(right), 1), named is None


def _is_right(sample: Sample, output: str) -> bool:
    """Whether a short answer is one of those that count as right."""
    accepted = (reference(sample), *sample.answers)
    return any(same(reading, answer, sample.language) for reading in (output, *readings(output)) for answer in accepted)
