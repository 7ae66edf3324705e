"""Memory that is full when a test says so: one request for it is refused, or all from then on."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import autoreap

CODE = (f"{Path(autoreap.__file__).parent}/", f"{Path(transformers.__file__).parent}/")


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the requests for memory, and refuses one.

    Args:
        refused: the number of the one that is refused, from 0; None refuses none.
        stays_full: all that follow are refused as well.

    Attributes:
        requests: their numbers, by the line of the package or of transformers that makes them; where none is refused.
    """

    def __init__(self, refused: int | None = None, *, stays_full: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.requests: dict[str, list[int]] = {}
        self._refused = refused
        self._stays_full = stays_full
        self._count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not function.is_view and not function._schema.is_mutable:
            number = self._count
            self._count += 1
            if self._refused is None:
                self.requests.setdefault(_line(), []).append(number)
            elif number == self._refused or (self._stays_full and number > self._refused):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return function(*args, **kwargs or {})


def _line() -> str:
    """The innermost line of the package or of transformers that runs."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        for folder in CODE:
            if frame.f_code.co_filename.startswith(folder):
                return f"{frame.f_code.co_filename.removeprefix(folder)}:{frame.f_lineno}"
        frame = frame.f_back
    raise AssertionError("called by neither")
