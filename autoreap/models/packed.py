"""Matrices that compressed-tensors has packed, each as `weight_packed`, `weight_scale` and `weight_shape`. No torch.

Which checkpoints of quantised weights can be read, and what their tensors stand for.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreap.errors import InputError, shown

if TYPE_CHECKING:
    from autoreap.models.headers import TensorForm, TensorInfo

CODES, SCALES, SHAPE = "weight_packed", "weight_scale", "weight_shape"
WORD_BITS = 32  # codes are stored in words of int32
SCALE_BITS = 16  # bfloat16
METHOD, FORMAT = "compressed-tensors", "pack-quantized"
_KEYS = ("quantization_config", "compression_config")
_FIX = "take the model in bfloat16, and let autoreap quantise it with bits"
# Of methods that are known, what people call them.
_METHODS = {"fp8": "FP8", "fbgemm_fp8": "FP8", "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes"}
# All other types hold codes of quantised weights. Indices and masks are stored in I64 and BOOL.
_READABLE = ("F64", "F32", "F16", "BF16", "I64", "BOOL")
# What quantisers call their codes and scales, which may be stored in an ordinary type.
_CODES = re.compile(
    r".*(weight_scale(_inv)?|(input|weight|output)_(scale|zero_point)|activation_scale|scale_inv|qweight|qzeros|scales"
    r"|g_idx|weight_packed|SCB|absmax|quant_map|quant_state\..*)"
)


def plain_shapes(tensors: Iterable[TensorForm]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Names and shapes as if nothing were packed."""
    for tensor in tensors:
        if tensor.stands_for is None:
            yield tensor.name, tensor.shape
        elif tensor.name.endswith(CODES):
            yield f"{tensor.name.removesuffix(CODES)}weight", tensor.stands_for


def packed_shapes(
    config: Mapping[str, Any], where: Path, tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[int, ...]]:
    """`TensorForm.stands_for` of each packed tensor; empty if nothing is packed. `config` lies in the file `where`.

    Raises:
        InputError: weights are stored as codes of another kind: read as they are, they would be other weights. Or a
            part of a packed matrix is missing.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if _check_config(config, where):
        for name in tensors:
            if name.endswith(f".{CODES}"):
                shapes |= _shapes_of_matrix(name.removesuffix(CODES), tensors)
    for tensor in tensors.values():
        if tensor.name not in shapes and (tensor.dtype not in _READABLE or _CODES.fullmatch(tensor.name)):
            problem = f"tensor {tensor.name} is stored in {tensor.dtype}: quantised models are not read"
            raise InputError(problem, where=tensor.shard, fix=_FIX)
    return shapes


def _check_config(config: Mapping[str, Any], where: Path) -> bool:
    """Whether the config says that matrices are packed; `InputError` if it says that they are quantised otherwise."""
    for part in config.values():  # of a part of the model, such as the thinker
        for key in _KEYS:
            if isinstance(part, Mapping) and part.get(key):
                raise InputError(f"{key}: quantised models are not read", where=where, fix=_FIX)
    section = config.get(_KEYS[0]) or config.get(_KEYS[1])
    if not section:
        return False
    if not isinstance(section, Mapping):
        raise InputError(f"{_KEYS[0]} must be a mapping, got {shown(section)}", where=where, fix="fetch it again")
    problem = _unreadable(section)
    if problem is not None:
        raise InputError(f"{_KEYS[0]}: {problem}", where=where, fix=_FIX)
    return True


def _unreadable(section: Mapping[str, Any]) -> str | None:
    """Why weights that are quantised as `section` says are not read; None if they are."""
    method = str(section.get("quant_method"))
    if method != METHOD:
        title = _METHODS.get(method, shown(method))
        return f"quantised models are not read, except those of {METHOD}; this is {title}"
    groups = section.get("config_groups")
    if section.get("format") != FORMAT or not isinstance(groups, Mapping):
        return f"of {METHOD} only {FORMAT} is read, not {shown(section.get('format'))}"
    for name, group in groups.items():
        # What a group does not say is as the library has it by default: symmetric integers.
        weights = group.get("weights") if isinstance(group, Mapping) else None
        fits = isinstance(weights, Mapping) and weights.get("type", "int") == "int" and weights.get("symmetric", True)
        if not fits:
            return f"group {shown(name)} is not of symmetric integers, so it is not read"
        if group.get("input_activations"):
            return f"group {shown(name)} quantises activations, too, so it is not read"
    return None


def _shapes_of_matrix(prefix: str, tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    codes = tensors[prefix + CODES]
    for part in (SCALES, SHAPE):
        if prefix + part not in tensors:
            raise InputError(f"tensor {prefix}{part} is missing", where=codes.shard, fix="fetch the checkpoint again")
    stored = tensors[prefix + SHAPE]
    if stored.dtype != "I64" or stored.shape != (2,):
        problem = f"tensor {stored.name} is of shape {stored.shape} in {stored.dtype}, not two of I64"
        raise InputError(problem, where=stored.shard, fix="fetch the checkpoint again")
    with stored.shard.open("rb") as file:
        file.seek(stored.offset)
        # Two numbers of 64 bits, little endian as all of safetensors.
        shape = struct.unpack("<2q", file.read(16))
    fits = codes.dtype == "I32" and codes.shape[:-1] == shape[:-1]
    # A code has one bit at least.
    if not fits or codes.shape[-1] * WORD_BITS < shape[-1] or math.prod(shape) <= 0:
        problem = f"tensor {codes.name} of shape {codes.shape} in {codes.dtype} can't hold a matrix of shape {shape}"
        raise InputError(problem, where=codes.shard, fix="fetch the checkpoint again")
    # (0,): without weights of their own, so that each weight is counted once.
    return {prefix + CODES: shape, prefix + SCALES: (0,), prefix + SHAPE: (0,)}
