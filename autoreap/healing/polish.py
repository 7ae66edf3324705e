"""Train what routes and scales in a pruned model until it answers as the unpruned model does: routers and norms alone.

The loss is KL(unpruned || pruned) at each token of the answers, teacher forced. Both models share one set of weights:
the unpruned one is the model without its mask, and is asked once, before the training. Its hidden states before the
head are kept, not its logits: the head is applied to both in each step, so a large vocabulary costs no memory.

Shape legend: A tokens of answers in a batch, H hidden, V vocabulary.
"""

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from autoreap.calibration.resume import DAMAGES, SAVE_INTERVAL_SECONDS, read_tensors, write_tensors
from autoreap.data.draws import draw_rows
from autoreap.data.samples import Sample, digest
from autoreap.dimensions.healed import digest_of_named
from autoreap.dimensions.polished import standing_in
from autoreap.errors import HealingError, InputError
from autoreap.healing.calls import DecoderCall, computed_with, decoder_calls, drawn_rows
from autoreap.masking import masked
from autoreap.models.loading import Loaded
from autoreap.models.tensors import stored_type
from autoreap.plan import PolishedWeights, Polishing, PruningPlan
from autoreap.progress import Progress
from autoreap.reading import parse_json
from autoreap.scores import BETTER, MIN_DIFFERENT, Difference, Metric, NllCounts, compare, score
from autoreap.validation import NO_OTHER_KEYS, Count, Number, validate

logger = logging.getLogger(__name__)

# Of each modality: their embeddings are in memory, half a gigabyte at a hidden size of 2,048.
MAX_TOKENS = 131_072
_EVALUATION_STEPS = 10  # between two evaluations
_PATIENCE_STEPS = 100  # without a better evaluation, then the training ends
_HELD_OUT = 0.1  # of the rows, for validation; so many at least that they can say something
_MAX_GRADIENT_NORM = 1.0
_FORMAT = "autoreap.polish.1"
# As AdamW names its moving averages of gradients and of their squares.
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class PolishOptions:
    """How to train.

    Attributes:
        steps: at most; a step is one batch.
        learning_rate: of AdamW.
        batch_tokens: tokens of a batch, padding included.
        seed: of the order of the batches.
    """

    steps: int = 300
    learning_rate: float = 3e-4
    batch_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Polished:
    """What came of a training.

    Attributes:
        plan: the plan with its trained weights.
        before, after: nats a token of the held-out rows, of the student as it was and as it is.
        difference: after minus before, paired over the rows.
        num_parameters: trained.
        num_rows: trained on.
    """

    plan: PruningPlan
    before: Metric
    after: Metric
    difference: Difference
    num_parameters: int
    num_rows: int

    @property
    def is_better(self) -> bool:
        """Whether the held-out rows say so, significantly."""
        return self.difference.verdict == BETTER

    @property
    def description(self) -> str:
        """The loss before and after, with intervals, and what was trained on how much."""
        assert self.plan.polish is not None
        before, after, change = self.before, self.after, self.difference
        return (
            f"KL to the unpruned model on {after.num_samples} held-out rows: {before.value:.4g} "
            f"[{before.low:.4g}, {before.high:.4g}] before, {after.value:.4g} [{after.low:.4g}, {after.high:.4g}] "
            f"after {self.plan.polish.step} steps, {change.value:+.2g} [{change.low:+.2g}, {change.high:+.2g}] "
            f"paired; {self.num_parameters:,} weights trained on {self.num_rows} rows"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        assert self.plan.polish is not None
        return {
            "step": self.plan.polish.step,
            "num_parameters": self.num_parameters,
            "num_rows": self.num_rows,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "difference": self.difference.as_dict(),
        }


def answered_rows(data: Mapping[str, Sequence[Sample]], *, sees: bool) -> dict[str, list[Sample]]:
    """The rows that can be trained on, by modality: with media and an answer; those of sound alone unless it `sees`.

    Raises:
        InputError: there are too few to hold enough of them out.
    """
    rows: dict[str, list[Sample]] = {}
    for modality, samples in data.items():
        if modality == "audio" or sees:
            rows[modality] = [sample for sample in samples if sample.media and sample.text]
    if len(rows["audio"]) < 2 * MIN_DIFFERENT:
        problem = f"needs {2 * MIN_DIFFERENT} audio rows with an answer at least, got {len(rows['audio'])}"
        raise InputError(problem, where=data["audio"][0].where, fix="give rows of audio with their text")
    return {modality: samples for modality, samples in rows.items() if samples}


def polish(
    loaded: Loaded,
    plan: PruningPlan,
    data: Mapping[str, Sequence[Sample]],
    options: PolishOptions = PolishOptions(),
    resume: Path | None = None,
) -> Polished:
    """Train routers and norms of the thinker's decoder under `plan`; the weights with the lowest loss on held-out rows.

    Each evaluation rounds the weights to their stored type, so what is evaluated is what is written. The same plan,
    rows and versions give the same bits on a CPU.

    Args:
        loaded: the base model, all of it in memory. It is as it was afterwards.
        plan: with its fitted weights, if it heals.
        data: rows by modality, as `answered_rows` gives them.
        options: how to train.
        resume: a file for the state, saved now and then; a training that was killed goes on from it.
    """
    training: list[_Batch] = []
    held_out: list[_Batch] = []
    num_rows = 0
    for _, samples in sorted(data.items()):
        rows = drawn_rows(loaded, samples, MAX_TOKENS)
        num_validating = min(max(MIN_DIFFERENT, round(_HELD_OUT * len(rows))), len(rows) // 2)
        validating = dict(draw_rows(rows, num_validating))  # rows by their numbers
        trained_on = [row for number, row in enumerate(rows) if number not in validating]
        training += _ask(loaded, trained_on, options.batch_tokens)
        if validating:  # of a single row none is held out
            held_out += _ask(loaded, [*validating.values()], options.batch_tokens)
        num_rows += len(trained_on)
    digests = {modality: digest(samples) for modality, samples in data.items()}
    with _trainable(loaded, plan) as live:
        student = _Student(loaded, live, _stored_types(loaded, live))
        state = _State(options.learning_rate, student.weights())
        before = student.evaluate(student.rounded(state.trained), held_out)
        # The student as it was counts, too: where no step helps, its weights are what comes of it.
        state.best_loss = score(before).value
        identity = _identity(loaded, plan, digests, options)
        if resume is not None and resume.exists():
            state.load(resume, identity)
        _train(student, state, training, held_out, options, resume, identity)
        after = student.evaluate(state.best, held_out)
    stored = {name: weights.to(student.types[name]).cpu() for name, weights in state.best.items()}
    trained = digest_of_named(sorted(stored.items()))
    record = Polishing(digests, state.best_step, options.learning_rate, options.batch_tokens, options.seed, trained)
    return Polished(
        replace(plan, polish=record, polished=stored),
        score(before),
        score(after),
        compare(after, before, direction="minimize"),
        sum(weights.numel() for weights in stored.values()),
        num_rows,
    )


def _train(
    student: "_Student",
    state: "_State",
    training: Sequence["_Batch"],
    held_out: Sequence["_Batch"],
    options: PolishOptions,
    resume: Path | None,
    identity: Mapping[str, str],
) -> None:
    """Step after step, until there are enough, or none has helped for a while."""
    saved = time.monotonic()
    with Progress("polishing, steps", options.steps) as progress:
        progress.advance(state.step)
        while state.step < options.steps and state.step - state.best_step < _PATIENCE_STEPS:
            # From the step alone: a training that goes on after a kill takes the batches that it would have taken.
            epoch, place = divmod(state.step, len(training))
            order = list(range(len(training)))
            random.Random(f"{options.seed}/{epoch}").shuffle(order)
            student.descend(state, training[order[place]])
            state.step += 1
            progress.advance()
            # The last step is evaluated, whatever its number.
            if state.step % _EVALUATION_STEPS and state.step < options.steps:
                continue
            weights = student.rounded(state.trained)
            loss = score(student.evaluate(weights, held_out)).value
            if loss < state.best_loss:
                state.best, state.best_loss, state.best_step = weights, loss, state.step
            logger.info(f"step {state.step}: KL {loss:.4g} on the held-out rows, lowest {state.best_loss:.4g}")
            if resume is not None and time.monotonic() - saved >= SAVE_INTERVAL_SECONDS:
                state.save(resume, identity)
                saved = time.monotonic()
    if resume is not None:
        state.save(resume, identity)


# ---------------------------------------------------------------- rows, and what the unpruned model makes of them


@dataclass(frozen=True)
class _Batch:
    """A batch, and the unpruned model's hidden states before the head at what foretells its answers.

    Attributes:
        call: what the decoder is given.
        foretelling: the numbers of the tokens that stand before a counted one [A].
        rows: which row of the batch each belongs to [A].
        states: of the unpruned model [A, H].
    """

    call: DecoderCall
    foretelling: torch.Tensor
    rows: torch.Tensor
    states: torch.Tensor


@torch.no_grad()
def _ask(loaded: Loaded, samples: Sequence[Sample], batch_tokens: int) -> list[_Batch]:
    batches = []
    for heard in decoder_calls(loaded, samples, "answer", batch_tokens=batch_tokens):
        call = replace(heard, hidden=heard.hidden.clone(), arguments=_trainable_through(heard.arguments))
        foretelling = call.counted - 1  # a prompt stands before each answer
        rows = foretelling // call.hidden.shape[1]
        batches.append(_Batch(call, foretelling, rows.cpu(), _states(loaded, call, foretelling)))
    return batches


def _trainable_through(value: Any) -> Any:
    """`value` with copies of its tensors: those made in inference mode can't take part in a training."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return [_trainable_through(each) for each in value]
    if isinstance(value, dict):
        return {key: _trainable_through(each) for key, each in value.items()}
    return value


def _states(loaded: Loaded, call: DecoderCall, numbers: torch.Tensor) -> torch.Tensor:
    """The decoder's hidden states before the head at the tokens `numbers` [A, H]."""
    decoder: Any = loaded.decoder("thinker")
    states: torch.Tensor = decoder(inputs_embeds=call.hidden, **call.arguments).last_hidden_state
    return states.flatten(0, 1)[numbers.to(states.device)]


# ---------------------------------------------------------------- the weights that are trained


def _trained_modules(loaded: Loaded, plan: PruningPlan) -> dict[str, nn.Module]:
    """Routers and norms of the retained layers and the last norm, by the names of their weights within the decoder."""
    decoder: Any = loaded.decoder("thinker")
    modules: dict[str, nn.Module] = {}
    for number in plan.thinker.layers:
        layer = decoder.layers[number]
        router = loaded.running.router(layer)
        for name, module in layer.named_modules():
            if module is router or name.endswith("norm"):
                modules[f"layers.{number}.{name}.weight"] = module
    return {**modules, "norm.weight": decoder.norm}


def _stored_types(loaded: Loaded, names: Mapping[str, Any]) -> dict[str, torch.dtype]:
    layout = loaded.model_info.family.layout
    types = {}
    for name, info in loaded.model_info.checkpoint.tensors.items():
        role = layout.role(name)
        if role.part == "thinker" and role.name_in_decoder in names:
            types[role.name_in_decoder] = stored_type(info)
    return types


@contextmanager
def _trainable(loaded: Loaded, plan: PruningPlan) -> Iterator[dict[str, nn.Parameter]]:
    """The model under `plan`, with copies of what is trained in their places; nothing else has a gradient."""
    # Before the mask, which renumbers layers: names are those of the original ones.
    modules = _trained_modules(loaded, plan)
    frozen = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    live = {}
    with ExitStack() as stack:
        # First of all: the routers that are copied are those that the mask has narrowed.
        stack.enter_context(masked(loaded.model, plan))
        for parameter in frozen:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        for name, module in modules.items():
            weight: Any = module.weight
            live[name] = nn.Parameter(weight.detach().clone())
            stack.enter_context(standing_in(module, live[name]))
        yield live


class _Student:
    """The pruned model, whose routers and norms take what values they are given.

    Attributes:
        types: the type in the checkpoint of each weight.
    """

    def __init__(self, loaded: Loaded, live: Mapping[str, nn.Parameter], types: Mapping[str, torch.dtype]) -> None:
        self._loaded = loaded
        self._live = live
        self.types = types
        self._head: Any = loaded.running.thinker(loaded.model).get_output_embeddings()

    def weights(self) -> dict[str, torch.Tensor]:
        """As they are, in float32."""
        return {name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._live.items()}

    def rounded(self, weights: PolishedWeights) -> dict[str, torch.Tensor]:
        """A copy of `weights` as they will be stored, in float32."""
        # Of a model in float32 they would be the tensors that the optimiser goes on with.
        return {name: tensor.detach().to(self.types[name], copy=True).float() for name, tensor in weights.items()}

    def descend(self, state: "_State", batch: _Batch) -> None:
        """One step of the optimiser; `HealingError` if the loss is not a number."""
        self._take(state.trained)
        loss = batch.call.weight * self._divergence(batch).mean()
        if not torch.isfinite(loss):
            raise HealingError(f"the loss at step {state.step + 1} is not a number; give a lower --learning-rate")
        torch.autograd.backward(loss)
        # The model computes in its own type; the optimiser steps in float32, as small steps vanish in bfloat16.
        for name, parameter in self._live.items():
            assert parameter.grad is not None
            state.trained[name].grad = parameter.grad.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_(list(state.trained.values()), _MAX_GRADIENT_NORM)
        state.optimizer.step()

    @torch.no_grad()
    def evaluate(self, weights: PolishedWeights, batches: Sequence[_Batch]) -> list[NllCounts]:
        """What each row of `batches` adds to the loss of the student with `weights`: nats over tokens."""
        self._take(weights)
        counts = []
        for batch in batches:
            losses = self._divergence(batch).double().cpu()
            for row in sorted(set(batch.rows.tolist())):
                of_row = losses[batch.rows == row]
                counts.append(NllCounts(float(of_row.sum()), len(of_row)))
        return counts

    def _divergence(self, batch: _Batch) -> torch.Tensor:
        """KL(unpruned || pruned) at each token [A], in nats."""
        states = _states(self._loaded, batch.call, batch.foretelling)
        ours = log_softmax(self._head(states).float(), dim=-1)  # [A, V]
        theirs = log_softmax(self._head(batch.states).float(), dim=-1)
        # torch takes the model first and the truth second: this is KL(theirs || ours).
        return kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)

    @torch.no_grad()
    def _take(self, weights: PolishedWeights) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(weights[name])


# ---------------------------------------------------------------- the state of a training, in memory and on disk


@dataclass(frozen=True)
class _Place:
    """What the file of a training says beside its tensors."""

    __pydantic_config__ = NO_OTHER_KEYS

    step: Count
    best_step: Count
    best_loss: Number


_PLACE = TypeAdapter(_Place)


class _State:
    """How far a training has come.

    Attributes:
        trained: the weights in float32, by name.
        best: those that were best on the held-out rows, as they will be stored.
        optimizer: AdamW; without weight decay, as zero is nothing that norms or routers should tend to.
    """

    def __init__(self, learning_rate: float, weights: dict[str, torch.Tensor]) -> None:
        self.trained = weights
        self.best = {name: tensor.clone() for name, tensor in weights.items()}
        self.best_loss = float("inf")
        self.best_step = self.step = 0
        self.optimizer = torch.optim.AdamW(list(weights.values()), lr=learning_rate, weight_decay=0.0)
        for tensor in weights.values():
            # As the optimiser makes them at its first step; made here, a file is read into them in one way.
            moments = {moment: torch.zeros_like(tensor) for moment in _MOMENTS}
            self.optimizer.state[tensor] = {"step": torch.tensor(0.0), **moments}

    def save(self, path: Path, identity: Mapping[str, str]) -> None:
        """Write all of it, whole or not at all."""
        place = _Place(self.step, self.best_step, self.best_loss)
        metadata = {"format": _FORMAT, "identity": json.dumps(dict(identity)), "place": json.dumps(asdict(place))}
        write_tensors(path, self._tensors(), metadata)

    def load(self, path: Path, identity: Mapping[str, str]) -> None:
        """Go on from a file of the same training; one of another, or a damaged one, is ignored."""
        try:
            tensors, metadata = read_tensors(path)
            if metadata["format"] != _FORMAT or parse_json(metadata["identity"]) != dict(identity):
                logger.info(f"starting anew: {path} is of another training")
                return
            place = validate(_PLACE, parse_json(metadata["place"]), "place")
            # All are looked up before one changes: a damaged file leaves the state as it was.
            pairs = [(tensor, tensors[name]) for name, tensor in self._tensors().items()]
        except DAMAGES as error:
            logger.info(f"starting anew: {path} is damaged: {error}")
            return
        self.step, self.best_step, self.best_loss = place.step, place.best_step, place.best_loss
        for tensor, stored in pairs:
            tensor.copy_(stored)
        for weights in self.trained.values():
            self.optimizer.state[weights]["step"].fill_(place.step)
        logger.info(f"going on from {path}, after {self.step} steps")

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All that a file of the training holds, by names within it."""
        tensors = {}
        for name, weights in self.trained.items():
            tensors[f"trained/{name}"] = weights
            tensors[f"best/{name}"] = self.best[name]
            for moment in _MOMENTS:
                tensors[f"{moment}/{name}"] = self.optimizer.state[weights][moment]
        return tensors


def _identity(loaded: Loaded, plan: PruningPlan, digests: Mapping[str, str], options: PolishOptions) -> dict[str, str]:
    """All that the trained weights follow from."""
    identity = {
        "plan": plan.digest(),
        "fitted": str(plan.heal and plan.heal.weights),
        "options": json.dumps(asdict(options)),
        **computed_with(loaded),
    }
    for modality, value in digests.items():
        identity[f"data.{modality}"] = value
    return identity
