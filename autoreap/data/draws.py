"""Which rows a limit takes: the same ones each time, and a higher limit takes these and more."""

import hashlib
import heapq
import math
from collections.abc import Iterable
from typing import TypeVar

_BLOCK = 100  # rows: a row group of recordings, as `datasets` writes them to the hub
_TURNS = 4  # in which a block gives its rows

Row = TypeVar("Row")


def draw_rows(rows: Iterable[Row], limit: int | None) -> list[tuple[int, Row]]:
    """`limit` of `rows` with their numbers, drawn evenly from all of them, in their order; None takes all.

    The first rows of a data set are those of few speakers. Drawn are the numbers with the lowest digests.
    """
    numbered = enumerate(rows)
    if limit is None:
        return list(numbered)
    # A digest depends on the number alone, so a higher limit takes no row away.
    chosen = heapq.nsmallest(limit, numbered, key=lambda entry: _digest(entry[0]))
    return sorted(chosen, key=lambda entry: entry[0])


def draw_in_blocks(num_rows: int, limit: int) -> list[int]:
    """`limit` of the numbers below `num_rows`, in their order, from few blocks of 100 rows that follow each other.

    Rows drawn evenly would lie in almost every row group, so almost all would have to be downloaded. Here blocks come
    in the order of their digests and give a fourth of their rows each; where all have done so, another fourth. So the
    rows lie in about `4 * limit / 100` blocks, spread over the whole set.
    """
    ranked = []
    for first in range(0, num_rows, _BLOCK):
        block = sorted(range(first, min(first + _BLOCK, num_rows)), key=_digest)
        at_once = math.ceil(len(block) / _TURNS)
        for place, number in enumerate(block):
            ranked.append((place // at_once, _digest(first), place, number))
    return sorted(number for *_, number in heapq.nsmallest(limit, ranked))


def _digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()
