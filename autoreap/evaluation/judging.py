"""What one answer is worth: its counts, and whether and why it failed."""

from dataclasses import dataclass

import torch

from autoreap.data.samples import Sample
from autoreap.data.tasks import Task
from autoreap.evaluation.draft_rows import Answer
from autoreap.evaluation.outcomes import Outcome
from autoreap.models.families.chat_inputs import ChatInputs

# Why an answer has failed.
NOT_A_NUMBER, RUNAWAY, EMPTY, UNPARSEABLE = "not a number", "runaway", "empty", "unparseable"


@dataclass(frozen=True)
class Judge:
    """Judges answers that were decoded with `inputs`."""

    inputs: ChatInputs

    def judge(self, task: Task, sample: Sample, answer: Answer) -> Outcome:
        """The outcome of one row."""
        output = ""
        if answer.is_number:
            output = self.inputs.decode(torch.tensor(answer.tokens))
        reference = task.reference(sample)
        counts, is_unparseable = task.judge(sample, output)
        reason = self._failure(answer, output, reference)
        if reason is None and is_unparseable:
            reason = UNPARSEABLE
        if reason == RUNAWAY and counts == task.judge(sample, reference)[0]:
            # Right so far, but it went on without an end: a listener would have had no answer.
            counts, _ = task.judge(sample, "")
        return Outcome(sample.id, output, reference, counts, reason is not None, reason, sample.language)

    def _failure(self, answer: Answer, output: str, reference: str) -> str | None:
        """Why an answer has failed, whatever its task; None if it has not."""
        if not answer.is_number:
            return NOT_A_NUMBER
        if answer.tokens[-1] != self.inputs.end_token_id:
            return RUNAWAY
        if reference and not output:
            return EMPTY
        return None
