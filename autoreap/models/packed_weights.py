"""Matrices of few bits as weights: how they are quantised, and what they stand for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoreap.models.packed import CODES, FORMAT, SCALES, WORD_BITS

if TYPE_CHECKING:
    import torch
    from compressed_tensors.quantization import QuantizationScheme


@lru_cache
def scheme(bits: int, group_size: int) -> QuantizationScheme:
    """How weights are quantised, as the library names it."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=[], weights=QuantizationArgs(**scheme_arguments(bits, group_size)))


def scheme_arguments(bits: int, group_size: int) -> dict[str, Any]:
    """The same as a checkpoint's config names it: symmetric integers, a scale for `group_size` weights of a row."""
    return {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group_size, "symmetric": True}


def unpacked(codes: torch.Tensor, scales: torch.Tensor, num_columns: int) -> torch.Tensor:
    """The weights [R, C] of `codes` [R, C * bits / 32] and `scales` [R, C / group], in the type of the scales.

    They are those that the stock class unpacks. C is `num_columns`.
    """
    from compressed_tensors.compressors import BaseCompressor

    bits = codes.shape[-1] * WORD_BITS // num_columns
    compressor = BaseCompressor.get_value_from_registry(FORMAT)
    matrix = {CODES: codes, SCALES: scales, "weight_shape": (len(codes), num_columns)}
    weights: torch.Tensor = compressor.decompress(matrix, scheme(bits, num_columns // scales.shape[-1]))["weight"]
    return weights
