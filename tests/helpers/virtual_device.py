"""A second device that is not there: its tensors lie in the host's memory, and say that they lie on `cuda`.

Where CUDA refuses tensors of two devices, so does this one. Each time the host would wait for the device is counted by
the place in the package, and so is each copy to it. What a kernel computes is what the CPU computes: nothing is told of
its rounding, its speed or its memory.

A storage carries the mark `is_on_device`, which all its views share.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import autoreap
from autoreap.models.families import qwen_omni, stock

DEVICE = torch.device("cuda", 0)
CAPABILITY = (9, 0)
FREE_BYTES, TOTAL_BYTES = 80 * 10**9, 85 * 10**9
PACKAGE = str(Path(autoreap.__file__).parent) + "/"

aten = torch.ops.aten
_DEVICE_OF = torch.Tensor.device.__get__
_IS_CUDA = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_IS_CPU = torch.Tensor.is_cpu.__get__  # type: ignore[attr-defined]
_COPIES = (aten.copy_.default, aten._to_copy.default)
# Their result's size depends on values, or is a value.
_WAITS = (
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
)
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class VirtualDevice:
    """What happened on the device.

    Attributes:
        mismatches: operations that CUDA would have refused, each with its place.
        waits: how often the host waited for the device, by place.
        copies: how often the host sent something and waited until it was there, and all before it done, by place.
    """

    def __init__(self) -> None:
        self.mismatches: list[str] = []
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    @contextmanager
    def present(self, monkeypatch: pytest.MonkeyPatch) -> Iterator["VirtualDevice"]:
        """While the context lasts, torch has this device, and models are loaded onto it."""
        with monkeypatch.context() as patch:
            for name, value in _CUDA.items():
                patch.setattr(torch.cuda, name, value)
            read_model = partial(_read_model, stock.read_model)
            for module in (stock, qwen_omni):
                patch.setattr(module, "read_model", read_model)
            with _Functions(self), _Operations(self):
                yield self

    def refuse(self, what: str) -> None:
        """Note what CUDA would not do, and fail as it would."""
        self.mismatches.append(f"{what} at {place()}")
        raise RuntimeError(f"Expected all tensors to be on the same device: {what}")


_CUDA: Mapping[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_: "virtual",
    "get_device_capability": lambda *_: CAPABILITY,
    "mem_get_info": lambda *_: (FREE_BYTES, TOTAL_BYTES),
    "memory_allocated": lambda *_: 0,
    "memory_reserved": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None,
    "empty_cache": lambda: None,
    "synchronize": lambda *_: None,
}


def _read_model(read: Callable[..., Any], *arguments: Any, device: str, **options: Any) -> Any:
    """`stock.read_model`, whose weights are then said to lie on the device."""
    model = read(*arguments, device="cpu", **options)
    if torch.device(device).type == "cuda":
        for tensor in (*model.parameters(), *model.buffers()):
            put(tensor)
    return model


def place() -> str:
    """The innermost function of the package that runs, as `evaluation/draft_passes.py:choices`."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE)}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside the package"


def put(tensor: torch.Tensor, *, is_on_device: bool = True) -> torch.Tensor:
    """`tensor`, whose storage is said to lie on the device, or on the host."""
    tensor.untyped_storage().is_on_device = is_on_device  # type: ignore[attr-defined]
    return tensor


def is_on_device(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is said to lie on the device."""
    return getattr(tensor.untyped_storage(), "is_on_device", False) if tensor.layout == torch.strided else False


class _Functions(TorchFunctionMode):
    """Answers where a tensor lies, moves it, and makes new ones on the device."""

    def __init__(self, device: VirtualDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if function in (torch.device, torch.Generator):
            return function(*args, **options)
        if function in (_DEVICE_OF, _IS_CUDA, _IS_CPU):
            return self._where(function, args[0])
        if function is torch.Tensor.cpu:
            return self._moved(args[0], args[0], False)
        if function is torch.Tensor.to:
            return self._to(args, options)
        if function is torch.Tensor.numpy and is_on_device(args[0]):
            self._device.refuse("numpy() of a tensor on the device")
        if function is torch.Tensor.tolist and is_on_device(args[0]):
            self._device.waits[place()] += 1
        if options.pop("pin_memory", False):
            assert not _names_device(options.get("device"))
        if not any(map(_names_device, (*args, options.get("device")))):
            return function(*args, **options)
        args = [torch.device("cpu") if _names_device(value) else value for value in args]
        made = function(*args, **options | {"device": torch.device("cpu")} if "device" in options else options)
        if isinstance(made, torch.Tensor):
            put(made)
            if function in (torch.tensor, torch.as_tensor) and made.numel():
                self._device.copies[place()] += 1
        return made

    def _where(self, function: Any, tensor: torch.Tensor) -> Any:
        if not is_on_device(tensor):
            return function(tensor)
        return {_DEVICE_OF: DEVICE, _IS_CUDA: True, _IS_CPU: False}[function]

    def _to(self, args: Sequence[Any], options: dict[str, Any]) -> torch.Tensor:
        """`Tensor.to`: of a device, a type, both, or of another tensor."""
        tensor, *rest = args
        target = options.pop("device", None)
        waits = not options.get("non_blocking", False)
        others = []
        for value in rest:
            if isinstance(value, torch.Tensor):
                target, value = value.device, value.dtype
            if isinstance(value, str | torch.device):
                target = value
            else:
                others.append(value)
        converted: torch.Tensor = tensor.to(*others, **options) if others or options else tensor
        if target is None or torch.device(target).type == "meta":
            return converted if target is None else converted.to("meta")
        return self._moved(tensor, converted, _names_device(target), waits=waits)

    def _moved(
        self, tensor: torch.Tensor, converted: torch.Tensor, to_device: bool, *, waits: bool = True
    ) -> torch.Tensor:
        if is_on_device(tensor) == to_device:
            return converted
        if waits and tensor.numel():
            (self._device.copies if to_device else self._device.waits)[place()] += 1
        return put(converted.clone(), is_on_device=to_device)


def _names_device(value: Any) -> bool:
    if isinstance(value, str):
        return value.partition(":")[0] == "cuda"
    return isinstance(value, torch.device) and value.type == "cuda"


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is computed of tensors on the device is on the device; with those of the host it is refused."""

    def __init__(self, device: VirtualDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = [tensor for tensor in given if is_on_device(tensor)]
        if not on_device:
            return function(*args, **kwargs)
        if function is aten._has_compatible_shallow_copy_type.default:  # compares kinds of tensors, computes nothing
            return function(*args, **kwargs)
        if function in _COPIES:
            return self._copied(function, args, kwargs)
        if function in _INDEXED:
            self._look_at_indices(function, args)
        elif any(tensor.dim() and not is_on_device(tensor) for tensor in given):  # CUDA takes a number of the host
            self._device.refuse(f"{function} of {[(tuple(t.shape), is_on_device(t)) for t in given]}")
        if function in _WAITS:
            self._device.waits[place()] += 1
        if function is aten.histc.default and not args[0].is_floating_point():
            result = function(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)  # the CPU counts no integers
        else:
            result = function(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                put(leaf)
        return result

    def _copied(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A copy between devices is no mismatch. `_to_copy` is only asked for types here: `_Functions` moves."""
        result = function(*args, **kwargs)
        if function is aten._to_copy.default:
            return put(result)
        target, source = args[:2]
        if is_on_device(source) and not is_on_device(target):
            self._device.waits[place()] += 1
        elif is_on_device(target) and not is_on_device(source) and source.dim():
            self._device.copies[place()] += 1
        return result

    def _look_at_indices(self, function: Any, args: Sequence[Any]) -> None:
        """Indices may lie on the host, which sends them; those that are masks must be waited for."""
        indexed, indices, *values = args
        for tensor in (indexed, *values[:1]):
            if not is_on_device(tensor) and tensor.dim():
                self._device.refuse(f"{function} of a tensor of the host")
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self._device.waits[place()] += 1
            elif index is not None and not is_on_device(index):
                self._device.copies[place()] += 1
