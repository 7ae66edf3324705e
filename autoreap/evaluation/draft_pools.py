"""Rows that are decoded together, and the cache of what they have read.

Rows leave a pool as they finish, and pools are joined; then the cache is laid out anew. Shape legend: see `drafting`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from autoreap.evaluation.draft_limits import Attempts
from autoreap.evaluation.draft_rows import Row

# The share of a pool's cache that is nobody's any more, from which on it pays to move the rest together.
_WASTE = 0.15
# Tokens for which a cache has room when it grows.
_SPARE_COLUMNS = 16


@dataclass
class Pool:
    """Rows under way.

    Attributes:
        rows: B of them.
        cache: all their tokens but the last of each, and columns that are to be passed by.
        mask: [B, C] which columns are a row's own.
        first: [B] position of the answer's first token.
    """

    rows: list[Row]
    cache: Cache
    mask: torch.Tensor
    first: torch.Tensor

    @property
    def width(self) -> int:
        """C."""
        return self.mask.shape[1]

    @property
    def num_columns(self) -> int:
        """Of all its rows, padding included."""
        return self.mask.numel()


def unfinished(pool: Pool, attempts: Attempts) -> Pool | None:
    """The rows that go on, with a few of the others where it does not pay to part them; None where none goes on."""
    going_on, longest = [], 0
    for number, row in enumerate(pool.rows):
        if not row.finished:
            going_on.append(number)
            longest = max(longest, row.num_cached)
    if not going_on:
        return None
    if len(going_on) * longest > (1 - _WASTE) * pool.num_columns:
        return pool
    return attempts(lambda: part_of(pool, going_on)) or pool


def part_of(pool: Pool, numbers: Sequence[int]) -> Pool:
    """Some rows of `pool`; their columns are moved together, to the right."""
    indices = torch.tensor(numbers, device=pool.mask.device)
    rows = [pool.rows[i] for i in numbers]
    mask = pool.mask[indices]
    # Sorted by the mask, and stably, a row's own columns come last, in their order. Not every device sorts booleans.
    columns = mask.byte().argsort(dim=1, stable=True)[:, -max(row.num_cached for row in rows) :]

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        _, num_heads, num_columns, width = tensor.shape
        heads = indices[:, None] * num_heads + torch.arange(num_heads, device=indices.device)
        places = (heads[:, :, None] * num_columns + columns[:, None, :]).to(tensor.device)
        # Whole vectors are copied; `gather` would look up each of their elements.
        return tensor.reshape(-1, width).index_select(0, places.flatten()).view(*places.shape, width)

    cache = _cache_of([(moved(layer.keys), moved(layer.values)) for layer in pool.cache.layers])
    return Pool(rows, cache, mask.gather(1, columns), pool.first[indices])


def merged(pools: Sequence[Pool]) -> Pool:
    """One pool of all rows, padded on the left."""
    if len(pools) == 1:
        return pools[0]
    width = max(pool.width for pool in pools)
    rows: list[Row] = []
    widths = []  # of the padding of each pool
    for pool in pools:
        rows += pool.rows
        widths.append(width - pool.width)

    def joined(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        # `pad` takes the last dimension first: nothing more of the width, and columns on the left.
        return torch.cat([pad(tensor, (0, 0, more, 0)) for tensor, more in zip(tensors, widths, strict=True)])

    layers = []
    for same in zip(*(pool.cache.layers for pool in pools), strict=True):
        layers.append((joined(layer.keys for layer in same), joined(layer.values for layer in same)))
    return Pool(
        rows=rows,
        cache=_cache_of(layers),
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
            # As they are, without a copy; the next update makes room.
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._stored = key_states, value_states
            return self.keys, self.values
        used = self.keys.shape[2]
        needed = used + key_states.shape[2]
        if needed > self._stored[0].shape[2]:
            self._stored = _with_room(self.keys, needed), _with_room(self.values, needed)
        keys, values = self._stored
        keys[:, :, used:needed] = key_states
        values[:, :, used:needed] = value_states
        self.keys, self.values = keys[:, :, :needed], values[:, :, :needed]
        return self.keys, self.values


def _with_room(tensor: torch.Tensor, num_columns: int) -> torch.Tensor:
    """A copy that has place for `num_columns` and more."""
    larger = tensor.new_empty((*tensor.shape[:2], num_columns + _SPARE_COLUMNS, tensor.shape[3]))
    larger[:, :, : tensor.shape[2]] = tensor
    return larger


def _cache_of(layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Cache:
    """A cache of these keys and values, layer by layer."""
    cache = empty_cache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def empty_cache() -> Cache:
    """A cache whose layers grow without copies."""
    return Cache(layer_class_to_replicate=_Layer)
