"""Run tasks on a (masked) model -> `Evaluation`.

What no candidate can change is computed once (`preparing`), so a candidate needs the text decoder alone. Most
candidates repeat most of the unpruned model's answers, so these are drafts for the decoder (`drafting`). Until the
unpruned model has answered, the references are the drafts.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from autoreap.data.eval_set import EvalSet, EvalTask
from autoreap.data.samples import spread
from autoreap.errors import InputError, ScoringError
from autoreap.evaluation.device_limits import device_limits
from autoreap.evaluation.draft_rows import Answer, Prompt
from autoreap.evaluation.drafting import DraftedDecoder
from autoreap.evaluation.judging import NOT_A_NUMBER, Judge
from autoreap.evaluation.likelihood import Row, reference_nll
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.evaluation.passes import Passes
from autoreap.evaluation.preparing import Item, Preparer
from autoreap.evaluation.tensor_store import DEFAULT_MEMORY_BYTES, TensorStore
from autoreap.masking import family_of_model, masked
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded
from autoreap.models.places import kernels_of, library_versions, place_of
from autoreap.plan import PruningPlan
from autoreap.progress import Progress
from autoreap.scores import NllCounts

# So many rows are decoded in chunks, each of a tenth of them or of some batches; see `random_chunks`.
CHUNKED_FROM = 1000
_NUM_CHUNKS, _BATCHES_IN_CHUNK = 10, 4

OnOutcome = Callable[[str, Outcome], None]  # metric, outcome
OnSample = Callable[[str], None]  # metric
Tokens = list[int]


@dataclass
class _PreparedTask:
    """A task whose rows are ready to run.

    Attributes:
        references, drafts: tokens of each row's reference, and of the answer that is expected.
    """

    source: EvalTask
    items: Sequence[Item]
    references: list[Tokens]
    drafts: list[Tokens]

    def prompts(self, numbers: Sequence[int], answers: Sequence[Tokens]) -> list[Prompt]:
        """The rows `numbers`, each with its own of `answers` as a draft."""
        return [self.items[number].prompt(answers[number]) for number in numbers]


class Evaluator:
    """Scores plans on an eval set; made once for a model, run once for a candidate.

    Args:
        model: a stock model, whole or thinker alone.
        inputs: its inputs.
        evals: the tasks and their rows.
        batch_size: utterances decoded together at most; fewer where they are long. None: by the device.
        memory_bytes: how much of the embedded media is held in memory; the rest is on disk.
        check: called between the passes that measure likelihoods; what it raises ends the run.
        replay: passes to run again, as far as memory allows; `batch_size` is theirs then.

    Attributes:
        where: device and type that it computes on, as `place_of` names them.

    Raises:
        InputError: the eval set has no tasks, or too many rows of one can't be read.

    Example:
        The first eight rows of one task, by the embedded model as it is.

        >>> from dataclasses import replace
        >>> from pathlib import Path
        >>> from autoreap.data.eval_set import open_evals
        >>> from autoreap.models.loading import load, open_model
        >>> evals = open_evals(Path("evals/tiny.yaml")).search
        >>> speech = replace(evals.tasks[0], samples=evals.tasks[0].samples[:8])
        >>> loaded = load(open_model("tiny"))
        >>> evaluator = Evaluator(loaded.model, loaded.inputs, replace(evals, tasks=(speech,)))
        >>> evaluator.run().metrics()["wer"].num_samples
        8
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: ChatInputs,
        evals: EvalSet,
        *,
        batch_size: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        check: Callable[[], None] = lambda: None,
        replay: Passes | None = None,
    ) -> None:
        if not evals.tasks:
            raise InputError(f"split {evals.split!r} has no tasks", where=evals.path)
        self._model = model
        self._inputs = inputs
        self._check = check
        self._judge = Judge(inputs)
        running = family_of_model(model).running
        self._replay = replay
        self.where = place_of(running, model)
        self._kernels = kernels_of(running, model)
        if replay is not None:
            limits = replay.limits
        else:
            limits = device_limits(running, model, batch_size)
        self.batch_size = limits.rows
        self._decoder = DraftedDecoder(running, model, end_token=inputs.end_token_id, limits=limits)
        self._preparer = Preparer(running, model, inputs, TensorStore(memory_bytes))
        self._tasks: dict[str, _PreparedTask] = {}
        with Progress(f"preparing {evals.split}", sum(len(task.samples) for task in evals.tasks)) as progress:
            for task in evals.tasks:
                items = self._preparer.items(task.config, task.samples, progress)
                references = [inputs.text_tokens(task.task.reference(item.sample)) for item in items]
                self._tasks[task.metric] = _PreparedTask(task, items, references, references)

    @property
    def num_answers(self) -> int:
        """Utterances and questions of one run."""
        return sum(len(task.items) for task in self._tasks.values())

    @property
    def metrics(self) -> list[str]:
        """The metrics of the tasks, in their order."""
        return list(self._tasks)

    @property
    def ids(self) -> dict[str, list[str]]:
        """By metric, the rows that a run answers, in the order of its outcomes."""
        ids = {}
        for metric, task in self._tasks.items():
            ids[metric] = [item.sample.id for item in task.items]
        return ids

    @property
    def num_unreadable(self) -> Mapping[str, int]:
        """By metric, the rows whose media can't be read."""
        return {metric: len(task.source.samples) - len(task.items) for metric, task in self._tasks.items()}

    @torch.inference_mode()
    def run(
        self,
        plan: PruningPlan | None = None,
        on_outcome: OnOutcome | None = None,
        *,
        on_sample: OnSample | None = None,
        first: Collection[str] = (),
        likelihoods: bool = False,
    ) -> Evaluation:
        """Score the model under `plan`, or unpruned; the unpruned answers become the drafts of later runs.

        Args:
            plan: what to mask.
            on_outcome: called with each outcome as soon as it is known, in no particular order; what it raises ends
                the run.
            on_sample: called with a metric whenever its outcomes so far are those of rows drawn at random; what it
                raises ends the run.
            first: metrics to begin with.
            likelihoods: measure the NLL of the references too: with the answer where the reference is its draft, and
                in one more pass where it is not.
        """
        started = time.monotonic()
        outcomes: dict[str, tuple[Outcome, ...]] = {}
        log_likelihoods: dict[Row, float] | None = None
        if likelihoods:
            log_likelihoods = {}
        if self._replay is not None:
            # An earlier run may have lowered them: what is replayed begins where the recorded run began.
            self._decoder.limits = self._replay.limits
            self._decoder.begin_run(self._replay.refused)
        else:
            self._decoder.begin_run()
        limits = self._decoder.limits
        nll: Mapping[str, Sequence[NllCounts]] = {}
        with masked(self._model, plan) if plan is not None else nullcontext():
            # False sorts before true: the metrics of `first`, then the others.
            for metric in sorted(self._tasks, key=lambda name: name not in first):
                outcomes[metric] = self._answer(metric, on_outcome, on_sample, log_likelihoods)
            if log_likelihoods is not None:
                nll = self._measure_nll(log_likelihoods)
        # What is stored is in the order of the tasks, whatever came first.
        outcomes = {metric: outcomes[metric] for metric in self._tasks}
        if plan is None:
            self.draft_from(outcomes)
        passes = Passes(
            where=self.where,
            limits=limits,
            kernels=self._kernels,
            versions=library_versions(),
            refused=self._decoder.refused,
            likelihoods=likelihoods,
            first=tuple(first),
        )
        return Evaluation(outcomes, time.monotonic() - started, self.num_unreadable, nll, passes=passes)

    def draft_from(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Use these answers as drafts from now on.

        No answer depends on its draft but by rounding: where other drafts are accepted, the passes have other shapes.

        Raises:
            InputError: other rows were answered than can be read now; scores of the two could not be compared.
        """
        for metric, rows in self.ids.items():
            answered = [outcome.id for outcome in outcomes.get(metric, ())]
            if answered != rows:
                different = sorted(set(answered) ^ set(rows))
                raise InputError(
                    f"{len(answered)} rows were answered, {len(rows)} can be read now: {', '.join(different[:3])}",
                    where=metric,
                    fix="make sure that the same media can be read",
                )
        for metric, task in self._tasks.items():
            task.drafts = [self._inputs.text_tokens(outcome.output) for outcome in outcomes[metric]]

    def prompts(self, most: int) -> list[tuple[Encoded, int]]:
        """At most `most` prompts with the features of their audio, spread over their lengths, for timing.

        Each comes with the bound on its answer's tokens. Features are not kept, so these recordings are read again.
        """
        heard, lengths = [], []
        for task in self._tasks.values():
            for item in task.items:
                if item.audio is not None:
                    heard.append((task.source, item))
                    lengths.append(len(item.encoded.input_ids))
        prompts = []
        for number in spread(lengths, min(most, len(heard))):
            source, item = heard[number]
            sample = next(sample for sample in source.samples if sample.id == item.sample.id)
            prompts.append((self._preparer.encoded(source.config, sample), item.max_new_tokens))
        return prompts

    def _answer(
        self,
        metric: str,
        on_outcome: OnOutcome | None,
        on_sample: OnSample | None,
        log_likelihoods: dict[Row, float] | None,
    ) -> tuple[Outcome, ...]:
        """The outcomes of one task, in the order of its rows.

        `log_likelihoods` takes those of references that were the drafts.
        """
        task = self._tasks[metric]
        outcomes: dict[int, Outcome] = {}

        def take(chunk: Sequence[int], place: int, answer: Answer) -> None:
            number = chunk[place]
            outcome = self._judge.judge(task.source.task, task.items[number].sample, answer)
            outcomes[number] = outcome
            # What was measured is the likelihood of the draft; wanted is that of the reference.
            likelihood = answer.draft_log_likelihood
            draft_is_reference = task.drafts[number] == task.references[number]
            if log_likelihoods is not None and likelihood is not None and draft_is_reference:
                log_likelihoods[metric, number] = likelihood
            if on_outcome:
                on_outcome(metric, outcome)

        for chunk in random_chunks(len(task.items), self.batch_size):
            self._decoder.decode(
                task.prompts(chunk, task.drafts),
                partial(self._embedded, [task.items[number] for number in chunk]),
                likelihoods=log_likelihoods is not None,
                on_answer=partial(take, chunk),
            )
            if on_sample and len(task.items) >= CHUNKED_FROM:
                on_sample(metric)
        if all(outcome.reason == NOT_A_NUMBER for outcome in outcomes.values()):
            raise ScoringError(f"{metric}: the model's output is not a number for any of {len(task.items)} rows")
        return tuple(outcomes[number] for number in range(len(task.items)))

    def _measure_nll(self, known: dict[Row, float]) -> dict[str, list[NllCounts]]:
        """The NLL of every reference; `known` holds the log-likelihoods that decoding has given."""
        every: list[Row] = []
        missing: list[Row] = []
        prompts, items = [], []
        for metric, task in self._tasks.items():
            for number, item in enumerate(task.items):
                every.append((metric, number))
                if (metric, number) not in known:
                    missing.append((metric, number))
                    items.append(item)
                    prompts += task.prompts([number], task.references)
        values = self._decoder.log_likelihoods(prompts, partial(self._embedded, items), self._check)
        known |= dict(zip(missing, values, strict=True))
        references = {metric: task.references for metric, task in self._tasks.items()}
        return reference_nll({row: known[row] for row in every}, references, self._inputs.num_tokens)

    def _embedded(self, items: Sequence[Item], numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        return self._preparer.embedded([items[number] for number in numbers])


def random_chunks(num_rows: int, batch_size: int) -> list[list[int]]:
    """Numbers of the rows that are decoded together, chunk by chunk.

    The decoder takes the longest rows first, so its first answers are no fair sample. A large set is therefore decoded
    in chunks that are drawn at random, so that a candidate can be judged after each. The chunks are always the same,
    because answers may round otherwise in another batch. A chunk holds some batches, so that few passes are partly
    empty. A small set is one chunk in its own order.
    """
    if num_rows < CHUNKED_FROM:
        return [list(range(num_rows))]
    num_chunks = max(1, min(_NUM_CHUNKS, num_rows // (_BATCHES_IN_CHUNK * batch_size)))
    shuffled = np.random.default_rng(0).permutation(num_rows)
    return [chunk.tolist() for chunk in np.array_split(shuffled, num_chunks)]
