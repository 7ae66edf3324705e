"""Seconds that decoding a candidate takes on a card that is not at hand: the real loop over synthetic passes.

    python benchmarks/night.py [--clips 500] [--free 21]

The decoder of the package decides what goes through the model together; its passes take no time, but are counted: the
columns of each, padding included, and the memory it would take beside the weights of the 30B model. Where that is more
than is free, the pass runs out of memory as a card would. Answers are made up, and drafts are these with a share of
their tokens replaced. Beside 500 clips of speech there is none, or one, that is long. No Python around the model is in
the seconds, which may be wrong by a factor of two; what they are to each other does not depend on that. The last line
is what Python takes beside.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))

from builders import saliency_of, write_sparse_checkpoint  # noqa: E402
from random_models import real_config  # noqa: E402

from autoreap.candidate import Candidate  # noqa: E402
from autoreap.data.samples import Sample  # noqa: E402
from autoreap.data.tasks import asr  # noqa: E402
from autoreap.evaluation.device_limits import PassCost  # noqa: E402
from autoreap.evaluation.draft_limits import Attempts, Limits  # noqa: E402
from autoreap.evaluation.draft_pools import Pool, empty_cache  # noqa: E402
from autoreap.evaluation.draft_rows import Prompt, Row  # noqa: E402
from autoreap.evaluation.drafting import DraftedDecoder  # noqa: E402
from autoreap.models.families import family_of  # noqa: E402
from autoreap.models.loading import open_model  # noqa: E402
from autoreap.scores import paired_difference, score  # noqa: E402
from autoreap.search.candidates import Planner  # noqa: E402

# Of the 30B model, by its shapes: bytes of a column's keys and values, and of all that a pass holds for it at once.
CACHE_BYTES, TRANSIENT_BYTES = 98_300, 153_000
# A guess at an 80 GB card with kernels that are not fused.
PASS_SECONDS, COLUMN_SECONDS = 0.040, 20e-6
CACHE_READ_SECONDS = CACHE_BYTES / 2e12
TOKENS_A_SECOND, TEMPLATE_TOKENS, ANSWER_TOKENS_A_SECOND = 13, 30, 3.3
LONG_CLIPS = (None, 120, 300, 2400)
EDITS = (0.0, 0.03, 0.1)
END, WRONG = 0, 10**6
# How often a wrong token of a draft misleads the model in the next one. Not known; a model that hears may be surer.
MISLED = 0.5


@dataclass
class Card:
    """What it was given.

    Attributes:
        free_bytes: beside the weights.
        padded, real: columns of first passes.
    """

    free_bytes: float
    seconds: float = 0.0
    num_passes: int = 0
    num_rounds: int = 0
    num_refused: int = 0
    padded: int = 0
    real: int = 0

    def take(self, num_columns: int, cached: int) -> None:
        """One pass; raises where memory is too small."""
        if num_columns * TRANSIENT_BYTES + cached * CACHE_BYTES > self.free_bytes:
            self.num_refused += 1
            raise torch.OutOfMemoryError("simulated")
        self.seconds += PASS_SECONDS + num_columns * COLUMN_SECONDS + cached * CACHE_READ_SECONDS


class SyntheticPasses:
    """As `DraftPasses`, of a model that answers `answers` and computes nothing."""

    def __init__(self, card: Card, answers: Sequence[Sequence[int]]) -> None:
        self._card = card
        self._answers = answers
        self._rng = random.Random(2)

    def begin(
        self, batch: list[Row], fed: Sequence[list[int]], inputs: Mapping[str, torch.Tensor]
    ) -> tuple[Pool, torch.Tensor]:
        """See `DraftPasses`."""
        longest = max(row.prompt.num_tokens for row in batch)
        width = longest + max(map(len, fed))
        self._card.take(len(batch) * width, len(batch) * width)
        mask = torch.zeros((len(batch), width), dtype=torch.bool)
        for place, (row, tokens) in enumerate(zip(batch, fed, strict=True)):
            mask[place, longest - row.prompt.num_tokens : longest + len(tokens)] = True
        self._card.num_passes += 1
        self._card.padded += mask.numel()
        self._card.real += int(mask.sum())
        cache = empty_cache()
        cache.update(*(torch.zeros((len(batch), 1, width, 1)) for _ in range(2)), 0)
        return Pool(batch, cache, mask, torch.zeros(len(batch))), mask

    def go_on(self, pool: Pool, fed: Sequence[list[int]]) -> torch.Tensor:
        """See `DraftPasses`."""
        width = 1 + max(map(len, fed))
        num_rows = len(pool.rows)
        self._card.take(num_rows * width, num_rows * (pool.mask.shape[1] + width))
        self._card.num_rounds += 1
        pool.cache.update(*(torch.zeros((num_rows, 1, width, 1)) for _ in range(2)), 0)
        return pool.mask

    def choices(self, rows: Sequence[Row], fed: Sequence[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        """See `DraftPasses`."""
        chosen = []
        for row, tokens in zip(rows, fed, strict=True):
            rest = [*self._answers[row.number], *[END] * (len(tokens) + 2)][len(row.answer) :]
            choice = rest[: len(tokens) + 1]
            for place, token in enumerate(tokens):
                if token != rest[place] and self._rng.random() < MISLED:
                    choice[place + 1] = WRONG
            chosen.append(choice)
        return chosen


class SimulatedDecoder(DraftedDecoder):
    """The decoder on a card that is not there."""

    def __init__(self, card: Card, answers: Sequence[Sequence[int]], limits: Limits) -> None:
        self.limits = limits
        self._attempts = Attempts()
        self._passes: Any = SyntheticPasses(card, answers)
        self._end = END


@dataclass(frozen=True)
class Clips:
    """Recordings with what a candidate answers."""

    seconds: Sequence[float]
    answers: Sequence[Sequence[int]]

    @classmethod
    def of(cls, num_clips: int, long_clip: float | None) -> "Clips":
        """As read speech is long: 6.4 s on average, 35 s at most; and one that is longer."""
        rng = random.Random(0)
        seconds = [min(35.0, max(1.0, rng.lognormvariate(1.55, 0.75))) for _ in range(num_clips)]
        if long_clip is not None:
            seconds.append(long_clip)
        answers = [[rng.randrange(1, 10**5) for _ in range(int(s * ANSWER_TOKENS_A_SECOND) + 1)] for s in seconds]
        return cls(seconds, answers)

    def prompts(self, edits: float) -> list[Prompt]:
        """With drafts of which the share `edits` is replaced."""
        rng = random.Random(1)
        prompts = []
        for seconds, answer in zip(self.seconds, self.answers, strict=True):
            draft = tuple(rng.randrange(1, 10**5) if rng.random() < edits else token for token in answer)
            prompts.append(Prompt(int(seconds * TOKENS_A_SECOND) + TEMPLATE_TOKENS, 2 * len(answer) + 8, draft))
        return prompts


def decoded(clips: Clips, edits: float, limits: Limits, free_bytes: float) -> Card:
    """What a card is given for one candidate, once memory has set the limits."""
    num_refused = 0
    for _ in range(2):  # the first time is the unpruned model's
        card = Card(free_bytes)
        decoder = SimulatedDecoder(card, clips.answers, limits)
        answers = decoder.decode(clips.prompts(edits), lambda _: {})
        assert [list(answer.tokens[:-1]) for answer in answers] == [list(answer) for answer in clips.answers]
        limits = decoder.limits
        num_refused += card.num_refused
    return replace(card, num_refused=num_refused)


def limits_of(free_bytes: float) -> Limits:
    """As they are measured at start on such a card."""
    columns = (256, 4096)
    few, many = (PASS_SECONDS + number * COLUMN_SECONDS for number in columns)
    peaks = [number * (CACHE_BYTES + TRANSIENT_BYTES) for number in columns]
    return PassCost(columns, (few, many), (peaks[0], peaks[1])).limits(256, free_bytes)


def rows_of(num_clips: int, free_bytes: float) -> Iterable[str]:
    """The lines of the table."""
    limits = limits_of(free_bytes)
    yield "| long clip | edits | seconds | to none | first passes | rounds | padded / real | out of memory |"
    yield "|---" * 8 + "|"
    for edits in EDITS:
        without = None
        for long_clip in LONG_CLIPS:
            card = decoded(Clips.of(num_clips, long_clip), edits, limits, free_bytes)
            without = without or card.seconds
            name = "none" if long_clip is None else f"{long_clip} s"
            cells = [name, f"{edits:.0%}", f"{card.seconds:.2f}", f"{card.seconds / without:.2f}", card.num_passes]
            cells += [card.num_rounds, f"{card.padded / card.real:.2f}", card.num_refused]
            yield f"| {' | '.join(map(str, cells))} |"


def python_seconds(num_clips: int) -> dict[str, float]:
    """CPU seconds of a second candidate of the 30B without its passes: what is read and built once does not count."""
    with tempfile.TemporaryDirectory() as folder:
        config = real_config()
        shapes = family_of(config).layout.expected_tensors(config)
        model_info = open_model(str(write_sparse_checkpoint(Path(folder), config, shapes)))
        saliency = saliency_of(model_info.shape, fingerprint=model_info.checkpoint.fingerprint)
        planner = Planner(model_info, saliency)
    clips = Clips.of(num_clips, None)
    prompts = clips.prompts(0.03)
    card = Card(1e12)
    decoder = SimulatedDecoder(card, clips.answers, limits_of(21e9))
    words = [[f"word{token % 5000}" for token in answer] for answer in clips.answers]
    samples = [Sample(id=str(n), where="", text=" ".join(text)) for n, text in enumerate(words)]

    def judge(number: int) -> None:
        """A tenth of the answers are such as no candidate gave before."""
        heard = [
            " ".join([f"other{number}" if place % 10 == 0 else text[0], *text[1:]]) for place, text in enumerate(words)
        ]
        counts = [asr.judge(sample, output)[0] for sample, output in zip(samples, heard, strict=True)]
        score(counts)
        paired_difference(counts, counts)

    steps = {
        "planned": lambda number: planner.plan(Candidate(retention=0.25 * number, layers_cut=number)),
        "decoded": lambda _: decoder.decode(prompts, lambda _: {}),
        "judged": judge,
    }
    seconds = {}
    for name, step in steps.items():
        step(1)
        started = time.process_time()
        step(2)
        seconds[name] = time.process_time() - started
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--free", type=float, default=21.0, help="GB beside the weights")
    options = parser.parse_args()
    limits = limits_of(options.free * 1e9)
    print(f"{options.clips} clips, {options.free:g} GB free, {limits}\n")
    for line in rows_of(options.clips, options.free * 1e9):
        print(line, flush=True)
    cells = [f"{name} in {seconds:.3f} s" for name, seconds in python_seconds(options.clips).items()]
    print(f"\nCPU time of Python, a candidate: {', '.join(cells)}")


if __name__ == "__main__":
    main()
