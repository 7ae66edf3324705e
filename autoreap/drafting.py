"""Greedy decoding that is handed a draft of each answer and verifies it, instead of writing token after token.

One forward pass over prompt and draft gives the model's own choice after each of their tokens. The draft is accepted
up to where the model chooses otherwise; the choice itself is a token of the answer, and decoding goes on from there. So
the answer is what greedy decoding writes, whatever the draft (the verification of Leviathan et al., 2023,
arXiv:2211.17192, where the draft is written by a small model).

Rows whose draft did not hold are gathered from all batches into one pool, which is then decoded together: each round
feeds the last token of a row and what its draft may go on with. Where too little of the drafts holds, a round feeds the
last tokens alone, which is plain decoding with a cache.

Shape legend: B rows, T prompt tokens (left-padded), D draft tokens (right-padded), Q tokens fed in a round, C columns
of the cache, H hidden, N places whose next token is asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch.nn.functional import log_softmax, pad
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from autoreap.families import Family

# A forward pass takes about as long as this many tokens in it, beside the tokens themselves.
_PASS_IN_TOKENS = 128
# A round holds a token or a few of each row, where a first pass holds whole prompts.
_POOL_FACTOR = 8
# What is believed of drafts before one was tried: that so many tokens held before one did not.
_BELIEF = 50
# The share of a pool's cache that is nobody's any more, from which on it pays to move the rest together.
_WASTE = 0.15
# Tokens for which a cache has room when it grows.
_SPARE_COLUMNS = 16
# Rows of logits that are in memory at once: a vocabulary may have 150,000 entries.
_HEAD_ROWS = 512
# Chosen where the model's output is not a number.
_NO_TOKEN = -1

_T = TypeVar("_T")
Embed = Callable[[Sequence[int]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    Attributes:
        num_tokens: its length, media included.
        max_new_tokens: bounds the answer; at least 1.
        draft: tokens that the answer is thought to have; may be empty.
    """

    num_tokens: int
    max_new_tokens: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A greedy answer, and how its draft fared.

    Attributes:
        tokens: at most `max_new_tokens`, with the end token where it was reached.
        num_drafted: tokens that were fed because the draft had them.
        num_accepted: how many of these the model chose, too.
        draft_log_likelihood: the log-probability of the whole draft, and of an end after it; None where not asked for.
        is_number: whether the model's output was one all along; if not, the answer breaks off there.
    """

    tokens: tuple[int, ...]
    num_drafted: int
    num_accepted: int
    draft_log_likelihood: float | None = None
    is_number: bool = True


@dataclass
class _Row:
    """An answer as far as it is written. `next` is where in the draft it may go on."""

    number: int
    prompt: Prompt
    draft: tuple[int, ...]
    answer: list[int] = field(default_factory=list)
    next: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_misses: int = 0
    rounds_in_vain: int = 0
    finished: bool = False
    is_number: bool = True
    log_likelihood: float | None = None

    @property
    def room(self) -> int:
        """How many tokens there may be before the last one."""
        return self.prompt.max_new_tokens - len(self.answer) - 1

    @property
    def num_cached(self) -> int:
        """All its tokens but the last."""
        return self.prompt.num_tokens + len(self.answer) - 1

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        return [] if self.finished else list(self.draft[self.next : self.next + min(limit, self.room)])

    def take(self, guess: Sequence[int], chosen: Sequence[int], end_token: int) -> int:
        """Write what the model chose; how many tokens of `guess` are accepted.

        `chosen` is what comes after each of its tokens, and before the first: one more.
        """
        if self.finished:
            return 0
        accepted = next((place for place, token in enumerate(guess) if token != chosen[place]), len(guess))
        self.is_number = chosen[accepted] != _NO_TOKEN
        self.answer += chosen[: accepted + 1] if self.is_number else [*chosen[:accepted], end_token]
        self.num_drafted += len(guess)
        self.num_accepted += accepted
        self.num_misses += accepted < len(guess)
        self.rounds_in_vain = 0 if accepted else self.rounds_in_vain + 1
        self.next = self._continuation(self.next + accepted)
        self.finished = self.room < 0 or self.answer[-1] == end_token
        return accepted

    def chance(self) -> float:
        """How probable it is that the draft's next token holds, by what held before (Laplace's rule of succession)."""
        if self.finished or self.next >= len(self.draft) or self.room == 0:
            return 0.0
        return (self.num_accepted + 1) / (self.num_accepted + self.num_misses + 2)

    def as_answer(self) -> Answer:
        """What it has come to."""
        tokens = self.answer if self.is_number else self.answer[:-1]
        return Answer(tuple(tokens), self.num_drafted, self.num_accepted, self.log_likelihood, self.is_number)

    def _continuation(self, expected: int) -> int:
        """Where the draft goes on after the last token written, which was expected at `expected`.

        Found by that token, so that one left out or put in does not shift all that follows; once rounds were in vain,
        by the last two. Where it is not found, it stands in for the token expected.
        """
        in_vain = self.rounds_in_vain > 1
        last = tuple(self.answer[-2:] if in_vain else self.answer[-1:])
        ends = [end for end in range(len(last), len(self.draft) + 1) if self.draft[end - len(last) : end] == last]
        if ends:
            return min(ends, key=lambda end: abs(end - 1 - expected))
        return len(self.draft) if in_vain else expected + 1


@dataclass
class _Pool:
    """Rows under way.

    Attributes:
        rows: B of them.
        cache: all their tokens but the last of each, and columns that are to be passed by.
        mask: [B, C] which columns are a row's own.
        first: [B] position of the answer's first token.
    """

    rows: list[_Row]
    cache: Cache
    mask: torch.Tensor
    first: torch.Tensor


@dataclass
class _Belief:
    """How many tokens of drafts held in the first passes, and how many did not."""

    num_accepted: int = _BELIEF
    num_misses: int = 1

    @property
    def chance(self) -> float:
        """Of one token."""
        return self.num_accepted / (self.num_accepted + self.num_misses)

    def update(self, batch: Sequence[_Row]) -> None:
        """After the first pass of `batch`."""
        self.num_accepted += sum(row.num_accepted for row in batch)
        self.num_misses += sum(row.num_misses for row in batch)


class DraftedDecoder:
    """Decodes greedily, with drafts.

    Args:
        family: of the model.
        model: whose thinker answers; it may be masked.
        end_token: ends an answer.
        batch_size: prompts in one forward pass. Halved for good where memory runs out.
    """

    def __init__(self, family: Family, model: PreTrainedModel, *, end_token: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self._pool_size = _POOL_FACTOR * batch_size
        self._family = family
        self._model = model
        self._thinker: Any = family.thinker(model)
        self._end = end_token

    @torch.inference_mode()
    def decode(
        self,
        prompts: Sequence[Prompt],
        embed: Embed,
        *,
        likelihoods: bool = False,
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """The answer to each prompt, as the thinker's greedy `generate` gives it from the same embeddings.

        Args:
            prompts: what is to be answered.
            embed: the thinker's left-padded inputs for the prompts of these numbers: `input_ids` and `attention_mask`
                [B, T], `inputs_embeds` [B, T, H], pictures with their grids.
            likelihoods: score the drafts, too. They are then fed whole, whatever their chances.
            on_answer: called with a prompt's number and its answer as soon as it is written; what it raises ends all.

        Raises:
            torch.OutOfMemoryError: there is too little memory for a single prompt.
        """
        rows = self._rows(prompts)
        ahead = _by_length(rows)
        pools: list[_Pool] = []
        belief = _Belief()
        unreported = set(range(len(rows)))

        def report(worked_on: Sequence[_Row]) -> None:
            for row in worked_on:
                if row.finished and row.number in unreported:
                    unreported.remove(row.number)
                    if on_answer:
                        on_answer(row.number, row.as_answer())

        while ahead or pools:
            waiting = sum(len(pool.rows) for pool in pools)
            if ahead and (not pools or waiting + self.batch_size <= self._pool_size):
                batch = ahead[-self.batch_size :]
                if pool := self._first_pass(batch, embed, None if likelihoods else belief):
                    del ahead[-len(batch) :]
                    belief.update(batch)
                    pools.append(pool)
                    report(batch)
            else:
                pools = self._gathered(pools)
                self._round(pools[-1])
                report(pools[-1].rows)
            pools = [left for pool in pools if (left := _unfinished(pool))]
        return [row.as_answer() for row in rows]

    @torch.inference_mode()
    def log_likelihoods(self, prompts: Sequence[Prompt], embed: Embed) -> list[float]:
        """The log-probability of each whole draft, and of an end after it; NaN where the output is not a number.

        One forward pass over each prompt; nothing is decoded. See `decode`.
        """
        rows = self._rows(prompts)
        ahead = _by_length(rows)
        while ahead:
            batch = ahead[-self.batch_size :]
            if self._first_pass(batch, embed, None):
                del ahead[-len(batch) :]
        return [float("nan") if row.log_likelihood is None else row.log_likelihood for row in rows]

    def _rows(self, prompts: Sequence[Prompt]) -> list[_Row]:
        return [_Row(number, prompt, _before(self._end, prompt.draft)) for number, prompt in enumerate(prompts)]

    def _first_pass(self, batch: list[_Row], embed: Embed, belief: _Belief | None) -> _Pool | None:
        """Prompts with their drafts; None where memory ran out and the batch must be smaller.

        Without a `belief` the drafts are fed whole, and scored.
        """
        if belief is None:
            fed = [list(row.draft) for row in batch]
        else:
            depth = _depth([belief.chance] * len(batch), max(len(row.draft) for row in batch))
            fed = [row.guess(depth) for row in batch]
        try:
            pool, hidden = self._begun(batch, fed, embed([row.number for row in batch]))
            choices = self._choices(batch, fed, hidden, scored=belief is None)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            self.batch_size = len(batch) // 2
            return None
        accepted = _take(batch, fed, choices, self._end)
        pool.mask[:, pool.mask.shape[1] - accepted.shape[1] + 1 :] = accepted[:, 1:].to(pool.mask.device)
        return pool

    def _begun(
        self, batch: list[_Row], fed: Sequence[list[int]], inputs: Mapping[str, torch.Tensor]
    ) -> tuple[_Pool, torch.Tensor]:
        """A pool of prompts and the tokens `fed` after them, with [B, 1 + D, H] of their last token and of these."""
        positions = self._family.positions(self._model, inputs)
        after = positions[..., -1:] + 1
        first = after.view(-1, len(batch))[0]  # prompts end in text, where all axes agree
        tokens, are_fed = self._padded(fed)
        mask = torch.cat([inputs["attention_mask"].bool(), are_fed], dim=1)
        draft_positions = after + torch.arange(tokens.shape[1], device=after.device)
        pool = _Pool(batch, _empty_cache(), mask, first)
        # Pictures are put where the ids say, so no token of a draft may be among them.
        input_ids = torch.cat([inputs["input_ids"], torch.full_like(tokens, self._end)], dim=1)
        replaced = ("input_ids", "attention_mask", "inputs_embeds")
        media = {name: tensor for name, tensor in inputs.items() if name not in replaced}
        hidden = self._thinker.base_model(
            **media,
            input_ids=input_ids,
            inputs_embeds=torch.cat([inputs["inputs_embeds"], self._embeddings(tokens)], dim=1),
            attention_mask=mask,
            position_ids=torch.cat([positions, draft_positions], dim=-1),
            past_key_values=pool.cache,
            use_cache=True,
        ).last_hidden_state
        return pool, hidden[:, inputs["input_ids"].shape[1] - 1 :]

    def _round(self, pool: _Pool) -> None:
        """Go on with every row of `pool`; where memory runs out it stays as it was, and pools must be smaller."""
        depth = _depth([row.chance() for row in pool.rows], max(max(0, row.room) for row in pool.rows))
        fed = [row.guess(depth) for row in pool.rows]
        num_columns = pool.mask.shape[1]
        try:
            choices = self._choices(pool.rows, fed, self._continued(pool, fed))
        except torch.OutOfMemoryError:
            if len(pool.rows) == 1:
                raise
            self._pool_size = len(pool.rows) // 2
            for layer in pool.cache.layers:
                layer.crop(num_columns - layer.get_seq_length())
        else:
            accepted = _take(pool.rows, fed, choices, self._end)
            pool.mask = torch.cat([pool.mask, accepted.to(pool.mask.device)], dim=1)

    def _continued(self, pool: _Pool, fed: Sequence[list[int]]) -> torch.Tensor:
        """[B, Q, H] of the last token of each row, and of the tokens `fed` after it."""
        tokens, are_fed = self._padded([[row.answer[-1], *guess] for row, guess in zip(pool.rows, fed, strict=True)])
        written = torch.tensor([len(row.answer) - 1 for row in pool.rows], device=tokens.device)
        decoder: Any = self._family.decoder(self._model, "thinker")
        hidden: torch.Tensor = decoder(
            inputs_embeds=self._embeddings(tokens),
            attention_mask=torch.cat([pool.mask, are_fed], dim=1),
            position_ids=(pool.first + written)[:, None] + torch.arange(tokens.shape[1], device=tokens.device),
            past_key_values=pool.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _choices(
        self, rows: Sequence[_Row], fed: Sequence[list[int]], hidden: torch.Tensor, *, scored: bool = False
    ) -> list[list[int]]:
        """For each row the most probable tokens after its last token and after those `fed`, from `hidden` [B, Q, H].

        `_NO_TOKEN` where the output is not a number.
        `scored` sets the row's log-likelihood of `fed`, and of an end after them.
        """
        lengths = [len(tokens) + 1 for tokens in fed]
        flat = [(row, column) for row, length in enumerate(lengths) for column in range(length)]
        places = torch.tensor(flat, device=hidden.device)
        wanted = [token for tokens in fed for token in (*tokens, self._end)] if scored else []
        head = self._thinker.get_output_embeddings()
        chosen: list[int] = []
        log_likelihoods: list[float] = []
        for part in torch.split(places, _HEAD_ROWS):
            logits = head(hidden[part[:, 0], part[:, 1]]).float()
            best = logits.argmax(dim=-1, keepdim=True)
            best = best.where(logits.gather(1, best).isfinite(), _NO_TOKEN)
            if scored:
                targets = torch.tensor(wanted[len(chosen) : len(chosen) + len(part)], device=logits.device)
                log_likelihoods += log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0].tolist()
            chosen += best[:, 0].tolist()
        if scored:
            for row, values in zip(rows, _cut(log_likelihoods, lengths), strict=True):
                row.log_likelihood = sum(values)
        return _cut(chosen, lengths)

    def _embeddings(self, tokens: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._thinker.get_input_embeddings()(tokens)
        return embeddings

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded [B, Q], and which of it is no padding."""
        width = max(map(len, sequences))
        filled = [[*sequence, *[self._end] * (width - len(sequence))] for sequence in sequences]
        tokens = torch.tensor(filled, dtype=torch.long, device=self._family.device(self._model)).view(
            len(sequences), width
        )
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=tokens.device)
        return tokens, torch.arange(width, device=tokens.device) < lengths[:, None]

    def _gathered(self, pools: Sequence[_Pool]) -> list[_Pool]:
        """The same rows; as many as may be decoded together come last, as one pool."""
        sizes = list(accumulate(len(pool.rows) for pool in pools))
        if sizes[0] > self._pool_size:
            parts = range(self._pool_size, sizes[0]), range(self._pool_size)
            return [*pools[1:], *(_part(pools[0], part) for part in parts)]
        num_pools = sum(size <= self._pool_size for size in sizes)
        try:
            return [*pools[num_pools:], _merged(pools[:num_pools])]
        except torch.OutOfMemoryError:
            self._pool_size = max(sizes[0], sizes[num_pools - 1] // 2)
        return [*pools[1:], pools[0]]


def _depth(chances: Sequence[float], most: int) -> int:
    """How many tokens of its draft to feed for each row, if each of them holds with its row's chance; `most` at most.

    One token more of every row costs as much as B tokens. If it holds, it saves the row a round, of which the row's
    share is (`_PASS_IN_TOKENS` + B) / B tokens.
    """
    num_rows = len(chances)
    least = num_rows**2 / (_PASS_IN_TOKENS + num_rows)
    depth, hold = 0, list(chances)
    while depth < most and sum(hold) >= least:
        depth += 1
        hold = [probability * chance for probability, chance in zip(hold, chances, strict=True)]
    return depth


def _by_length(rows: Sequence[_Row]) -> list[_Row]:
    """The largest batch is taken from the end, first: where memory is too small, that shows at once."""
    return sorted(rows, key=lambda row: (row.prompt.num_tokens, len(row.draft)))


def _before(end_token: int, draft: tuple[int, ...]) -> tuple[int, ...]:
    """`draft` without the token that ends it, and what follows."""
    return draft[: draft.index(end_token)] if end_token in draft else draft


def _cut(values: list[_T], lengths: Sequence[int]) -> list[list[_T]]:
    """Consecutive pieces of these lengths."""
    ends = list(accumulate(lengths))
    return [values[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _take(rows: Sequence[_Row], fed: Sequence[list[int]], choices: Sequence[list[int]], end_token: int) -> torch.Tensor:
    """Write the `choices`; bool [B, Q]: which of each row's last token and those fed after it belong to the answer."""
    num_accepted = []
    for row, tokens, chosen in zip(rows, fed, choices, strict=True):
        guess = tokens[: max(0, row.room)]  # a draft that is fed to be scored may be longer than the answer may be
        num_accepted.append(row.take(guess, chosen[: len(guess) + 1], end_token))
    return torch.arange(1 + max(map(len, fed))) <= torch.tensor(num_accepted)[:, None]


def _unfinished(pool: _Pool) -> _Pool | None:
    """The rows that go on, with a few of the others where it does not pay to part them; None where none goes on."""
    going_on = [number for number, row in enumerate(pool.rows) if not row.finished]
    if not going_on:
        return None
    used = len(going_on) * max(pool.rows[number].num_cached for number in going_on)
    if used > (1 - _WASTE) * pool.mask.numel():
        return pool
    try:
        return _part(pool, going_on)
    except torch.OutOfMemoryError:
        return pool


def _part(pool: _Pool, numbers: Sequence[int]) -> _Pool:
    """Some rows of `pool`; their columns are moved together, to the right."""
    indices = torch.tensor(numbers, device=pool.mask.device)
    rows = [pool.rows[i] for i in numbers]
    mask = pool.mask[indices]
    columns = mask.byte().argsort(dim=1, stable=True)[:, -max(row.num_cached for row in rows) :]

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        _, num_heads, num_columns, width = tensor.shape
        heads = indices[:, None] * num_heads + torch.arange(num_heads, device=indices.device)
        places = (heads[:, :, None] * num_columns + columns[:, None, :]).to(tensor.device)
        # Whole vectors are copied; `gather` would look up each of their elements.
        return tensor.reshape(-1, width).index_select(0, places.flatten()).view(*places.shape, width)

    cache = _cache_of([(moved(layer.keys), moved(layer.values)) for layer in pool.cache.layers])
    return _Pool(rows, cache, mask.gather(1, columns), pool.first[indices])


def _merged(pools: Sequence[_Pool]) -> _Pool:
    """One pool of all rows, padded on the left."""
    if len(pools) == 1:
        return pools[0]
    width = max(pool.mask.shape[1] for pool in pools)
    widths = [width - pool.mask.shape[1] for pool in pools]

    def joined(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([pad(tensor, (0, 0, more, 0)) for tensor, more in zip(tensors, widths, strict=True)])

    layers = zip(*(pool.cache.layers for pool in pools), strict=True)
    return _Pool(
        rows=[row for pool in pools for row in pool.rows],
        cache=_cache_of([(joined(one.keys for one in same), joined(one.values for one in same)) for same in layers]),
        mask=torch.cat([pad(pool.mask, (more, 0)) for pool, more in zip(pools, widths, strict=True)]),
        first=torch.cat([pool.first for pool in pools]),
    )


class _Layer(DynamicLayer):  # type: ignore[misc]
    """A layer of the cache with room for tokens to come, so that a round need not copy what is there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put [B, heads, Q, width] behind what is there; all of it. See `DynamicLayer.update`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._stored = key_states, value_states
            return self.keys, self.values
        used = self.keys.shape[2]
        needed = used + key_states.shape[2]
        if needed > self._stored[0].shape[2]:
            self._stored = _with_room(self.keys, needed), _with_room(self.values, needed)
        for stored, states in zip(self._stored, (key_states, value_states), strict=True):
            stored[:, :, used:needed] = states
        self.keys, self.values = (stored[:, :, :needed] for stored in self._stored)
        return self.keys, self.values


def _with_room(tensor: torch.Tensor, num_columns: int) -> torch.Tensor:
    """A copy that has place for `num_columns` and more."""
    larger = tensor.new_empty((*tensor.shape[:2], num_columns + _SPARE_COLUMNS, tensor.shape[3]))
    larger[:, :, : tensor.shape[2]] = tensor
    return larger


def _cache_of(layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Cache:
    """A cache of these keys and values, layer by layer."""
    cache = _empty_cache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def _empty_cache() -> Cache:
    return Cache(layer_class_to_replicate=_Layer)
