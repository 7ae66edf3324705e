"""The forward passes of drafted decoding: over prompts with their drafts, then over how each answer may continue.

Shape legend: see `drafting`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from autoreap.evaluation.draft_pools import Pool, empty_cache
from autoreap.evaluation.draft_rows import NO_TOKEN, Row
from autoreap.models.families.running import RunningModel

# Rows of logits that are in memory at once: a vocabulary may have 150,000 entries.
_HEAD_ROWS = 512


class DraftPasses:
    """Runs a model over prompts and drafts.

    Args:
        running: the family's, of the model.
        model: whose thinker answers; it may be masked.
        end_token: ends an answer.
    """

    def __init__(self, running: RunningModel, model: PreTrainedModel, end_token: int) -> None:
        self._running = running
        self._model = model
        self._thinker: Any = running.thinker(model)
        self._end = end_token

    def begin(
        self, batch: list[Row], fed: Sequence[list[int]], inputs: Mapping[str, torch.Tensor]
    ) -> tuple[Pool, torch.Tensor]:
        """A pool of prompts and the tokens `fed` after them, with [B, 1 + D, H] of their last token and of these."""
        positions = self._running.positions(self._model, inputs)
        after = positions[..., -1:] + 1
        first = after.view(-1, len(batch))[0]  # prompts end in text, where all axes agree
        tokens, are_fed = self._padded(fed)
        mask = torch.cat([inputs["attention_mask"].bool(), are_fed], dim=1)
        draft_positions = after + torch.arange(tokens.shape[1], device=after.device)
        pool = Pool(batch, empty_cache(), mask, first)
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

    def go_on(self, pool: Pool, fed: Sequence[list[int]]) -> torch.Tensor:
        """[B, Q, H] of the last token of each row, and of the tokens `fed` after it."""
        last_and_fed, num_before = [], []
        for row, draft in zip(pool.rows, fed, strict=True):
            last_and_fed.append([row.answer[-1], *draft])
            num_before.append(len(row.answer) - 1)
        tokens, are_fed = self._padded(last_and_fed)
        first = pool.first + torch.tensor(num_before, device=tokens.device)
        decoder: Any = self._running.decoder(self._model, "thinker")
        hidden: torch.Tensor = decoder(
            inputs_embeds=self._embeddings(tokens),
            attention_mask=torch.cat([pool.mask, are_fed], dim=1),
            position_ids=first[:, None] + torch.arange(tokens.shape[1], device=tokens.device),
            past_key_values=pool.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def choices(
        self, rows: Sequence[Row], fed: Sequence[list[int]], hidden: torch.Tensor, *, scored: bool = False
    ) -> list[list[int]]:
        """For each row the most probable tokens after its last token and after those `fed`, from `hidden` [B, Q, H].

        `NO_TOKEN` where the output is not a number.
        `scored` sets the row's log-likelihood of `fed`, and of an end after them.
        """
        lengths: list[int] = []
        flat: list[tuple[int, int]] = []
        wanted: list[int] = []
        for place, tokens in enumerate(fed):
            lengths.append(len(tokens) + 1)
            flat += [(place, column) for column in range(len(tokens) + 1)]
            wanted += [*tokens, self._end]
        # The pass is still under way: what is sent now must not wait for it, and what is fetched waits once.
        places = torch.tensor(flat).to(hidden.device, non_blocking=True)
        drafted = torch.tensor(wanted).to(hidden.device, non_blocking=True)
        head = self._thinker.get_output_embeddings()
        chosen: list[torch.Tensor] = []
        log_likelihoods: list[torch.Tensor] = []
        for part, targets in zip(torch.split(places, _HEAD_ROWS), torch.split(drafted, _HEAD_ROWS), strict=True):
            logits = head(hidden[part[:, 0], part[:, 1]]).float()
            best = logits.argmax(dim=-1, keepdim=True)
            # Of logits with a NaN, argmax gives the NaN's place.
            best = best.where(logits.gather(1, best).isfinite(), NO_TOKEN)
            chosen.append(best[:, 0])
            if scored:
                targets = targets.to(logits.device)[:, None]
                log_likelihoods.append(log_softmax(logits, dim=-1).gather(1, targets)[:, 0])
        if scored:
            of_rows = torch.split(torch.cat(log_likelihoods).cpu(), lengths)
            for row, values in zip(rows, of_rows, strict=True):
                row.log_likelihood = sum(values.tolist())
        return [tokens.tolist() for tokens in torch.split(torch.cat(chosen).cpu(), lengths)]

    def _embeddings(self, tokens: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._thinker.get_input_embeddings()(tokens)
        return embeddings

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded [B, Q], and which of it is no padding."""
        lengths = [len(sequence) for sequence in sequences]
        width = max(lengths)
        device = self._running.device(self._model)
        filled = []
        for sequence in sequences:
            padding = [self._end] * (width - len(sequence))
            filled.append([*sequence, *padding])
        # Where nothing is fed the lists are empty, and torch would make a tensor of floats.
        tokens = torch.tensor(filled, dtype=torch.long, device=device)
        is_own = torch.arange(width, device=tokens.device) < torch.tensor(lengths, device=tokens.device)[:, None]
        return tokens, is_own
