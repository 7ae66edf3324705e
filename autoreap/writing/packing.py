"""Matrices to the three tensors in which compressed-tensors stores them: codes, scales and shape."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from autoreap.errors import InputError
from autoreap.models.headers import TensorInfo
from autoreap.models.packed import CODES, FORMAT, SCALES, SHAPE, WORD_BITS
from autoreap.writing.output_tensor import OutputTensor

if TYPE_CHECKING:
    import torch


# Compared by identity: the last one that was packed is kept until its three tensors are written.
@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix [R, C] that will be packed.

    Attributes:
        name: of its tensor.
        source: the tensor whose place it takes.
        bits, group_size: see `plan.Quantisation`.
        fitted: its values, where they are not the source's.
    """

    name: str
    source: TensorInfo
    bits: int
    group_size: int
    fitted: "torch.Tensor | None" = None

    def parts(self) -> tuple[OutputTensor, ...]:
        """Codes [R, C * bits / 32], scales [R, C / group_size] and shape [2].

        Raises:
            InputError: rows don't divide into groups.
        """
        rows, columns = self.source.shape
        if columns % self.group_size:
            raise InputError(
                f"rows of {self.name} have {columns} weights, which don't divide into groups of {self.group_size}",
                where="bits_group",
                fix="take a group size that divides the rows of all matrices, such as 16 or 32",
            )
        # Each row begins a new word: its last one may be partly empty.
        words, groups = -(-columns * self.bits // WORD_BITS), columns // self.group_size
        prefix = self.name.removesuffix("weight")
        forms = {
            CODES: ("I32", (rows, words), 4 * rows * words, (rows, columns)),
            SCALES: ("BF16", (rows, groups), 2 * rows * groups, (0,)),
            SHAPE: ("I64", (2,), 16, (0,)),
        }
        parts = []
        for part, (dtype, shape, num_bytes, stands_for) in forms.items():
            values = partial(_part, self, part)
            name = prefix + part
            parts.append(OutputTensor(name, dtype, shape, num_bytes, self.source, values=values, stands_for=stands_for))
        return tuple(parts)


def _part(matrix: Matrix, part: str) -> "torch.Tensor":
    return _pack(matrix)[part]


@lru_cache(maxsize=1)
def _pack(matrix: Matrix) -> "dict[str, torch.Tensor]":
    from compressed_tensors.compressors import BaseCompressor

    from autoreap.dimensions.bits import scales_of
    from autoreap.models.packed_weights import scheme
    from autoreap.models.tensors import read_tensor

    weights = matrix.fitted
    if weights is None:
        weights = read_tensor(matrix.source)
    weights = weights.float()
    scales = scales_of(weights, matrix.bits, matrix.group_size)
    compressor = BaseCompressor.get_value_from_registry(FORMAT)
    packed: dict[str, torch.Tensor] = compressor.compress(
        {"weight": weights, SCALES: scales}, scheme(matrix.bits, matrix.group_size)
    )
    return packed
