"""Decoder layers of the thinker, read from a checkpoint one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from autoreap.errors import InputError
from autoreap.models.checkpoint import Checkpoint
from autoreap.models.families import Family
from autoreap.models.headers import TensorInfo
from autoreap.models.packed import CODES, SCALES
from autoreap.models.packed_weights import unpacked
from autoreap.models.tensors import read_tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StoredWeights:
    """Weights of a layer as they are stored: as values, or as codes with their scales.

    Attributes:
        parameter: where they go, by its name within the layer.
        index: and to which part of that.
        shape: as they are computed with.
    """

    parameter: str
    index: tuple[int | slice, ...]
    shape: tuple[int, ...]
    values: TensorInfo
    scales: TensorInfo | None = None

    def read(self) -> torch.Tensor:
        """As they are computed with, in their stored type."""
        values = read_tensor(self.values)
        if self.scales is None:
            return values
        return unpacked(values, read_tensor(self.scales), self.shape[-1])


class LayerReader:
    """Reads layers of a thinker that was loaded without them.

    Args:
        family, checkpoint: of the model.
        model: whose type and device the layers get.
    """

    def __init__(self, family: Family, checkpoint: Checkpoint, model: PreTrainedModel) -> None:
        self._family, self._checkpoint, self._model = family, checkpoint, model
        # By layer, in the order of their bytes.
        self._tensors: dict[int, list[TensorInfo]] = defaultdict(list)
        for info in sorted(checkpoint.tensors.values(), key=lambda info: (info.shard, info.offset)):
            role = family.layout.role(info.name)
            # Scales and shape of a packed matrix stand for (0,): they are read with its codes.
            if role.part == "thinker" and role.layer is not None and info.stands_for != (0,):
                self._tensors[role.layer].append(info)

    def read(self, number: int) -> nn.Module:
        """Layer `number`; one stored tensor is in memory beside it at a time.

        That none is missing was seen when the model was loaded.

        Raises:
            InputError: a tensor is none of the layer's, or of a type that is no floating-point number.
        """
        layer = self._family.running.new_layer(self._model, number)
        self.fill(layer, self.stored(number))
        return layer

    def stored(self, number: int) -> list[StoredWeights]:
        """All that is stored of layer `number`, in the order of its bytes."""
        return [self._stored(info) for info in self._tensors[number]]

    def _stored(self, info: TensorInfo) -> StoredWeights:
        if info.stands_for is None:
            return StoredWeights(*self._family.layout.slot(info.name, info.shape), info.shape, info)
        prefix, shape = info.name.removesuffix(CODES), info.stands_for
        slot = self._family.layout.slot(f"{prefix}weight", shape)
        return StoredWeights(*slot, shape, info, self._checkpoint.tensors[prefix + SCALES])

    def fill(self, layer: nn.Module, stored: Sequence[StoredWeights]) -> None:
        """Read `stored` into `layer`, whose parameters are without values."""
        layer.to_empty(device=self._model.device)
        parameters = dict(layer.named_parameters())
        for weights in stored:
            name, index = weights.parameter, weights.index
            if name not in parameters or parameters[name][index].shape != weights.shape:
                problem = f"tensor {weights.values.name} of shape {weights.shape} fits no parameter"
                raise InputError(problem, where=weights.values.shard)
            # Else torch refuses to write into a leaf that asks for a gradient.
            with torch.no_grad():
                parameters[name][index].copy_(weights.read())
