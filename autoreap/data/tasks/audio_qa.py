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
    lettered = []
    for letter, text in zip(string.ascii_uppercase, sample.choices, strict=False):
        lettered.append(f"{letter}. {text}")
    return template.format(
        question=sample.question or "", choices=", ".join(sample.choices), lettered="\n".join(lettered)
    )


def judge(sample: Sample, output: str) -> tuple[Counts, bool]:
    """(1 if right, 1). A choice may be named by its text or its letter; what can't be read is wrong, and has failed."""
    accepted = (reference(sample), *sample.answers)
    if sample.choices:
        named = chosen(sample.choices, output, sample.language)
        numbers = {chosen(sample.choices, answer, sample.language) for answer in accepted}
        can_be_read = named is not None
        right = can_be_read and named in numbers
    elif (expected := yes_or_no(reference(sample))) is not None:
        said = yes_or_no(output)
        can_be_read = said is not None
        right = said is expected
    else:
        can_be_read = bool(output.strip())
        right = can_be_read and _is_one_of(accepted, output, sample.language)
    return Counts(int(right), 1), not can_be_read


def _is_one_of(accepted: tuple[str, ...], output: str, language: str | None) -> bool:
    """Whether a short answer is one of those that count as right."""
    for reading in (output, *readings(output)):
        for answer in accepted:
            if same(reading, answer, language):
                return True
    return False
