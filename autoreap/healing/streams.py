"""What the unpruned model puts on its residual stream, of the tokens that count: on disk, mapped into memory.

Shape legend: L layers, N tokens that count, H hidden.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from autoreap.errors import InputError
from autoreap.files import own_directory, waiting_lock
from autoreap.healing.calls import DecoderCall
from autoreap.healing.halves import halved_layer
from autoreap.models.loading import Loaded
from autoreap.progress import Progress

_COMPLETE = "complete.json"
_SPARE_BYTES = 64 << 20


class Streams:
    """The streams of one decoder over one set of rows, in a folder of their own.

    Attributes:
        blocks: what the block of each layer adds to the stream; [L, N, H].
        outputs: the stream after each layer, with what vision adds there; [L, N, H].
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype, *, is_new: bool = False) -> None:
        self.blocks = _mapped(folder / "blocks", shape, dtype, is_new=is_new)
        self.outputs = _mapped(folder / "outputs", shape, dtype, is_new=is_new)


def _mapped(path: Path, shape: tuple[int, int, int], dtype: torch.dtype, *, is_new: bool) -> torch.Tensor:
    """A tensor whose values are the file's, which is made where it `is_new`."""
    num_values = shape[0] * shape[1] * shape[2]
    if is_new:
        with path.open("wb") as file:
            file.truncate(num_values * dtype.itemsize)
    # Shared while it is filled: what is written goes to the file. Afterwards nobody may change it.
    return torch.from_file(str(path), shared=is_new, size=num_values, dtype=dtype).view(shape)


def take_streams(
    loaded: Loaded,
    component: str,
    calls: Sequence[DecoderCall],
    identity: Mapping[str, str],
    root: Path,
    check: Callable[[], None],
) -> Streams:
    """The streams of the unpruned `component` over `calls`, taken once for each `identity` and kept below `root`.

    What `check` raises between layers ends it, and nothing is kept.

    Raises:
        InputError: there is too little room for them.
    """
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = root / f"{name}-{component}"
    dtype, hidden = loaded.model.dtype, calls[0].hidden.shape[-1]
    num_layers = loaded.model_info.shape.components[component].num_layers
    shape = (num_layers, sum(len(call.counted) for call in calls), hidden)
    root.mkdir(parents=True, exist_ok=True)
    with waiting_lock(root / f"{folder.name}.lock"):
        if (folder / _COMPLETE).is_file():
            return Streams(folder, shape, dtype)
        needed = 2 * shape[0] * shape[1] * shape[2] * dtype.itemsize + _SPARE_BYTES
        free = shutil.disk_usage(root).free
        if needed > free:
            problem = f"the unpruned model's streams need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
            raise InputError(problem, where=root, fix="free some space")
        # What a killed process left there is overwritten: without the file `_COMPLETE` it counts for nothing.
        own_directory(folder)
        _fill(loaded, component, calls, Streams(folder, shape, dtype, is_new=True), check)
        (folder / _COMPLETE).write_text(json.dumps(dict(identity)))
    return Streams(folder, shape, dtype)


@torch.inference_mode()
def _fill(
    loaded: Loaded, component: str, calls: Sequence[DecoderCall], streams: Streams, check: Callable[[], None]
) -> None:
    num_layers = len(streams.blocks)
    hidden = [call.hidden for call in calls]
    with Progress(f"what the unpruned {component} computes, layers", num_layers) as progress:
        for number in range(num_layers):
            check()
            with halved_layer(loaded, component, number) as layer:
                place = 0
                for each, call in enumerate(calls):
                    halfway = layer.run_attention(hidden[each], call.arguments)
                    added = layer.block(halfway.normalised)
                    hidden[each] = halfway.residual + added
                    rows = slice(place, place + len(call.counted))
                    streams.blocks[number, rows] = added.flatten(0, 1)[call.counted].cpu()
                    streams.outputs[number, rows] = hidden[each].flatten(0, 1)[call.counted].cpu()
                    place += len(call.counted)
            progress.advance()
