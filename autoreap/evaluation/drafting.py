"""Greedy decoding that is handed a draft of each answer and verifies it, instead of writing token after token.

One forward pass over prompt and draft gives the model's own choice after each of their tokens. The draft is accepted
up to where the model chooses otherwise; the choice itself is a token of the answer, and decoding goes on from there. So
the answer is what greedy decoding writes, whatever the draft (the verification of Leviathan et al., 2023,
arXiv:2211.17192, where the draft is written by a small model).

Rows whose draft was rejected are gathered from all batches into one pool, which is then decoded together: each round
feeds the last token of a row and the draft tokens that may follow. Where too few of them are accepted, a round feeds
the last tokens alone, which is plain decoding with a cache.

`draft_rows` knows what is written of an answer and how its draft may continue, `draft_pools` rows with their cache,
`draft_passes` the model; here is the order in which they work.

Shape legend, of these modules too: B rows, T prompt tokens (left-padded), D draft tokens (right-padded), Q tokens fed
in a round, C columns of the cache, H hidden.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from transformers import PreTrainedModel

from autoreap.evaluation.draft_passes import DraftPasses
from autoreap.evaluation.draft_pools import Pool, merged, part_of, unfinished
from autoreap.evaluation.draft_rows import AcceptanceStats, Answer, Prompt, Row, draft_length, without_end
from autoreap.models.families.running import RunningModel

# A round holds a token or a few of each row, where a first pass holds whole prompts.
_POOL_FACTOR = 8

Embed = Callable[[Sequence[int]], Mapping[str, torch.Tensor]]


class DraftedDecoder:
    """Decodes greedily, with drafts.

    Args:
        running: the family's, of the model.
        model: whose thinker answers; it may be masked.
        end_token: ends an answer.
        batch_size: prompts in one forward pass. Halved for good where memory runs out.
    """

    def __init__(self, running: RunningModel, model: PreTrainedModel, *, end_token: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self._pool_size = _POOL_FACTOR * batch_size
        self._passes = DraftPasses(running, model, end_token)
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
            likelihoods: score the drafts, too. They are then fed whole, whatever their acceptance rate.
            on_answer: called with a prompt's number and its answer as soon as it is written; what it raises ends all.

        Raises:
            torch.OutOfMemoryError: there is too little memory for a single prompt.
        """
        rows = self._rows(prompts)
        ahead = _by_length(rows)
        pools: list[Pool] = []
        acceptance = AcceptanceStats()
        unreported = set(range(len(rows)))

        def report(worked_on: Sequence[Row]) -> None:
            for row in worked_on:
                if row.finished and row.number in unreported:
                    unreported.remove(row.number)
                    if on_answer:
                        on_answer(row.number, row.as_answer())

        while ahead or pools:
            waiting = sum(len(pool.rows) for pool in pools)
            if ahead and (not pools or waiting + self.batch_size <= self._pool_size):
                batch = ahead[-self.batch_size :]
                if pool := self._first_pass(batch, embed, None if likelihoods else acceptance):
                    del ahead[-len(batch) :]
                    acceptance.update(batch)
                    pools.append(pool)
                    report(batch)
            else:
                pools = self._gathered(pools)
                self._round(pools[-1])
                report(pools[-1].rows)
            pools = [left for pool in pools if (left := unfinished(pool))]
        return [row.as_answer() for row in rows]

    @torch.inference_mode()
    def log_likelihoods(
        self, prompts: Sequence[Prompt], embed: Embed, check: Callable[[], None] = lambda: None
    ) -> list[float]:
        """The log-probability of each whole draft, and of an end after it; NaN where the output is not a number.

        One forward pass over each prompt; nothing is decoded. See `decode`. `check` is called before each batch; what
        it raises ends all.
        """
        rows = self._rows(prompts)
        ahead = _by_length(rows)
        while ahead:
            check()
            batch = ahead[-self.batch_size :]
            if self._first_pass(batch, embed, None):
                del ahead[-len(batch) :]
        return [float("nan") if row.log_likelihood is None else row.log_likelihood for row in rows]

    def _rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        return [Row(number, prompt, without_end(self._end, prompt.draft)) for number, prompt in enumerate(prompts)]

    def _first_pass(self, batch: list[Row], embed: Embed, acceptance: AcceptanceStats | None) -> Pool | None:
        """Prompts with their drafts; None where memory ran out and the batch must be smaller.

        Without `acceptance` the drafts are fed whole, and scored.
        """
        if acceptance is None:
            fed = [list(row.draft) for row in batch]
        else:
            longest = max(len(row.draft) for row in batch)
            length = draft_length([acceptance.rate] * len(batch), longest)
            fed = [row.draft_tokens(length) for row in batch]
        try:
            pool, hidden = self._passes.begin(batch, fed, embed([row.number for row in batch]))
            choices = self._passes.choices(batch, fed, hidden, scored=acceptance is None)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            self.batch_size = len(batch) // 2
            return None
        accepted = _take(batch, fed, choices, self._end)
        pool.mask[:, pool.mask.shape[1] - accepted.shape[1] + 1 :] = accepted[:, 1:].to(pool.mask.device)
        return pool

    def _round(self, pool: Pool) -> None:
        """Go on with every row of `pool`; where memory runs out it stays as it was, and pools must be smaller."""
        most = max(max(0, row.room) for row in pool.rows)
        length = draft_length([row.acceptance_rate() for row in pool.rows], most)
        fed = [row.draft_tokens(length) for row in pool.rows]
        num_columns = pool.mask.shape[1]
        try:
            choices = self._passes.choices(pool.rows, fed, self._passes.go_on(pool, fed))
        except torch.OutOfMemoryError:
            if len(pool.rows) == 1:
                raise
            self._pool_size = len(pool.rows) // 2
            for layer in pool.cache.layers:
                layer.crop(num_columns - layer.get_seq_length())
        else:
            accepted = _take(pool.rows, fed, choices, self._end)
            pool.mask = torch.cat([pool.mask, accepted.to(pool.mask.device)], dim=1)

    def _gathered(self, pools: Sequence[Pool]) -> list[Pool]:
        """The same rows; as many as may be decoded together come last, as one pool."""
        sizes = list(accumulate(len(pool.rows) for pool in pools))
        if sizes[0] > self._pool_size:
            parts = range(self._pool_size, sizes[0]), range(self._pool_size)
            return [*pools[1:], *(part_of(pools[0], part) for part in parts)]
        num_pools = sum(size <= self._pool_size for size in sizes)
        try:
            return [*pools[num_pools:], merged(pools[:num_pools])]
        except torch.OutOfMemoryError:
            self._pool_size = max(sizes[0], sizes[num_pools - 1] // 2)
        return [*pools[1:], pools[0]]


def _by_length(rows: Sequence[Row]) -> list[Row]:
    """The largest batch is taken from the end, first: where memory is too small, that shows at once."""
    return sorted(rows, key=lambda row: (row.prompt.num_tokens, len(row.draft)))


def _take(rows: Sequence[Row], fed: Sequence[list[int]], choices: Sequence[list[int]], end_token: int) -> torch.Tensor:
    """Write the `choices`; bool [B, Q]: which of each row's last token and those fed after it belong to the answer."""
    num_accepted = []
    for row, tokens, chosen in zip(rows, fed, choices, strict=True):
        usable = tokens[: max(0, row.room)]  # a draft that is fed to be scored may be longer than the answer may be
        num_accepted.append(row.take(usable, chosen[: len(usable) + 1], end_token))
    return torch.arange(1 + max(map(len, fed))) <= torch.tensor(num_accepted)[:, None]
