"""Run tasks on a (masked) model -> `Evaluation`.

What no candidate can change is computed once: prompts, features, and the audio tower's embeddings. A candidate
costs the text decoder alone. Most candidates repeat most of what the unpruned model answers, so that is handed to the
decoder as a draft (`autoreap.drafting`); until the unpruned model has answered, the references are.

Shape legend: A audio tokens, H hidden.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from autoreap.dataset import read_dataset
from autoreap.drafting import Answer, DraftedDecoder, Prompt
from autoreap.errors import InputError
from autoreap.evals_config import EvalsConfig, TaskConfig
from autoreap.families.chat_inputs import ChatInputs, Encoded
from autoreap.masking import family_of_model, masked
from autoreap.outcomes import Evaluation, Outcome
from autoreap.plan import PruningPlan
from autoreap.progress import Progress
from autoreap.prompts import audio_of, embedded
from autoreap.samples import Sample, contents
from autoreap.tasks import Task, task_named

# An answer may be this much longer than its reference before it counts as a runaway and is stopped.
_RUNAWAY_FACTOR, _RUNAWAY_SPARE = 2, 8
DEFAULT_BATCH_SIZE = 32

Watch = Callable[[str, Outcome], None]  # metric, outcome


@dataclass(frozen=True)
class _Item:
    """One prompt, ready to run. `audio` is [A, H]; `max_new_tokens` bounds the answer."""

    sample: Sample
    encoded: Encoded
    audio: torch.Tensor | None
    max_new_tokens: int

    def prompt(self, draft: Sequence[int]) -> Prompt:
        """As the decoder takes it."""
        return Prompt(self.sample.id, len(self.encoded.input_ids), self.max_new_tokens, tuple(draft))


class Evaluator:
    """Scores plans on one split of an evals file; made once for a model, run once for a candidate.

    Args:
        model: a stock model, whole or thinker alone.
        inputs: its inputs.
        evals: the tasks.
        split: `search` or `report`.
        batch_size: utterances decoded together; less from where memory runs out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: ChatInputs,
        evals: EvalsConfig,
        *,
        split: str = "search",
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        self._model = model
        self._family = family_of_model(model)
        self._inputs = inputs
        self._decoder = DraftedDecoder(self._family, model, end_token=inputs.end_token_id, batch_size=batch_size)
        tasks = evals.splits[split]
        if not tasks:
            raise InputError(f"split {split!r} has no tasks", where=evals.path)
        self._tasks: list[tuple[str, Task, list[_Item]]] = []
        sets = [(config, task_named(config.task), read_task(config, evals.path.parent)) for config in tasks]
        with Progress(f"preparing {split}", sum(len(samples) for _, _, samples in sets)) as progress:
            for config, task, samples in sets:
                self._tasks.append((metric_name(config), task, self._prepare(config, task, samples, progress)))
        self._drafts: dict[str, list[list[int]]] = {}
        self._draft({metric: [task.reference(item.sample) for item in items] for metric, task, items in self._tasks})

    @property
    def num_answers(self) -> int:
        """Utterances and questions of one run."""
        return sum(len(items) for _, _, items in self._tasks)

    @torch.inference_mode()
    def run(self, plan: PruningPlan | None = None, watch: Watch | None = None) -> Evaluation:
        """Score the model under `plan`, or as it is; what it answers as it is drafts the answers of later runs.

        `watch` is told each outcome as soon as it is there, in no particular order; what it raises ends the run.
        """
        started = time.monotonic()
        with masked(self._model, plan) if plan is not None else nullcontext():
            outcomes = {metric: self._run_task(metric, task, items, watch) for metric, task, items in self._tasks}
        if plan is None:
            self.draft_from(outcomes)
        return Evaluation(outcomes=outcomes, seconds=time.monotonic() - started)

    def draft_from(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Take these answers as drafts from now on.

        No answer depends on its draft but by rounding: where other drafts are accepted, the passes have other shapes.
        """
        self._draft({metric: [outcome.output for outcome in listed] for metric, listed in outcomes.items()})

    def _draft(self, texts: Mapping[str, Sequence[str]]) -> None:
        self._drafts = {metric: [self._inputs.text_tokens(text) for text in listed] for metric, listed in texts.items()}

    @torch.inference_mode()
    def _prepare(self, config: TaskConfig, task: Task, samples: Sequence[Sample], progress: Progress) -> list[_Item]:
        items = []
        for sample in samples:
            encoded = self._inputs.encode(sample, task.question(sample, config.doc_to_text or task.QUESTION))
            audio = audio_of(self._family, self._model, encoded)
            num_reference_tokens = self._inputs.num_text_tokens(task.reference(sample))
            bound = config.max_new_tokens or _RUNAWAY_FACTOR * num_reference_tokens + _RUNAWAY_SPARE
            items.append(_Item(sample, encoded, None if audio is None else audio.cpu(), bound))
            progress.advance()
        return items

    def _run_task(self, metric: str, task: Task, items: Sequence[_Item], watch: Watch | None) -> tuple[Outcome, ...]:
        """Outcomes in the order of `items`."""
        outcomes: dict[int, Outcome] = {}

        def judged(number: int, answer: Answer) -> None:
            outcomes[number] = self._judge(task, items[number], answer)
            if watch:
                watch(metric, outcomes[number])

        self._decoder.decode(
            [item.prompt(draft) for item, draft in zip(items, self._drafts[metric], strict=True)],
            lambda numbers: self._embedded([items[number] for number in numbers]),
            on_answer=judged,
        )
        return tuple(outcomes[number] for number in range(len(items)))

    def _embedded(self, items: Sequence[_Item]) -> dict[str, torch.Tensor]:
        encoded, audio = [item.encoded for item in items], [item.audio for item in items]
        return embedded(self._family, self._model, self._inputs, encoded, audio)

    def _judge(self, task: Task, item: _Item, answer: Answer) -> Outcome:
        output = self._inputs.decode(torch.tensor(answer.tokens))
        runaway = answer.tokens[-1] != self._inputs.end_token_id
        counts, failed = task.judge(item.sample, output)
        return Outcome(item.sample.id, output, task.reference(item.sample), counts, failed or runaway)


def metric_name(config: TaskConfig) -> str:
    """`wer`, or `wer.noisy` for a task labelled noisy."""
    metric = task_named(config.task).METRIC
    return f"{metric}.{config.label}" if config.label else metric


def read_task(config: TaskConfig, folder: Path) -> list[Sample]:
    """The rows of one task, checked to have what the task needs."""
    return read_dataset(config, folder, task_named(config.task).REQUIRED)


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
