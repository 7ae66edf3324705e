"""How much of decoding goes through the model at once, and what happens where memory is too small for it.

The work of a pass, and the memory it takes, grow with its columns: its rows times their width, padding included. So a
recording of forty minutes is one row of a pass of its own, and takes nothing from the others.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from autoreap.evaluation.draft_rows import Row
from autoreap.models.faults import is_out_of_memory
from autoreap.validation import NO_OTHER_KEYS, PositiveInteger

T = TypeVar("T")

# A round holds a token or a few of each row, where a first pass holds whole prompts.
_POOL_FACTOR = 8
CPU_COLUMNS = 2**16
# On a CPU a pass takes about as long as this many tokens in it, beside the tokens themselves.
CPU_PASS_TOKENS = 128


@dataclass(frozen=True)
class Limits:
    """What is decoded together. From these and the answers follow the shapes of all passes.

    Attributes:
        rows: in a first pass, over whole prompts; a pool may have eight times as many.
        first_columns: of a first pass, padding included; a longer row has a pass of its own.
        pool_columns: of all pools' caches, padding included.
        pass_tokens: what a pass costs beside its tokens, as a number of tokens.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    rows: PositiveInteger
    first_columns: PositiveInteger = CPU_COLUMNS
    pool_columns: PositiveInteger = CPU_COLUMNS
    pass_tokens: PositiveInteger = CPU_PASS_TOKENS

    def pool_rows(self, width: int) -> int:
        """How many rows of `width` columns a pool may have; one at least."""
        return max(1, min(_POOL_FACTOR * self.rows, self.pool_columns // width))

    def has_room(self, num_rows: int, num_columns: int) -> bool:
        """Whether pools of so many rows and columns may wait, all together."""
        return num_rows <= _POOL_FACTOR * self.rows and num_columns <= self.pool_columns


def next_batch(ahead: Sequence[Row], limits: Limits) -> list[Row]:
    """Which of the rows `ahead`, the longest last, go through one pass: the longest, and what is not much shorter.

    The batch ends where its padding costs more than a pass. Where lengths fall evenly, by s tokens a row, that is the
    best size: n rows cost a share of P / n and s n / 2 each, least where the padding of all, s n^2 / 2, equals P.
    """
    longest = ahead[-1].prompt.num_tokens
    draft = padding = 0
    for count, row in enumerate(reversed(ahead)):
        draft = max(draft, len(row.draft))
        padding += longest - row.prompt.num_tokens
        # The longest row goes through alone, however long it is.
        most = min(limits.rows, limits.first_columns // (longest + draft))
        if count >= max(1, most) or padding > limits.pass_tokens:
            return list(ahead[-count:])
    return list(ahead)


class Attempts:
    """Tries what memory may be too small for, notes where it was, and can fail where an earlier run did.

    Args:
        replayed: the attempts, counted from 0, that find too little memory without being made. They make the passes of
            a run those of another one, on a device that has more memory.

    Attributes:
        refused: the attempts for which memory was too small.
    """

    def __init__(self, replayed: Collection[int] = ()) -> None:
        self.refused: list[int] = []
        self._replayed = frozenset(replayed)
        self._count = 0

    def __call__(self, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where memory is too small for it."""
        number = self._count
        self._count += 1
        if number not in self._replayed:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
        self.refused.append(number)
        return None
