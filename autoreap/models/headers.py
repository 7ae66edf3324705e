"""The header of a safetensors file: which tensors it holds, of what form, and where their bytes lie. No torch.

The layout is 8 bytes of header length (little endian), a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from autoreap.errors import InputError
from autoreap.reading import MAX_JSON_BYTES, parse_json

_DTYPE_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16},
    **{"U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8},
    **{"F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
_MAX_SIZE = 2**63


@dataclass(frozen=True)
class TensorForm:
    """A tensor of a checkpoint, on disk or planned.

    Attributes:
        dtype: safetensors' name of it, such as BF16.
        stands_for: of the codes of a packed matrix its shape; (0,) of what belongs to them; None of any other tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    stands_for: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        if self.stands_for is not None:
            return math.prod(self.stands_for)
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return self.num_bytes // math.prod(self.shape)


@dataclass(frozen=True)
class TensorInfo(TensorForm):
    """One stored tensor, and where its bytes lie."""

    shard: Path
    offset: int


def read_header(shard: Path) -> list[TensorInfo]:
    """The tensors of one safetensors file, in the order of their bytes."""
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            # The shortest header is {}. In a file of less than eight bytes the upper limit is below zero.
            if not 2 <= header_bytes <= min(MAX_JSON_BYTES, size - 8):
                raise InputError("not a safetensors file, or truncated", where=shard, fix="fetch it again")
            header = parse_json(file.read(header_bytes))
    except FileNotFoundError:
        raise InputError("this shard is missing", where=shard, fix="fetch the checkpoint again") from None
    except ValueError as error:
        raise InputError(f"its header is not JSON: {error}", where=shard, fix="fetch it again") from None
    if not isinstance(header, dict):
        raise InputError("its header is not that of a safetensors file", where=shard, fix="fetch it again")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError("its __metadata__ must be a mapping of texts", where=shard, fix="fetch it again")
    tensors = [_tensor_info(name, entry, shard, 8 + header_bytes) for name, entry in header.items()]
    # By size, too: an empty tensor begins where the next one does.
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.num_bytes))
    end = 8 + header_bytes
    for tensor in tensors:
        if tensor.offset != end:
            problem = f"tensor {tensor.name} begins at byte {tensor.offset:,}, but the previous one ends at {end:,}"
            raise InputError(problem, where=shard, fix="fetch it again")
        end += tensor.num_bytes
    if end > size:
        raise InputError(f"truncated: {size:,} bytes, but its header says {end:,}", where=shard, fix="fetch it again")
    if end < size:
        raise InputError(f"has {size - end:,} bytes after its last tensor", where=shard, fix="fetch it again")
    return tensors


def _tensor_info(name: str, entry: Any, shard: Path, data_offset: int) -> TensorInfo:
    """A tensor as the header describes it; errors that safetensors would raise later are raised here."""
    if not isinstance(entry, dict):
        raise InputError("its header is not that of a safetensors file", where=shard, fix="fetch it again")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise InputError(f"tensor {name} has an unknown type, {dtype!r}", where=shard, fix="fetch it again")
    if not _are_sizes(shape):
        raise InputError(f"tensor {name} has an invalid shape: {shape!r}", where=shard, fix="fetch it again")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"tensor {name} has invalid data_offsets: {offsets!r}", where=shard, fix="fetch it again")
    start, end = offsets
    if math.prod(shape) * _DTYPE_BITS[dtype] != 8 * (end - start):
        problem = f"tensor {name} of shape {tuple(shape)} in {dtype} has {end - start} bytes"
        raise InputError(problem, where=shard, fix="fetch it again")
    return TensorInfo(name, dtype, tuple(shape), num_bytes=end - start, shard=shard, offset=data_offset + start)


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    # `type`, as true and false are integers for `isinstance`.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)
