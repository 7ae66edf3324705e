"""A tensor of a checkpoint that will be written. No torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoreap.models.headers import TensorForm, TensorInfo

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OutputTensor(TensorForm):
    """One tensor of the result.

    It is `rows` of `source` (all of it for None), zeros where there is no source, or what `values` computes when it is
    written.
    """

    source: TensorInfo | None
    rows: tuple[int, ...] | None = None
    values: "Callable[[], torch.Tensor] | None" = field(default=None, compare=False)

    def byte_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of its bytes in the source's file, in order; neighbouring rows are one run."""
        if self.source is None:
            return
        if self.rows is None:
            yield self.source.offset, self.source.num_bytes
            return
        row_bytes = self.source.num_bytes // self.source.shape[0]
        start = self.rows[0]  # of the run under way
        # A run ends where the next row that is retained is not the next one that is stored.
        for row, following in zip(self.rows, (*self.rows[1:], None), strict=True):
            if following == row + 1:
                continue
            yield self.source.offset + start * row_bytes, (row + 1 - start) * row_bytes
            if following is not None:
                start = following
