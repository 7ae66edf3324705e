"""Tensors of a checkpoint, read one by one."""

import torch

from autoreap.errors import InputError
from autoreap.models.headers import TensorInfo

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CODES = {"I32": torch.int32}  # of packed matrices


def read_tensor(info: TensorInfo) -> torch.Tensor:
    """The values of a stored tensor, in their stored type; `InputError` where its file ends too early."""
    dtype = _CODES.get(info.dtype) or stored_type(info)
    buffer = bytearray(info.num_bytes)  # may be written to, as torch wants of a buffer
    with info.shard.open("rb") as file:
        file.seek(info.offset)
        if file.readinto(buffer) != info.num_bytes:
            raise InputError(f"ends in the middle of {info.name}", where=info.shard, fix="fetch it again")
    return torch.frombuffer(buffer, dtype=dtype).view(info.shape)


def stored_type(info: TensorInfo) -> torch.dtype:
    """The type of a stored tensor; `InputError` where it is no floating-point number that is computed with."""
    if info.dtype not in _FLOATS:
        raise InputError(f"tensor {info.name} is of type {info.dtype}", where=info.shard)
    return _FLOATS[info.dtype]
