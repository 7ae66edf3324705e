"""A model on disk, and the same model loaded. Nothing heavy is imported before it is loaded."""

from __future__ import annotations

import gc
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from autoreap.errors import InputError, first_line
from autoreap.models.checkpoint import Checkpoint, open_checkpoint, resolve_model
from autoreap.models.families import Family, family_of
from autoreap.models.families.layout import SPEAKING_PARTS
from autoreap.models.headers import TensorInfo
from autoreap.models.packed import plain_shapes
from autoreap.plan import BaseModel, ModelShape

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from autoreap.models.families.chat_inputs import ChatInputs
    from autoreap.models.families.running import Decoder, RunningModel
    from autoreap.models.layer_reader import LayerReader

ACTIVATIONS = 1.1  # of the weights: a batch of utterances beside them, and what the allocator keeps


@dataclass(frozen=True)
class ModelInfo:
    """An opened checkpoint, its family, and what a plan must know of it."""

    name: str
    checkpoint: Checkpoint
    family: Family
    shape: ModelShape

    @property
    def base_model(self) -> BaseModel:
        """As plans name it."""
        return BaseModel(self.name, self.checkpoint.fingerprint)


@dataclass(frozen=True)
class Loaded:
    """A model in memory, with its inputs; of a `streamed` one, all but the layers of the thinker."""

    model_info: ModelInfo
    model: PreTrainedModel
    inputs: ChatInputs
    streamed: bool = False

    @property
    def running(self) -> RunningModel:
        """The family's, of such a model."""
        return self.model_info.family.running

    def decoder(self, component: str) -> Decoder:
        """The decoder of `component`; `InputError` if the model in memory has none."""
        decoder = self.running.decoder(self.model, component)
        if decoder is None:
            raise InputError(f"this model has no {component}", where="--component")
        return decoder

    @cached_property
    def layer_reader(self) -> LayerReader:
        """What reads layers of the thinker from the checkpoint."""
        from autoreap.models.layer_reader import LayerReader

        return LayerReader(self.model_info.family, self.model_info.checkpoint, self.model)


def open_model(model: str, *, download: bool = True) -> ModelInfo:
    """Open MODEL from its headers; `InputError` if it is none that this project knows, see `resolve_model`.

    Example:
        >>> shape = open_model("tiny").shape
        >>> shape.components["thinker"]
        ComponentShape(num_layers=8, num_experts=16, top_k=2)
    """
    path = resolve_model(model, download=download)
    checkpoint = open_checkpoint(path)
    family = family_of(checkpoint.config, where=path / "config.json")
    for tensor in checkpoint.tensors.values():
        family.layout.role_of(tensor)
    return ModelInfo(model, checkpoint, family, family.layout.shape(checkpoint.config))


def load(
    model_info: ModelInfo,
    *,
    speech: bool = False,
    device: str | None = None,
    dtype: str = "auto",
    stream_layers: bool = False,
    keep_packed: bool | None = None,
) -> Loaded:
    """Load the weights. The type `auto` is float32 on a CPU, the stored type on an accelerator.

    The device `auto` puts layers on all accelerators that there are; it is the CPU where there is none.

    With `stream_layers`, the layers of the thinker stay on disk: such a model can be calibrated, nothing else.

    With `keep_packed`, the thinker's experts stay in few bits, where the checkpoint stores them so, and are unpacked
    when they run; None: where memory is too small for them unpacked.

    Raises:
        InputError: layers are to be streamed, and the talker, which needs them all at every step, is to be loaded. Or,
            unless the CPU was asked for: there is an accelerator that can't be used, or the model does not fit.
    """
    if stream_layers and speech:
        problem = "the talker can't be calibrated or healed layer by layer: it needs the whole model in memory"
        raise InputError(problem, where="--stream-layers", fix="leave it out, or give --component thinker")
    if device is None:
        _check_accelerator()
    if keep_packed is None:
        tensors = model_info.checkpoint.tensors.values()
        can_keep = not stream_layers and any(_is_packed_expert(model_info, info) for info in tensors)
        # Only where they must: experts that stay packed cost a pass time (docs/benchmarks.md).
        keep_packed = can_keep and bool(shortage(model_info, device, dtype, speech=speech, keep_packed=False))
    by_layer = stream_layers or keep_packed
    if by_layer and device == "auto":
        device = None  # one is enough
    # Who asks for the CPU by name gets it, swapping or not. A streamed model needs the memory of one layer.
    if device != "cpu" and not stream_layers:
        reason = shortage(model_info, device, dtype, speech=speech, keep_packed=keep_packed)
        if reason:
            fix = "use a larger one, --device auto for several, or --device cpu to load it anyway"
            raise InputError(f"the model does not fit: {reason}", where=model_info.name, fix=fix)
    device, dtype = _resolve(device, dtype)
    path = model_info.checkpoint.path
    _check_weights(model_info, speech=speech)
    logger.info("loading %s on %s%s", model_info.name, device, ", with packed experts" if keep_packed else "")
    running = model_info.family.running
    model = running.load(path, dtype=dtype, device=device, speech=speech, layers=not by_layer)
    if keep_packed:
        from autoreap.models.packed_experts import add_packed_layers

        num_layers = model_info.shape.components["thinker"].num_layers
        add_packed_layers(model_info.family, model_info.checkpoint, model, num_layers)
    return Loaded(model_info, model, running.inputs(path), stream_layers)


def _check_weights(model_info: ModelInfo, *, speech: bool) -> None:
    """Raise `InputError` if a tensor that will be loaded is not stored as the stock class expects it.

    Of one that is missing transformers makes random numbers, and goes on. Its own report comes once all is read, names
    no expert's tensor and no layer that is streamed; to look beforehand takes half a second at 30B.
    """
    layout, checkpoint = model_info.family.layout, model_info.checkpoint
    stored = layout.unfuse_all(plain_shapes(checkpoint.tensors.values()))
    for name, shape in layout.expected_tensors(checkpoint.config, stored).items():
        if (speech or layout.role(name).part not in SPEAKING_PARTS) and stored.get(name) != shape:
            problem = f"tensor {name} is {stored.get(name, 'missing')}, the stock class expects {shape}"
            raise InputError(problem, where=checkpoint.path, fix="fetch the checkpoint again")


def _resolve(device: str | None, dtype: str) -> tuple[str, str]:
    """What `device` and `dtype` mean on this machine."""
    import torch

    if device is None or (device, default_device()) == ("auto", "cpu"):
        device = default_device()
    elif device != "auto":
        try:
            kind = torch.device(device).type
        except RuntimeError:
            raise InputError(f"unknown device {device!r}", where="--device", fix="cuda, cuda:1, cpu or auto") from None
        if kind == "cuda" and default_device() != "cuda":
            raise InputError("this machine has no CUDA device", where="--device", fix="leave it out, or use cpu")
    if (device, dtype) == ("cpu", "auto"):
        dtype = "float32"
    return device, dtype


# What torch says where there is nothing to use, or where it was hidden on purpose.
_NO_ACCELERATOR = ("found no nvidia driver", "no cuda gpus are available", "no hip gpus are available")


def _check_accelerator() -> None:
    """Raise `InputError` if there is an accelerator that torch can't use: the CPU would take days, and be killed."""
    import torch

    if default_device() != "cpu" or (torch.version.cuda is None and torch.version.hip is None):
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = first_line(error)
        if not any(sign in reason.lower() for sign in _NO_ACCELERATOR):
            fix = "install a newer driver or the torch for it (`autoreap doctor`), or ask for the CPU: --device cpu"
            raise InputError(f"the accelerator can't be used: {reason}", where="--device", fix=fix) from None


def default_device() -> str:
    """An accelerator where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_packed_expert(model_info: ModelInfo, info: TensorInfo) -> bool:
    """It is of an expert of the thinker, and stored in few bits."""
    if info.stands_for is None:
        return False
    role = model_info.family.layout.role(info.name)
    return role.part == "thinker" and role.expert is not None


def shortage(
    model_info: ModelInfo, device: str | None, dtype: str, *, speech: bool = False, keep_packed: bool = True
) -> str | None:
    """Why the thinker and its encoders can't be loaded now: needed and free memory; None if they can be.

    With `speech`, what speaks counts, too. `device` and `dtype` as `load` takes them. Without `keep_packed`, experts
    that are stored in few bits count as they are computed with.

    Call `release` first where another model has just gone out of use.
    """
    import torch

    device, dtype = _resolve(device, dtype)
    needed = 0
    for info in model_info.checkpoint.tensors.values():
        if not speech and model_info.family.layout.role(info.name).part in SPEAKING_PARTS:
            continue
        loaded = _bytes_in_memory(info, dtype)
        # Those of one layer are unpacked at a time.
        if keep_packed and _is_packed_expert(model_info, info):
            loaded = info.num_bytes + loaded // model_info.shape.components["thinker"].num_layers
        needed += loaded
    if device == "cpu":
        free = free_memory()
    elif device == "auto":
        free = sum(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    else:
        free = torch.cuda.mem_get_info(device)[0]
    if needed * ACTIVATIONS <= free:
        return None
    return f"it needs {needed * ACTIVATIONS / 1e9:.1f} GB of memory on {device}, but {free / 1e9:.1f} GB are free"


def _bytes_in_memory(info: TensorInfo, dtype: str) -> int:
    import torch

    if dtype != "auto":
        loaded: torch.dtype = getattr(torch, dtype)
        return info.num_parameters * loaded.itemsize
    if info.stands_for is None:
        return info.num_bytes
    # The type of the scales, so of what is unpacked.
    return info.num_parameters * torch.bfloat16.itemsize


def free_memory() -> int:
    """Bytes that a process may still take."""
    import psutil

    return int(psutil.virtual_memory().available)


def release() -> None:
    """Give back the memory of models that are no longer referred to."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # a device that is lost to this process fails at this, too
            torch.cuda.empty_cache()
