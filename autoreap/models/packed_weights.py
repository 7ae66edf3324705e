"""Matrices of few bits as weights: how they are quantised, and what they stand for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoreap.models.packed import CODES, FORMAT, SCALES, SHAPE, WORD_BITS

if TYPE_CHECKING:
    import torch
    from compressed_tensors.quantization import QuantizationScheme


# Its values are checked each time that one is made, and every slab of weights asks for it.
@lru_cache
def scheme(bits: int, group_size: int) -> QuantizationScheme:
    """How weights are quantised, as the library names it."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=[], weights=QuantizationArgs(**scheme_arguments(bits, group_size)))


def scheme_arguments(bits: int, group_size: int) -> dict[str, Any]:
    """The same as a checkpoint's config names it: symmetric integers, a scale for `group_size` weights of a row."""
    return {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group_size, "symmetric": True}


def unpacked(codes: torch.Tensor, scales: torch.Tensor, num_columns: int) -> torch.Tensor:
    """The weights [R, C] of `codes` [R, words] and `scales` [R, groups], in the type of the scales; C = `num_columns`.

    They are those that the stock class unpacks, to the bit.
    """
    bits = codes.shape[-1] * WORD_BITS // num_columns
    # Rows that fill their words; of others, what pads the last word would have to be cut off.
    if bits in (4, 8) and num_columns * bits % WORD_BITS == 0:
        return _unpacked_by_bytes(codes, scales, bits)
    from compressed_tensors.compressors import BaseCompressor

    compressor = BaseCompressor.get_value_from_registry(FORMAT)
    matrix = {CODES: codes, SCALES: scales, SHAPE: (len(codes), num_columns)}
    weights: torch.Tensor = compressor.decompress(matrix, scheme(bits, num_columns // scales.shape[-1]))["weight"]
    return weights


def _unpacked_by_bytes(codes: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """What fills bytes evenly. The library takes words apart, which at 8 bits takes eight times as long."""
    import torch

    parts = codes.view(torch.uint8)  # of a word the lowest bits come first
    if bits == 4:
        parts = torch.stack((parts & 15, parts >> 4), dim=-1).flatten(-2)
    values = parts.to(scales.dtype).sub_(1 << (bits - 1))  # exact in every type that scales have
    groups = values.view(*scales.shape, -1)
    return groups.mul_(scales[..., None]).flatten(-2)
