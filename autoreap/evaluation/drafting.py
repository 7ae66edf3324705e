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

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from autoreap.evaluation.draft_limits import Attempts, Limits, next_batch
from autoreap.evaluation.draft_passes import DraftPasses
from autoreap.evaluation.draft_pools import Pool, merged, part_of, unfinished
from autoreap.evaluation.draft_rows import AcceptanceStats, Answer, Prompt, Row, draft_length, without_end
from autoreap.models.families.running import RunningModel

Embed = Callable[[Sequence[int]], Mapping[str, torch.Tensor]]


class DraftedDecoder:
    """Decodes greedily, with drafts.

    Args:
        running: the family's, of the model.
        model: whose thinker answers; it may be masked.
        end_token: ends an answer.
        limits: of what is decoded together.

    Attributes:
        limits: as given; where memory runs out, that which was too large is lowered for good.
    """

    def __init__(self, running: RunningModel, model: PreTrainedModel, *, end_token: int, limits: Limits) -> None:
        self.limits = limits
        self._attempts = Attempts()
        self._passes = DraftPasses(running, model, end_token)
        self._end = end_token

    def begin_run(self, replayed: Collection[int] = ()) -> None:
        """Count attempts anew; those `replayed` find too little memory, see `Attempts`."""
        self._attempts = Attempts(replayed)

    @property
    def refused(self) -> tuple[int, ...]:
        """The attempts of this run for which memory was too small."""
        return tuple(self._attempts.refused)

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
            batch: list[Row] = []
            if ahead:
                batch = next_batch(ahead, self.limits)
            # As long as there is room, prompts go first: the more rows a round has, the less it costs for each.
            if batch and (not pools or self._has_room(pools, batch)):
                if pool := self._first_pass(batch, embed, None if likelihoods else acceptance):
                    del ahead[-len(batch) :]
                    acceptance.update(batch)
                    pools.append(pool)
                    report(batch)
            else:
                pools = self._gathered(pools)
                self._round(pools[-1])
                report(pools[-1].rows)
            pools = [left for pool in pools if (left := unfinished(pool, self._attempts))]
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
            batch = next_batch(ahead, self.limits)
            if self._first_pass(batch, embed, None):
                del ahead[-len(batch) :]
        values = []
        for row in rows:
            assert row.log_likelihood is not None  # each went through a first pass
            values.append(row.log_likelihood)
        return values

    def _rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        return [Row(number, prompt, without_end(self._end, prompt.draft)) for number, prompt in enumerate(prompts)]

    def _has_room(self, pools: Sequence[Pool], batch: Sequence[Row]) -> bool:
        """Whether `batch` may wait beside `pools`."""
        num_rows, num_columns = len(batch), _num_columns(batch)
        for pool in pools:
            num_rows += len(pool.rows)
            num_columns += pool.num_columns
        return self.limits.has_room(num_rows, num_columns)

    def _first_pass(self, batch: list[Row], embed: Embed, acceptance: AcceptanceStats | None) -> Pool | None:
        """Prompts with their drafts; None where memory ran out and the batch must be smaller.

        Without `acceptance` the drafts are fed whole, and scored.
        """
        if acceptance is None:
            fed = [list(row.draft) for row in batch]
        else:
            longest = max(len(row.draft) for row in batch)
            length = draft_length([acceptance.rate] * len(batch), longest, self.limits.pass_tokens)
            fed = [row.draft_tokens(length) for row in batch]

        def run() -> tuple[Pool, list[list[int]]]:
            pool, hidden = self._passes.begin(batch, fed, embed([row.number for row in batch]))
            return pool, self._passes.choices(batch, fed, hidden, scored=acceptance is None)

        found = self._attempts(run)
        if found is None:
            _check_can_be_parted(batch)
            self.limits = replace(self.limits, first_columns=_num_columns(batch) // 2)
            return None
        pool, choices = found
        # All that was fed was masked as a row's own. What was not accepted stays in the cache and is passed by.
        accepted = _take(batch, fed, choices, self._end)
        pool.mask[:, pool.width - accepted.shape[1] + 1 :] = accepted[:, 1:].to(pool.mask.device)
        return pool

    def _round(self, pool: Pool) -> None:
        """Go on with every row of `pool`; where memory runs out it stays as it was, and pools must be smaller."""
        most = max(max(0, row.room) for row in pool.rows)
        # What is fed takes memory as prompts do.
        most = min(most, self.limits.first_columns // len(pool.rows))
        length = draft_length([row.acceptance_rate() for row in pool.rows], most, self.limits.pass_tokens)
        fed = [row.draft_tokens(length) for row in pool.rows]
        num_columns = pool.width
        choices = self._attempts(lambda: self._passes.choices(pool.rows, fed, self._passes.go_on(pool, fed)))
        if choices is None:
            _check_can_be_parted(pool.rows)
            self.limits = replace(self.limits, pool_columns=pool.num_columns // 2)
            # Some layers have read the tokens, some have not. A negative length is cut off from the end.
            for layer in pool.cache.layers:
                layer.crop(num_columns - layer.get_seq_length())
        else:
            accepted = _take(pool.rows, fed, choices, self._end)
            pool.mask = torch.cat([pool.mask, accepted.to(pool.mask.device)], dim=1)

    def _gathered(self, pools: Sequence[Pool]) -> list[Pool]:
        """The same rows; as many as may be decoded together come last, as one pool."""
        first = pools[0]
        most = self.limits.pool_rows(first.width)
        if len(first.rows) > most:
            rest = part_of(first, range(most, len(first.rows)))
            return [*pools[1:], rest, part_of(first, range(most))]
        num_pools, num_rows, width = 1, len(first.rows), first.width
        for pool in pools[1:]:
            width = max(width, pool.width)
            if num_rows + len(pool.rows) > self.limits.pool_rows(width):
                break
            num_rows += len(pool.rows)
            num_pools += 1
        together = self._attempts(lambda: merged(pools[:num_pools]))
        if together is not None:
            return [*pools[num_pools:], together]
        # What is refused together goes on in parts; a pool that is there already can be decoded as it is.
        num_columns = num_rows * max(pool.width for pool in pools[:num_pools])
        self.limits = replace(self.limits, pool_columns=max(first.num_columns, num_columns // 2))
        return [*pools[1:], first]


def _by_length(rows: Sequence[Row]) -> list[Row]:
    """The largest batch is taken from the end, first: where memory is too small, that shows at once."""
    return sorted(rows, key=lambda row: (row.prompt.num_tokens, len(row.draft)))


def _num_columns(batch: Sequence[Row]) -> int:
    """Of one pass over `batch` with whole drafts, padding included."""
    return len(batch) * (max(row.prompt.num_tokens for row in batch) + max(len(row.draft) for row in batch))


def _check_can_be_parted(rows: Sequence[Row]) -> None:
    """Raise `torch.OutOfMemoryError` if memory is too small for one row alone."""
    if len(rows) == 1:
        num_tokens = rows[0].prompt.num_tokens
        raise torch.OutOfMemoryError(f"memory is too small for a single prompt of {num_tokens:,} tokens")


def _take(rows: Sequence[Row], fed: Sequence[list[int]], choices: Sequence[list[int]], end_token: int) -> torch.Tensor:
    """Write the `choices`; bool [B, Q]: which of each row's last token and those fed after it belong to the answer."""
    num_accepted = []
    for row, tokens, chosen in zip(rows, fed, choices, strict=True):
        # A draft that is fed to be scored may be longer than the answer may be.
        usable = tokens[: max(0, row.room)]
        num_accepted.append(row.take(usable, chosen[: len(usable) + 1], end_token))
    return torch.arange(1 + max(map(len, fed))) <= torch.tensor(num_accepted)[:, None]
