"""What an unfinished measurement has come to, in a file that outlives its process.

Batches depend on rows and budget alone and sums are added in a fixed order, so a measurement that goes on from such a
file ends with the bits it would have had in one go.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import StrictStr, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from autoreap.calibration.batching import START, Position
from autoreap.calibration.meter import State
from autoreap.errors import InputError
from autoreap.files import atomic_write, exclusive, waiting_lock
from autoreap.reading import parse_json
from autoreap.validation import NO_OTHER_KEYS, Count, Number, validate

logger = logging.getLogger(__name__)

SAVE_INTERVAL_SECONDS = 120.0
# What a damaged file can raise while it is read.
DAMAGES = (SafetensorError, OSError, KeyError, ValueError, InputError)
_FORMAT = "autoreap.resume.1"
_NAMED = 3  # what differs, in a message


@dataclass(frozen=True)
class Part:
    """How far one component is measured on one modality.

    Attributes:
        position: how many of the rows are used up; all of them where the part is finished.
        weight: of the last of these rows; None before the first.
        state: `Meter.state` over the rows of this weight.
        total: the weighted sums over the rows before those; None where there are none.
    """

    position: Position = START
    weight: float | None = None
    state: State | None = None
    total: State | None = None

    def before(self, weight: float) -> "Part":
        """The same, ready for a row of `weight`."""
        if self.weight == weight:
            return self
        return Part(self.position, weight, state=None, total=self.sums())

    def sums(self) -> State | None:
        """Over all rows so far, each of whose tokens counts as often as its weight says; None before the first."""
        if self.weight is None or self.state is None:
            return self.total
        sums = {name: _multiply(tensor, self.weight) for name, tensor in self.state.items()}
        if self.total is not None:
            for name, before in self.total.items():
                sums[name] = before + sums[name]
        return sums


def _multiply(tensor: torch.Tensor, weight: float) -> torch.Tensor:
    """Counts stay whole numbers, as the file of a measurement has them."""
    if tensor.is_floating_point():
        return tensor * weight
    return (tensor.double() * weight).round().to(tensor.dtype)


class ResumeFile:
    """The parts of one measurement, by name. What an earlier process left of the same measurement is taken up.

    Args:
        path: the file; None keeps nothing on disk.
        identity: all that the numbers follow from. A file of another measurement is ignored, and overwritten in time.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, str]) -> None:
        self._path = path
        self._identity = dict(identity)
        self._parts: dict[str, Part] = {}
        if path is not None and path.exists():
            self._parts = _read(path, self._identity)
        self._saved = time.monotonic()

    def part(self, name: str) -> Part:
        """What is known of part `name`."""
        return self._parts.get(name, Part())

    def keep(self, name: str, part: Part) -> None:
        """Remember `part`; the next `save` writes it."""
        self._parts[name] = part

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._path is not None and time.monotonic() - self._saved >= SAVE_INTERVAL_SECONDS

    def save(self) -> None:
        """Write every part, whole or not at all."""
        if self._path is None:
            return
        tensors: State = {}
        parts = {}
        for name, part in self._parts.items():
            parts[name] = {"weight": part.weight, **asdict(part.position)}
            for kind, state in (("state", part.state), ("total", part.total)):
                for key, tensor in (state or {}).items():
                    tensors[f"{name}/{kind}/{key}"] = tensor
        metadata = {"format": _FORMAT, "identity": json.dumps(self._identity), "parts": json.dumps(parts)}
        write_tensors(self._path, tensors, metadata)
        self._saved = time.monotonic()


def write_tensors(path: Path, tensors: State, metadata: dict[str, str]) -> None:
    """Write both as a safetensors file, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_bytes(save(tensors, metadata))  # `save_file` has no OSError for a full disk


def read_tensors(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and metadata of a safetensors file; one of `DAMAGES` if they can't be read."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def lock_resume_file(output: Path, *, waits: bool = False) -> Iterator[Path]:
    """The resume file of a measurement that will be saved as `output`; it goes with the context, unless that fails.

    Args:
        output: where it will be saved.
        waits: wait for another process that measures for the same `output` now; it may be there afterwards.

    Raises:
        InputError: another process does, and that is not waited for.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(f".{output.name}.resume")
    lock = output.with_name(f".{output.name}.lock")
    problem, fix = f"another process that writes {output} is running", "wait for it, or use another -o"

    def say() -> None:
        logger.info("another process measures the same; waiting for it")

    with waiting_lock(lock, on_wait=say) if waits else exclusive(lock, problem, fix):
        yield path
        # Not in a `finally`: what was measured before an error is there for the next call.
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _PartEntry:
    """What the file says of a part, beside its tensors."""

    __pydantic_config__ = NO_OTHER_KEYS

    weight: Number | None
    num_rows: Count
    unreadable: tuple[StrictStr, ...]
    silent: tuple[StrictStr, ...]


_IDENTITY = TypeAdapter(dict[StrictStr, StrictStr])
_PARTS = TypeAdapter(dict[StrictStr, _PartEntry])


def _read(path: Path, identity: Mapping[str, str]) -> dict[str, Part]:
    """The parts in `path`, none if they are not of the same measurement or can't be read."""
    try:
        tensors, metadata = read_tensors(path)
        # Of a file of another format nothing is known, so everything differs.
        found: dict[str, str] = {}
        if metadata.get("format") == _FORMAT:
            found = validate(_IDENTITY, parse_json(metadata["identity"]), "identity")
        changed = [key for key in sorted({*found, *identity}) if found.get(key) != identity.get(key)]
        if changed:
            logger.info(f"starting anew: {path} is of another measurement ({', '.join(changed[:_NAMED])} differ)")
            return {}
        entries = validate(_PARTS, parse_json(metadata["parts"]), "parts")
    # A measurement can be made again, so damage is no reason to stop.
    except DAMAGES as error:
        logger.info(f"starting anew: {path} is damaged: {error}")
        return {}
    parts = {}
    for name, entry in entries.items():
        state = _tensors_below(f"{name}/state/", tensors)
        total = _tensors_below(f"{name}/total/", tensors)
        position = Position(entry.num_rows, entry.unreadable, entry.silent)
        parts[name] = Part(position, entry.weight, state or None, total or None)
    stands = ", ".join(f"{name} after {part.position.num_rows} rows" for name, part in parts.items())
    logger.info(f"resuming from {path}: {stands}")
    return parts


def _tensors_below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
