"""Functions on transformers' stock classes that all families share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoreap.errors import InputError

_MAX_PARAMETERS = 100_000  # a model of 235B with one tensor an expert has fewer than half as many

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def read_model(
    read: Callable[..., Any], path: Path, config: Any, *, dtype: torch.dtype | str, device: str, layers: bool
) -> PreTrainedModel:
    """What `read`, a `from_pretrained`, makes of a checkpoint with this `config`, in evaluation mode.

    Without `layers` it has tensors that the model has no place for; nothing is said of them. Packed matrices are
    unpacked.
    """
    is_packed = getattr(config, "quantization_config", None) is not None
    if is_packed:
        # Packed, transformers unpacks a matrix only in a forward pass of the whole model: layers alone could not run.
        config.quantization_config["dequantize"] = True
    # No pickle is read, and no code that comes with a checkpoint runs.
    with nullcontext() if layers else _unreported():
        model = read(path, config=config, dtype=dtype, device_map=device, use_safetensors=True, trust_remote_code=False)
    if is_packed and dtype != "auto":
        # The stock class leaves unpacked experts in the type of their scales.
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(model.dtype)
    return cast("PreTrainedModel", model.eval())


def empty_layer(layer_class: Any, config: Any, number: int, dtype: torch.dtype) -> nn.Module:
    """Decoder layer `number` as its class builds it from the decoder's `config`, on the meta device."""
    import torch

    with torch.device("meta"):
        layer = layer_class(config, number)
    return cast("nn.Module", layer.to(dtype).eval())


def tensors_in_memory(stock: Any, config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Names and shapes of the tensors of the class `stock` built from the raw `config`, and which of them are tied.

    Those that are tied share the tensor of another, whose name is given by theirs: the head that of the embeddings.

    Raises:
        InputError: the class can't be built from this config.
    """
    # As text, as a cache needs keys that can be hashed; and copies of what it keeps, as callers change them.
    shapes, tied = _tensors_of(stock, json.dumps(config, sort_keys=True))
    return dict(shapes), dict(tied)


# To build a model takes a tenth of a second even without its weights, and one write of a checkpoint asks for it twice.
@lru_cache(maxsize=8)
def _tensors_of(stock: Any, config: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    import torch
    from huggingface_hub.errors import StrictDataclassError

    num_parameters = 0

    # A config of absurd sizes would build modules until memory is full, even without weights.
    def count(*_registered: Any) -> None:
        nonlocal num_parameters
        num_parameters += 1
        if num_parameters > _MAX_PARAMETERS:
            raise ValueError(f"it has more than {_MAX_PARAMETERS:,} parameters")

    counting = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            model = stock(stock.config_class(**json.loads(config)))
    except (
        StrictDataclassError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        LookupError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the stock class can't be built from it: {reason}", where="config.json") from None
    finally:
        counting.remove()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes, dict(model.all_tied_weights_keys)


@contextmanager
def _unreported() -> Iterator[None]:
    """Without the report of tensors that the checkpoint has and the model has not."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
