"""Tensors to safetensors files, byte by byte: what is read is summed, and what was written is read again.

Where no weight changes only bytes are moved: no tensor is decoded, and memory holds one buffer whatever the model's
size. What a dimension has fitted is written from memory, and what is packed is packed one matrix at a time.
The sums are XXH3 (128 bits), which guards against damage, not against forgery, and is faster than memory.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import xxhash

from autoreap.dimensions.healed import bytes_of
from autoreap.errors import InputError, VerificationError
from autoreap.models.checkpoint import SINGLE_NAME
from autoreap.models.headers import TensorInfo, read_header
from autoreap.writing.output_tensor import OutputTensor

MAX_SHARD_BYTES = 5_000_000_000
CHECKSUM = "xxh3_128"
_BUFFER_BYTES = 16 << 20
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class Shard:
    """One file of the result."""

    name: str
    tensors: tuple[OutputTensor, ...]

    @cached_property
    def header(self) -> bytes:
        """The safetensors header, its length before it, padded with spaces so that the data is aligned."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.tensors:
            end = offset + tensor.num_bytes
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
            offset = end
        encoded = json.dumps(entries, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % _HEADER_ALIGNMENT)
        return struct.pack("<Q", len(encoded)) + encoded

    @property
    def num_bytes(self) -> int:
        """Length of the file."""
        return len(self.header) + sum(tensor.num_bytes for tensor in self.tensors)


def shards_of(tensors: Sequence[OutputTensor]) -> tuple[Shard, ...]:
    """The files that hold `tensors`, in order, each of at most `MAX_SHARD_BYTES` of tensors (or of a single one)."""
    groups: list[list[OutputTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.num_bytes > MAX_SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.num_bytes
    if len(groups) == 1:
        return (Shard(SINGLE_NAME, tuple(groups[0])),)
    shards = []
    for number, group in enumerate(groups, start=1):
        shards.append(Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group)))
    return tuple(shards)


def write_shard(shard: Shard, folder: Path) -> dict[str, str]:
    """Write one file; the checksum of each tensor's bytes as they were read from the source.

    Raises:
        InputError: the source ends in the middle of a tensor.
    """
    checksums: dict[str, str] = {}
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with (folder / shard.name).open("wb", buffering=0) as out, _Files() as sources:
        _write(out, memoryview(shard.header))
        for tensor in shard.tensors:
            # Of what was read, not of what was written: a fault in writing shows when the file is read again.
            digest = xxhash.xxh3_128()
            for chunk in _chunks(tensor, sources, buffer):
                digest.update(chunk)
                _write(out, chunk)
            checksums[tensor.name] = digest.hexdigest()
    return checksums


def check_shard(path: Path, checksums: Mapping[str, str]) -> None:
    """Flush `path` to the disk, read it again, and raise `VerificationError` unless it holds these tensors."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    stored = {info.name: info for info in read_header(path)}
    for name in sorted(stored.keys() | checksums.keys()):
        if name not in stored:
            raise VerificationError(f"{path}: tensor {name} is missing")
        if name not in checksums:
            raise VerificationError(f"{path}: tensor {name} is unexpected")
    check_tensors(list(stored.values()), checksums)


def check_tensors(tensors: Sequence[TensorInfo], checksums: Mapping[str, str]) -> None:
    """Raise `VerificationError` unless the bytes of all `tensors` sum to their `checksums`."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with _Files() as files:
        for info in tensors:
            digest = xxhash.xxh3_128()
            for chunk in _read(files.at(info.shard), info.offset, info.num_bytes, buffer):
                digest.update(chunk)
            if digest.hexdigest() != checksums[info.name]:
                raise VerificationError(f"{info.shard}: tensor {info.name} differs from its source")


def checksum_of(path: Path) -> str:
    """The checksum of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _chunks(tensor: OutputTensor, sources: "_Files", buffer: memoryview) -> Iterator[memoryview]:
    """The bytes of one tensor, in pieces that are overwritten by the next."""
    if tensor.values is not None:
        values = bytes_of(tensor.values())
        for start in range(0, tensor.num_bytes, _BUFFER_BYTES):
            yield values[start : start + _BUFFER_BYTES]
        return
    if tensor.source is None:
        zeros = memoryview(bytes(min(tensor.num_bytes, _BUFFER_BYTES)))
        for start in range(0, tensor.num_bytes, _BUFFER_BYTES):
            yield zeros[: tensor.num_bytes - start]
        return
    file = sources.at(tensor.source.shard)
    for offset, num_bytes in tensor.byte_runs():
        yield from _read(file, offset, num_bytes, buffer)


def _read(file: FileIO, offset: int, num_bytes: int, buffer: memoryview) -> Iterator[memoryview]:
    file.seek(offset)
    while num_bytes:
        piece = buffer[: min(len(buffer), num_bytes)]
        count = file.readinto(piece)
        if not count:
            raise InputError("ends in the middle of a tensor", where=str(file.name), fix="fetch the checkpoint again")
        yield piece[:count]
        num_bytes -= count


def _write(out: Any, chunk: memoryview) -> None:
    # A file without a buffer may take less than it is given.
    while chunk:
        chunk = chunk[out.write(chunk) :]


class _Files:
    """Keeps the file read last open: tensors come in the order of their files."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: FileIO | None = None

    def at(self, path: Path) -> FileIO:
        """`path`, opened for reading without a buffer."""
        if self._file is None or path != self._path:
            self.close()
            self._path, self._file = path, path.open("rb", buffering=0)
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
