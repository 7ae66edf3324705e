"""How much is decoded together on a device: fixed on a CPU, measured at start on an accelerator.

On a CPU a measurement would differ from run to run with what else the machine does, and answers would round otherwise
with it; what is fixed there costs little. Cards differ by more than ten times in memory and in what a pass costs, and
are used by one process at a time. What was measured is recorded with the answers, in powers of two.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from autoreap.evaluation.draft_limits import Attempts, Limits
from autoreap.evaluation.draft_pools import empty_cache
from autoreap.models.families.running import RunningModel

logger = logging.getLogger(__name__)

_CPU_ROWS, _MOST_ROWS = 32, 256  # a CPU is as fast with few rows as with many
# A pass over so many tokens keeps every card busy; more of them only pad more.
_MOST_COLUMNS, _LEAST_COLUMNS = 2**15, 2**10
_MOST_PASS_TOKENS, _LEAST_PASS_TOKENS = 2**13, 2**5
# Of the memory beside the weights: the rest is for pools that wait, for the head, and for what healing takes.
_SHARE_OF_MEMORY = 0.5
_WIDTH, _FEW_ROWS, _MANY_ROWS = 256, 1, 16
_NUM_TIMED = 3


@dataclass(frozen=True)
class PassCost:
    """What passes over few and over many columns took.

    Attributes:
        columns: of either.
        seconds: of either, the least of some.
        peak_bytes: of either, beside the weights.
    """

    columns: tuple[int, int]
    seconds: tuple[float, float]
    peak_bytes: tuple[int, int]

    @property
    def bytes_a_column(self) -> float:
        """Of a pass that is large."""
        return max(1.0, (self.peak_bytes[1] - self.peak_bytes[0]) / (self.columns[1] - self.columns[0]))

    @property
    def pass_tokens(self) -> float:
        """What a pass costs beside its tokens, as a number of tokens."""
        a_token = (self.seconds[1] - self.seconds[0]) / (self.columns[1] - self.columns[0])
        if a_token <= 0:  # so many tokens cost nothing
            return _MOST_PASS_TOKENS
        return self.seconds[0] / a_token - self.columns[0]

    def limits(self, rows: int, free_bytes: float) -> Limits:
        """What may be decoded together where so many bytes are free beside the weights."""
        most = _SHARE_OF_MEMORY * free_bytes / self.bytes_a_column
        columns = 2 ** math.floor(math.log2(min(max(most, _LEAST_COLUMNS), _MOST_COLUMNS)))
        pass_tokens = 2 ** round(math.log2(min(max(self.pass_tokens, _LEAST_PASS_TOKENS), _MOST_PASS_TOKENS)))
        return Limits(rows, first_columns=columns, pool_columns=columns, pass_tokens=pass_tokens)


def device_limits(running: RunningModel, model: PreTrainedModel, rows: int | None) -> Limits:
    """What is decoded together on the device of `model`: at most `rows`, if they are given."""
    device = running.device(model)
    if device.type == "cpu":
        return Limits(rows or _CPU_ROWS)
    rows = rows or _MOST_ROWS
    cost = Attempts()(lambda: _measure(running, model, device))
    if cost is None:
        return Limits(rows, first_columns=_LEAST_COLUMNS, pool_columns=_LEAST_COLUMNS)
    devices: Sequence[torch.device | int] = [device]
    places = set(getattr(model, "hf_device_map", {}).values())
    if len(places) > 1:
        devices = range(torch.cuda.device_count())
    free_bytes = []
    for each in devices:
        free, _ = torch.cuda.mem_get_info(each)
        # What torch holds and does not use, it may take too.
        free_bytes.append(free + torch.cuda.memory_reserved(each) - torch.cuda.memory_allocated(each))
    limits = cost.limits(rows, min(free_bytes))
    logger.info(
        "decoding at most %s columns together: one takes %.0f KB, a pass costs as much as %s tokens",
        f"{limits.first_columns:,}",
        cost.bytes_a_column / 1e3,
        f"{limits.pass_tokens:,}",
    )
    return limits


def _measure(running: RunningModel, model: PreTrainedModel, device: torch.device) -> PassCost:
    def run(num_rows: int) -> None:
        decode(running, model, num_rows, _WIDTH)
        torch.cuda.synchronize(device)

    few = _timed(lambda: run(_FEW_ROWS))
    many = _timed(lambda: run(_MANY_ROWS))
    peaks = []
    for num_rows in (_FEW_ROWS, _MANY_ROWS):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(num_rows)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return PassCost((_FEW_ROWS * _WIDTH, _MANY_ROWS * _WIDTH), (few, many), (peaks[0], peaks[1]))


@torch.inference_mode()
def decode(running: RunningModel, model: PreTrainedModel, num_rows: int, width: int) -> None:
    """One pass of the thinker's decoder over embeddings of random tokens, with a cache, as a first pass is."""
    decoder: Any = running.decoder(model, "thinker")
    embed: Any = running.thinker(model).get_input_embeddings()
    device = running.device(model)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(decoder.config.vocab_size, (num_rows, width), generator=generator).to(device)
    positions = torch.arange(width, device=device).expand(num_rows, width)
    decoder(inputs_embeds=embed(tokens), position_ids=positions, past_key_values=empty_cache(), use_cache=True)


def _timed(run: Callable[[], None]) -> float:
    """The least seconds of some runs; the first, which builds what later ones find, does not count."""
    run()
    seconds = []
    for _ in range(_NUM_TIMED):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
