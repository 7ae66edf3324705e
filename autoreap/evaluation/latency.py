"""How long an answer takes at batch 1, beside the unpruned model in the same minutes.

Each utterance is answered greedily with a cache, a token a pass, as a server does; drafts, which would know the answer,
are not used. Machines are noisy and drift, so the unpruned model and the masked one take turns, utterance by utterance,
each first every other time. The ratio of the two is what a search can trust.

Under a mask the routed computation is that of the retained experts and a cut layer does not run, so time is that of the
materialised checkpoint (benchmarks/latency.py compares them). Memory is not: the dropped weights are still there. Hence
`peak_memory_bytes` is the working memory that was measured plus the bytes of the weights that the plan retains.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from autoreap.data.samples import spread
from autoreap.errors import InputError
from autoreap.masking import family_of_model, masked
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded
from autoreap.models.prompts import audio_of, embedded
from autoreap.plan import PruningPlan
from autoreap.scores import Metric, bootstrap_interval

NUM_UTTERANCES = 16
NUM_REPEATS = 3
PEAK_MEMORY = "peak_memory_bytes"
DIRECTIONS = dict.fromkeys(
    ("first_token_seconds", "first_token_ratio", "real_time_factor", "real_time_factor_ratio", PEAK_MEMORY), "minimize"
)


@dataclass(frozen=True)
class Timing:
    """One answer.

    Attributes:
        first_token_seconds: from the audio's features on the host to the first token of the answer there. In it are the
            audio tower, the embedding of the prompt, its pass through the decoder, and the head. Reading and resampling
            the audio, its features and the tokeniser are not: no plan changes them.
        real_time_factor: seconds from the same start to the last token, over the seconds of audio. A candidate that
            babbles takes longer for it, up to the bound on its answers.
        tokens: the answer, with its end where it was reached.
    """

    first_token_seconds: float
    real_time_factor: float
    tokens: tuple[int, ...]


class Stopwatch:
    """Times plans on a fixed few utterances of different lengths.

    Args:
        model: a stock model, whole or thinker alone.
        inputs: its inputs.
        prompts: each with the bound on its answer's tokens; those with audio count, spread over their lengths.
        num_utterances, num_repeats: how many of them are answered, and how often by either side.
        check: is called before each answer; what it raises ends the measurement.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: ChatInputs,
        prompts: Sequence[tuple[Encoded, int]],
        *,
        num_utterances: int = NUM_UTTERANCES,
        num_repeats: int = NUM_REPEATS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._running = family_of_model(model).running
        self._thinker: Any = self._running.thinker(model)
        self._inputs = inputs
        heard, lengths = [], []
        for encoded, max_new_tokens in prompts:
            if encoded.mel is not None:
                heard.append((encoded, max_new_tokens))
                lengths.append(len(encoded.input_ids))
        self.utterances = [heard[number] for number in spread(lengths, min(num_utterances, len(heard)))]
        self._num_repeats = num_repeats
        self._check = check
        if not self.utterances:
            raise InputError("no task has audio to time an answer to", where="evals", fix="add a task with audio")

    def measure(self, plan: PruningPlan | None, weights_bytes: int) -> dict[str, Metric]:
        """The metrics of `DIRECTIONS`, and `mask_seconds`: what applying the plan's mask took.

        Each is a median with its 95% bootstrap interval and its quartiles, that of a ratio over pairs. The peak is
        measured on accelerators alone. Without a plan, the model is timed against itself: its ratios say how far this
        machine can be trusted.

        Args:
            plan: what is timed.
            weights_bytes: of the weights that it retains.
        """
        # The first passes of a process, and of a shape, are not like the others.
        for arm in (None, plan):
            for utterance in (self.utterances[0], self.utterances[-1]):
                self._timed(arm, utterance)
        pairs, switches = self._taken_in_turns(plan)
        metrics: dict[str, Metric] = {}
        for name in ("first_token_seconds", "real_time_factor"):
            unpruned = np.array([getattr(timing, name) for timing, _ in pairs])
            pruned = np.array([getattr(timing, name) for _, timing in pairs])
            metrics[name] = median(pruned)
            metrics[f"{name.removesuffix('_seconds')}_ratio"] = paired_ratio(pruned, unpruned)
        if plan is not None:
            metrics["mask_seconds"] = median(np.array(switches))
        if torch.cuda.is_available() and self._running.device(self._model).type == "cuda":
            metrics[PEAK_MEMORY] = Metric.static(self._working_bytes(plan) + weights_bytes)
        return metrics

    def _taken_in_turns(self, plan: PruningPlan | None) -> tuple[list[tuple[Timing, Timing]], list[float]]:
        """(unpruned, pruned) for each utterance and repeat, and the seconds that each application of the mask took."""
        pairs, switches = [], []
        for turn in range(self._num_repeats * len(self.utterances)):
            utterance = self.utterances[turn % len(self.utterances)]
            # No utterance has the same side first every time.
            pruned_first = (turn + turn // len(self.utterances)) % 2
            if pruned_first:
                switched, pruned = self._timed(plan, utterance)
                _, unpruned = self._timed(None, utterance)
            else:
                _, unpruned = self._timed(None, utterance)
                switched, pruned = self._timed(plan, utterance)
            switches.append(switched)
            pairs.append((unpruned, pruned))
        return pairs, switches

    def _timed(self, plan: PruningPlan | None, utterance: tuple[Encoded, int]) -> tuple[float, Timing]:
        """Seconds that the mask took to apply, and the answer under it."""
        self._check()
        mask: AbstractContextManager[None] = nullcontext() if plan is None else masked(self._model, plan)
        # A mask is applied where its context is entered.
        started = self._now()
        with mask:
            switched = self._now() - started
            return switched, self.answer(*utterance)

    @torch.inference_mode()
    def answer(self, encoded: Encoded, max_new_tokens: int) -> Timing:
        """Answer one prompt under whatever mask there is, a token a pass."""
        started = self._now()
        audio = audio_of(self._running, self._model, encoded)
        inputs = embedded(self._running, self._model, self._inputs, [encoded], [audio])
        positions, cache = self._running.positions(self._model, inputs), DynamicCache()
        hidden = self._thinker.base_model(**inputs, position_ids=positions, past_key_values=cache, use_cache=True)
        tokens = [self._choice(hidden.last_hidden_state)]
        first = self._now()
        # Prompts end in text, where all axes agree.
        position = positions[..., -1:].view(-1, 1)[:1] + 1
        decoder: Any = self._running.decoder(self._model, "thinker")
        while tokens[-1] != self._inputs.end_token_id and len(tokens) < max_new_tokens:
            last = torch.tensor([tokens[-1:]], device=position.device)
            embeddings = self._thinker.get_input_embeddings()(last)
            hidden = decoder(inputs_embeds=embeddings, position_ids=position, past_key_values=cache, use_cache=True)
            tokens.append(self._choice(hidden.last_hidden_state))
            position = position + 1
        audio_seconds = encoded.num_frames / self._running.layout.frames_per_second
        return Timing(first - started, (self._now() - started) / audio_seconds, tuple(tokens))

    def _choice(self, hidden: torch.Tensor) -> int:
        """The most probable token after the last of `hidden` [1, T, H]."""
        return int(self._thinker.get_output_embeddings()(hidden[:, -1]).argmax())

    def _working_bytes(self, plan: PruningPlan | None) -> int:
        """What the longest utterance takes beside the weights, on all accelerators together."""
        devices = range(torch.cuda.device_count())
        before = 0
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
            before += torch.cuda.memory_allocated(device)
        self._timed(plan, self.utterances[-1])
        return sum(torch.cuda.max_memory_allocated(device) for device in devices) - before

    def _now(self) -> float:
        """The clock, once all that an accelerator was given is done."""
        device = self._running.device(self._model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()


def median(values: NDArray[np.float64]) -> Metric:
    """The median of `values` [N] with its 95% bootstrap interval and the quartiles."""
    low, high = bootstrap_interval(lambda drawn: np.median(values[drawn], axis=1), len(values))
    quartiles: list[float] = np.quantile(values, [0.25, 0.75]).tolist()
    value = float(np.median(values))
    return Metric(value, low, high, num_samples=len(values), quartiles=quartiles)


def paired_ratio(values: NDArray[np.float64], reference: NDArray[np.float64]) -> Metric:
    """The median of the ratios of `values` [N] to `reference` [N], pair by pair, with its 95% bootstrap interval.

    What slows a machine down for a while slows both of a pair, so on a busy machine this varies less from run to run
    than the ratio of two medians.
    """
    return median(values / reference)


def needs_stopwatch(names: Collection[str]) -> bool:
    """Whether one of the metrics of these `names` is timed: it costs time, so it is asked for."""
    return not DIRECTIONS.keys().isdisjoint(names)
