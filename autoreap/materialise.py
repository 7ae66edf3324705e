"""Write the pruned checkpoint: shard by shard, tensor by tensor, verified before it gets its name.

Only bytes are moved, never arithmetic: tensors are dropped, renamed, or sliced along their first dimension. So no
tensor is ever decoded, and memory holds one copy buffer whatever the model's size.
"""

import copy
import json
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from autoreap.checkpoint import INDEX_NAME, SINGLE_NAME, Checkpoint, TensorInfo, open_checkpoint
from autoreap.dimensions import DIMENSIONS
from autoreap.errors import InputError, VerificationError
from autoreap.families import Family, family_of
from autoreap.families.family import Config
from autoreap.model_card import model_card
from autoreap.plan import PruningPlan, check_plan
from autoreap.progress import Progress

MAX_SHARD_BYTES = 5_000_000_000
_BUFFER_BYTES = 16 << 20
_HEADER_ALIGNMENT = 8
_COMPARED_BYTES = 64  # of either end of each tensor, once it is written
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
_SPARE_BYTES = 64 << 20  # headers, tokenizer and the file system's own needs


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the result: `rows` of `source` (all of it for None), or zeros where there is no source."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    source: TensorInfo | None
    rows: tuple[int, ...] | None = None

    @property
    def num_parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Rewrite:
    """Everything that will be written: the tensors in order, the config, and how many source tensors are dropped."""

    tensors: tuple[OutputTensor, ...]
    config: Config
    num_dropped: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, as the index's `total_size` counts them."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Parameters of the result."""
        return sum(tensor.num_parameters for tensor in self.tensors)


def plan_rewrite(checkpoint: Checkpoint, plan: PruningPlan) -> Rewrite:
    """What `plan` makes of every tensor of `checkpoint`, from headers alone.

    Raises:
        InputError: the plan belongs to another model, or the checkpoint holds a tensor of unknown purpose.
    """
    family = family_of(checkpoint.config, where=checkpoint.path / "config.json")
    if plan.base_model.fingerprint != checkpoint.fingerprint:
        raise InputError(
            f"the plan was made for another model ({plan.base_model.name}, {plan.base_model.fingerprint}), "
            f"this one is {checkpoint.fingerprint}",
            where=checkpoint.path,
            fix="give the model that the plan was made for, or plan again",
        )
    check_plan(plan, family.shape(checkpoint.config))
    config = copy.deepcopy(dict(checkpoint.config))
    added: dict[str, tuple[int, ...]] = {}
    for dimension in DIMENSIONS:
        added |= dimension.rewrite_config(config, family, plan)
    kept = [tensor for info in checkpoint.tensors.values() if (tensor := _rewritten(info, family, plan)) is not None]
    stubs = [_zeros(name, shape, _dtype_of_part(checkpoint, family, name)) for name, shape in added.items()]
    return Rewrite(tuple(kept + stubs), config, num_dropped=len(checkpoint.tensors) - len(kept))


def _rewritten(info: TensorInfo, family: Family, plan: PruningPlan) -> OutputTensor | None:
    role = family.role(info.name)
    for dimension in DIMENSIONS:
        rewritten = dimension.rewrite_tensor(role, plan)
        if rewritten is None:
            return None
        role = rewritten
    shape, num_bytes = info.shape, info.num_bytes
    if role.rows is not None:
        shape = (len(role.rows), *info.shape[1:])
        num_bytes = info.num_bytes // info.shape[0] * len(role.rows)
    return OutputTensor(role.full_name, info.dtype, shape, num_bytes, source=info, rows=role.rows)


def _zeros(name: str, shape: tuple[int, ...], like: TensorInfo) -> OutputTensor:
    item_bytes = like.num_bytes // like.num_parameters
    return OutputTensor(name, like.dtype, shape, math.prod(shape) * item_bytes, source=None)


def _dtype_of_part(checkpoint: Checkpoint, family: Family, name: str) -> TensorInfo:
    """A stored tensor of the same part as `name`, for its type."""
    part = family.role(name).part
    return next(info for info in checkpoint.tensors.values() if family.role(info.name).part == part)


def materialise(source: Path, plan: PruningPlan, target: Path, *, facts: Mapping[str, Any] | None = None) -> Rewrite:
    """Write the checkpoint that `plan` makes of the one in `source` to `target`; either all of it appears or nothing.

    Args:
        facts: measured scores and provenance for the model card.

    Raises:
        InputError: the target is in the way, the disk too small, or the plan is for another model.
        VerificationError: what was written is not what was planned; nothing is left behind.
    """
    checkpoint = open_checkpoint(source)
    rewrite = plan_rewrite(checkpoint, plan)
    check_target(target, source, rewrite.size_bytes)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir(parents=True)
    try:
        _write_shards(partial, rewrite.tensors)
        _write_sidecars(partial, checkpoint, rewrite, plan, facts or {})
        verify(partial, rewrite, family_of(checkpoint.config))
        if target.exists():
            target.rmdir()  # empty, as checked
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"could not be written: {error.strerror}", where=target, fix="nothing was left behind"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return rewrite


def check_target(target: Path, source: Path, size_bytes: int) -> None:
    """Raise `InputError` unless a checkpoint of `size_bytes` can be written to `target`."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError("is not a directory", where=target, fix="name a new directory")
    if target.is_dir() and any(target.iterdir()):
        raise InputError("exists and is not empty", where=target, fix="name a new directory, or remove this one")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError("lies inside the source checkpoint", where=target, fix="name a directory elsewhere")
    parent = next(folder for folder in target.resolve().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < size_bytes + _SPARE_BYTES:
        raise InputError(
            f"needs {size_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free", where=parent, fix="free some space"
        )


def _write_shards(folder: Path, tensors: Sequence[OutputTensor]) -> None:
    shards = list(_shards(tensors))
    with Progress("writing tensors", len(tensors)) as progress:
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            name = SINGLE_NAME if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            weight_map |= {tensor.name: name for tensor in shard}
            with (folder / name).open("wb") as file:
                file.write(_header(shard))
                for tensor in shard:
                    _copy_tensor(tensor, file)
                    progress.advance()
                file.flush()
                os.fsync(file.fileno())
    if len(shards) > 1:
        total = sum(tensor.num_bytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _shards(tensors: Sequence[OutputTensor]) -> Iterator[list[OutputTensor]]:
    shard: list[OutputTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.num_bytes > MAX_SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.num_bytes
    yield shard


def _header(tensors: Sequence[OutputTensor]) -> bytes:
    """The safetensors header of one shard, padded with spaces so that the data is aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(encoded)) + encoded


def _copy_tensor(tensor: OutputTensor, out: BinaryIO) -> None:
    if tensor.source is None:
        _write_zeros(out, tensor.num_bytes)
        return
    with tensor.source.shard.open("rb", buffering=0) as file:
        for offset, num_bytes in _byte_runs(tensor.source, tensor.rows):
            _copy_bytes(file, out, offset, num_bytes)


def _byte_runs(source: TensorInfo, rows: tuple[int, ...] | None) -> Iterator[tuple[int, int]]:
    """(offset, length) of the retained bytes; neighbouring rows are read in one go."""
    if rows is None:
        yield source.offset, source.num_bytes
        return
    row_bytes = source.num_bytes // source.shape[0]
    start = rows[0]
    for row, following in zip(rows, (*rows[1:], None), strict=True):
        if following != row + 1:
            yield source.offset + start * row_bytes, (row + 1 - start) * row_bytes
            start = following if following is not None else start


def _copy_bytes(file: Any, out: BinaryIO, offset: int, num_bytes: int) -> None:
    file.seek(offset)
    while num_bytes:
        chunk = file.read(min(_BUFFER_BYTES, num_bytes))
        if not chunk:
            raise InputError("ends in the middle of a tensor", where=file.name, fix="fetch the checkpoint again")
        out.write(chunk)
        num_bytes -= len(chunk)


def _write_zeros(out: BinaryIO, num_bytes: int) -> None:
    while num_bytes:
        step = min(_BUFFER_BYTES, num_bytes)
        out.write(bytes(step))
        num_bytes -= step


def _write_sidecars(
    folder: Path, checkpoint: Checkpoint, rewrite: Rewrite, plan: PruningPlan, facts: Mapping[str, Any]
) -> None:
    """Tokenizer, processor and generation files as they were; config, plan and model card of the new model."""
    for path in sorted(checkpoint.path.iterdir()):
        is_weights = path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json")
        if path.is_file() and not is_weights and path.name != "README.md":
            shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(rewrite.config, indent=2) + "\n")
    plan.save(folder / "plan.json")
    (folder / "README.md").write_text(model_card(plan, rewrite.num_parameters, rewrite.size_bytes, facts))


def verify(folder: Path, rewrite: Rewrite, family: Family) -> None:
    """Raise `VerificationError` unless `folder` holds what `rewrite` says and what the stock class expects.

    Structure: every name, type and shape, against the plan and against the class built on the meta device. Content: the
    first and last bytes of every tensor, against the source (or zero, where there is none).
    """
    written = open_checkpoint(folder)
    expected = family.expected_tensors(written.config)
    stored = dict(entry for info in written.tensors.values() for entry in family.one_by_one(info.name, info.shape))
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            raise VerificationError(
                f"{folder}: tensor {name} is {stored.get(name, 'missing')}, the stock class expects "
                f"{expected.get(name, 'none of that name')}"
            )
    for tensor in rewrite.tensors:
        info = written.tensors.get(tensor.name)
        if info is None or (info.dtype, info.shape) != (tensor.dtype, tensor.shape):
            raise VerificationError(f"{folder}: tensor {tensor.name} was not written as planned")
        if not _same_ends(tensor, info):
            raise VerificationError(f"{folder}: tensor {tensor.name} differs from its source")


def _same_ends(tensor: OutputTensor, written: TensorInfo) -> bool:
    length = min(written.num_bytes, _COMPARED_BYTES)
    written_ends = [(written.offset, length), (written.offset + written.num_bytes - length, length)]
    if tensor.source is None:
        return not any(map(any, _read(written.shard, written_ends)))
    runs = list(_byte_runs(tensor.source, tensor.rows))
    (first, first_length), (last, last_length) = runs[0], runs[-1]
    length = min(length, first_length, last_length)
    written_ends = [(written.offset, length), (written.offset + written.num_bytes - length, length)]
    return _read(tensor.source.shard, [(first, length), (last + last_length - length, length)]) == _read(
        written.shard, written_ends
    )


def _read(path: Path, runs: Sequence[tuple[int, int]]) -> list[bytes]:
    with path.open("rb") as file:
        return [os.pread(file.fileno(), length, offset) for offset, length in runs]
