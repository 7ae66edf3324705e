"""Run tasks on a (masked) model -> `Evaluation`.

What no candidate can change is computed once (`scoring.preparing`), so a candidate costs the text decoder alone. Most
candidates repeat most of what the unpruned model answers, so that is handed to the decoder as a draft
(`scoring.drafting`); until the unpruned model has answered, the references are.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from autoreap.config.evals import EvalsConfig, metric_name, task_of
from autoreap.data.evals_data import read_task
from autoreap.errors import InputError, ScoringError
from autoreap.families.chat_inputs import ChatInputs, Encoded
from autoreap.masking import family_of_model, masked
from autoreap.media.samples import Sample, spread
from autoreap.outcomes import Evaluation, Outcome
from autoreap.plan import PruningPlan
from autoreap.progress import Progress
from autoreap.scores import Nats, Score
from autoreap.scoring.draft_rows import Answer
from autoreap.scoring.drafting import DraftedDecoder
from autoreap.scoring.preparing import Item, Preparer
from autoreap.scoring.screening import DEFAULT_SHARE, Row, screened, surprises
from autoreap.scoring.tensor_store import DEFAULT_MEMORY_BYTES, TensorStore
from autoreap.tasks import Task

# Where memory runs out it is halved, and the largest batch comes first. A CPU is as fast with few rows as with many.
_BATCH_SIZE = {"cpu": 32}
_BATCH_SIZE_OF_ACCELERATORS = 256
# So many rows are decoded in chunks, each of a tenth of them or of some batches; see `random_chunks`.
CHUNKED_FROM = 1000
_NUM_CHUNKS, _BATCHES_IN_CHUNK = 10, 4
# Why an answer has failed.
NOT_A_NUMBER, RUNAWAY, EMPTY, UNPARSEABLE = "not a number", "runaway", "empty", "unparseable"

Watch = Callable[[str, Outcome], None]  # metric, outcome
Look = Callable[[str], None]  # metric


class Evaluator:
    """Scores plans on one split of an evals file; made once for a model, run once for a candidate.

    Args:
        model: a stock model, whole or thinker alone.
        inputs: its inputs.
        evals: the tasks.
        split: `search` or `report`.
        batch_size: utterances decoded together; less from where memory runs out. None: by the device.
        memory_bytes: how much of what media are embedded as is held in memory; the rest is on disk.
        check: is called between the passes that measure likelihoods; what it raises ends the run. Answers have `watch`.

    Raises:
        InputError: the split has no tasks, or too many rows of one can't be read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: ChatInputs,
        evals: EvalsConfig,
        *,
        split: str = "search",
        batch_size: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._check = check
        family = family_of_model(model)
        self.batch_size = batch_size or _BATCH_SIZE.get(family.device(model).type, _BATCH_SIZE_OF_ACCELERATORS)
        self._preparer = Preparer(family, model, inputs, TensorStore(memory_bytes))
        self._decoder = DraftedDecoder(family, model, end_token=inputs.end_token_id, batch_size=self.batch_size)
        tasks = evals.splits[split]
        if not tasks:
            raise InputError(f"split {split!r} has no tasks", where=evals.path)
        self._configs, self._folder = tasks, evals.path.parent
        self._tasks: list[tuple[str, Task, Sequence[Item]]] = []
        self._unreadable: dict[str, int] = {}
        sets = [(config, task_of(config), read_task(config, evals.path.parent)) for config in tasks]
        with Progress(f"preparing {split}", sum(len(samples) for _, _, samples in sets)) as progress:
            for config, task, samples in sets:
                metric = metric_name(config)
                items, unreadable = self._preparer.items(config, samples, progress)
                self._tasks.append((metric, task, items))
                self._unreadable[metric] = len(unreadable)
        self._references = {
            metric: [inputs.text_tokens(task.reference(item.sample)) for item in items]
            for metric, task, items in self._tasks
        }
        self._drafts = self._references

    @property
    def num_answers(self) -> int:
        """Utterances and questions of one run."""
        return sum(len(items) for _, _, items in self._tasks)

    @property
    def metrics(self) -> list[str]:
        """What the tasks yield, in their order."""
        return [metric for metric, _, _ in self._tasks]

    @property
    def ids(self) -> dict[str, list[str]]:
        """By metric, the rows that a run answers, in the order of its outcomes."""
        return {metric: [item.sample.id for item in items] for metric, _, items in self._tasks}

    @property
    def num_unreadable(self) -> Mapping[str, int]:
        """By metric, the rows whose media can't be read."""
        return self._unreadable

    @torch.inference_mode()
    def run(
        self,
        plan: PruningPlan | None = None,
        watch: Watch | None = None,
        *,
        look: Look | None = None,
        first: Collection[str] = (),
        likelihoods: bool = False,
    ) -> Evaluation:
        """Score the model under `plan`, or as it is; what it answers as it is drafts the answers of later runs.

        Args:
            plan: what to mask.
            watch: is told each outcome as soon as it is there, in no particular order; what it raises ends the run.
            look: is told of a metric whenever the outcomes so far are those of rows drawn at random; the same holds.
            first: metrics to begin with.
            likelihoods: measure those of the references, too: with the answer where the reference is its draft, and in
                a pass more where it is not.
        """
        started = time.monotonic()
        known: dict[Row, float] | None = {} if likelihoods else None
        nats: Mapping[str, Sequence[Nats]] = {}
        outcomes: dict[str, tuple[Outcome, ...]] = {metric: () for metric, _, _ in self._tasks}
        with masked(self._model, plan) if plan is not None else nullcontext():
            for metric, task, items in sorted(self._tasks, key=lambda entry: entry[0] not in first):
                outcomes[metric] = self._run_task(metric, task, items, watch, look, known)
            if known is not None:
                every = [(metric, number) for metric, _, items in self._tasks for number in range(len(items))]
                known |= self._log_likelihoods([row for row in every if row not in known])
                nats = surprises({row: known[row] for row in every}, self._references, self._inputs.num_tokens)
        if plan is None:
            self.draft_from(outcomes)
        return Evaluation(outcomes, time.monotonic() - started, self._unreadable, nats)

    @torch.inference_mode()
    def screen(
        self, plan: PruningPlan | None = None, share: float = DEFAULT_SHARE, metrics: Collection[str] | None = None
    ) -> dict[str, Score]:
        """By metric, how unlikely the references of its rows are under `plan`: nats a token, less is better.

        One forward pass over a `share` of each task's rows, the same rows for every plan; nothing is decoded.
        `metrics` names the tasks; None takes all.

        Raises:
            ScoringError: the model's output is not a number for any row of a task.
        """
        rows = [
            (metric, number)
            for metric, _, items in self._tasks
            if metrics is None or metric in metrics
            for number in spread(_lengths(items), max(1, round(share * len(items))))
        ]
        with masked(self._model, plan) if plan is not None else nullcontext():
            return screened(self._log_likelihoods(rows), self._references, self._inputs.num_tokens)

    def _log_likelihoods(self, rows: Sequence[Row]) -> dict[Row, float]:
        """Of the reference of each row, and of the end after it."""
        items = {metric: items for metric, _, items in self._tasks}
        chosen = [items[metric][number] for metric, number in rows]
        prompts = [item.prompt(self._references[m][n]) for item, (m, n) in zip(chosen, rows, strict=True)]
        values = self._decoder.log_likelihoods(prompts, partial(self._embedded, chosen), self._check)
        return dict(zip(rows, values, strict=True))

    def prompts(self, most: int) -> list[tuple[Encoded, int]]:
        """Prompts with the features of their audio, and the bound on their answers' tokens; spread over their lengths.

        Features are not kept, so these few recordings are read again.
        """
        heard = [(config, item) for config, (_, _, items) in zip(self._configs, self._tasks, strict=True)
                 for item in items if item.audio is not None]  # fmt: skip
        chosen = spread(_lengths([item for _, item in heard]), min(most, len(heard)))
        rows: dict[str, dict[str, Sample]] = {}  # each task's are read once
        prompts = []
        for config, item in (heard[number] for number in chosen):
            if metric_name(config) not in rows:
                rows[metric_name(config)] = {row.id: row for row in reversed(read_task(config, self._folder))}
            sample = rows[metric_name(config)][item.sample.id]
            prompts.append((self._preparer.encoded(config, sample), item.max_new_tokens))
        return prompts

    def draft_from(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Take these answers as drafts from now on.

        No answer depends on its draft but by rounding: where other drafts are accepted, the passes have other shapes.

        Raises:
            InputError: other rows were answered than can be read now; scores of the two could not be compared.
        """
        for metric, _, items in self._tasks:
            answered, readable = [o.id for o in outcomes.get(metric, ())], [item.sample.id for item in items]
            if answered != readable:
                different = sorted(set(answered) ^ set(readable))
                raise InputError(
                    f"{len(answered)} rows were answered, {len(readable)} can be read now: {', '.join(different[:3])}",
                    where=metric,
                    fix="see that the media can be read as they could be then",
                )
        self._drafts = {
            metric: [self._inputs.text_tokens(outcome.output) for outcome in listed]
            for metric, listed in outcomes.items()
        }

    def _run_task(
        self,
        metric: str,
        task: Task,
        items: Sequence[Item],
        watch: Watch | None,
        look: Look | None,
        known: dict[Row, float] | None,
    ) -> tuple[Outcome, ...]:
        """Outcomes in the order of `items`; `known` takes the likelihoods of references that were drafts."""
        drafts, references = self._drafts[metric], self._references[metric]
        outcomes: dict[int, Outcome] = {}

        def judged(chunk: Sequence[int], place: int, answer: Answer) -> None:
            number = chunk[place]
            outcomes[number] = self._judge(task, items[number], answer)
            likelihood = answer.draft_log_likelihood
            if known is not None and likelihood is not None and drafts[number] == references[number]:
                known[metric, number] = likelihood
            if watch:
                watch(metric, outcomes[number])

        for chunk in random_chunks(len(items), self.batch_size):
            self._decoder.decode(
                [items[number].prompt(drafts[number]) for number in chunk],
                partial(self._embedded, [items[number] for number in chunk]),
                likelihoods=known is not None,
                on_answer=partial(judged, chunk),
            )
            if look and len(items) >= CHUNKED_FROM:
                look(metric)
        if all(outcome.reason == NOT_A_NUMBER for outcome in outcomes.values()):
            raise ScoringError(f"{metric}: the model's output is not a number for any of {len(items)} rows")
        return tuple(outcomes[number] for number in range(len(items)))

    def _embedded(self, items: Sequence[Item], numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        return self._preparer.embedded([items[number] for number in numbers])

    def _judge(self, task: Task, item: Item, answer: Answer) -> Outcome:
        output = self._inputs.decode(torch.tensor(answer.tokens)) if answer.is_number else ""
        reference = task.reference(item.sample)
        counts, unparseable = task.judge(item.sample, output)
        reason = self._reason(answer, output, reference) or (UNPARSEABLE if unparseable else None)
        if reason == RUNAWAY and counts == task.judge(item.sample, reference)[0]:
            counts, _ = task.judge(item.sample, "")  # it was right so far, but no listener would have had an answer
        return Outcome(item.sample.id, output, reference, counts, reason is not None, reason, item.sample.language)

    def _reason(self, answer: Answer, output: str, reference: str) -> str | None:
        """Why an answer has failed, whatever its task; None if it has not."""
        if not answer.is_number:
            return NOT_A_NUMBER
        if answer.tokens[-1] != self._inputs.end_token_id:
            return RUNAWAY
        return EMPTY if reference and not output else None


def _lengths(items: Sequence[Item]) -> list[int]:
    return [len(item.encoded.input_ids) for item in items]


def random_chunks(num_rows: int, batch_size: int) -> list[list[int]]:
    """Numbers of the rows that are decoded together, chunk by chunk.

    The decoder takes the longest rows first, so what it has answered is no fair sample before it has answered all. Of a
    large set it is therefore given chunks that are drawn at random: whoever watches can judge after each. They are the
    same each time, also when nobody watches, since answers may round otherwise in another company. A chunk holds some
    batches, so that few passes are part empty. A small set is one chunk in its own order.
    """
    if num_rows < CHUNKED_FROM:
        return [list(range(num_rows))]
    num_chunks = max(1, min(_NUM_CHUNKS, num_rows // (_BATCHES_IN_CHUNK * batch_size)))
    shuffled = np.random.default_rng(0).permutation(num_rows)
    return [chunk.tolist() for chunk in np.array_split(shuffled, num_chunks)]
