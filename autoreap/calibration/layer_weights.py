"""One decoder layer of a model that was loaded without its layers, read from the checkpoint."""

import torch
from torch import nn

from autoreap.errors import InputError
from autoreap.models.checkpoint import TensorInfo
from autoreap.models.loading import Described, Loaded

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_layer(loaded: Loaded, number: int) -> nn.Module:
    """Layer `number` of the thinker with its weights from the checkpoint, in the model's type and on its device.

    One stored tensor is in memory beside it at a time. That none is missing was seen when the model was loaded.

    Raises:
        InputError: a tensor is none of the layer's, or of a type that is no floating-point number.
    """
    described, model = loaded.described, loaded.model
    layer = described.family.running.new_layer(model, number).to_empty(device=model.device)
    parameters = dict(layer.named_parameters())
    for info in _tensors_of_layer(described, number):
        name, index = described.family.layout.slot(info.name, info.shape)
        if name not in parameters or parameters[name][index].shape != info.shape:
            raise InputError(f"tensor {info.name} of shape {info.shape} fits no parameter", where=info.shard)
        with torch.no_grad():
            parameters[name][index].copy_(_tensor(info))
    return layer


def _tensors_of_layer(described: Described, number: int) -> list[TensorInfo]:
    """In the order of their bytes."""
    roles = {name: described.family.layout.role(name) for name in described.checkpoint.tensors}
    own = [
        info
        for name, info in described.checkpoint.tensors.items()
        if (roles[name].part, roles[name].layer) == ("thinker", number)
    ]
    return sorted(own, key=lambda info: (info.shard, info.offset))


def _tensor(info: TensorInfo) -> torch.Tensor:
    if info.dtype not in _DTYPES:
        raise InputError(f"tensor {info.name} is of type {info.dtype}", where=info.shard)
    buffer = bytearray(info.num_bytes)
    with info.shard.open("rb") as file:
        file.seek(info.offset)
        if file.readinto(buffer) != info.num_bytes:
            raise InputError(f"ends in the middle of {info.name}", where=info.shard, fix="fetch it again")
    return torch.frombuffer(buffer, dtype=_DTYPES[info.dtype]).view(info.shape)
