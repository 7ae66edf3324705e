"""A checkpoint on disk, read from its headers alone: tensors, shards, fingerprint. No torch."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from autoreap import validation
from autoreap.errors import InputError, first_line, shown
from autoreap.models.headers import TensorInfo, read_header
from autoreap.models.packed import packed_shapes

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# A key of the config that holds one of these words says how many of a thing are built.
_COUNTED = ("layer", "depth", "experts", "heads", "blocks", "num_hidden", "groups", "quantizers", "codebooks")
_MAX_COUNT = 10_000
# What the fingerprint reads of a tensor's values, and of which tensors.
_SAMPLED_BELOW_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 10


# Compared by identity: what is computed of a checkpoint is kept for as long as it is open (see `writing.footprint`).
@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model directory: its `config.json` as raw JSON, and every tensor's place."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that tell this model from others, whatever its sharding.

        Covers each tensor's name, type and shape, and the first KiB of each one under 1 MiB: norms, biases, small
        routers. Those change in any training step, and cost a thousand small reads for the 30B model, not 70 GB.
        """
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name}|{tensor.dtype}|{tensor.shape}|".encode())
            if tensor.num_bytes < _SAMPLED_BELOW_BYTES:
                with tensor.shard.open("rb") as file:
                    file.seek(tensor.offset)
                    digest.update(file.read(min(_SAMPLE_BYTES, tensor.num_bytes)))
        return digest.hexdigest()[:16]

    @property
    def is_packed(self) -> bool:
        """Whether matrices are stored in few bits."""
        return any(tensor.stands_for is not None for tensor in self.tensors.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def resolve_model(model: str, *, download: bool = True) -> Path:
    """The directory of MODEL: `tiny` is the embedded one, then a directory, then a name on the Hugging Face hub.

    Without `download`, a model of the hub counts only where it is on this disk.

    Raises:
        InputError: there is none.
    """
    if model == "tiny":
        from autoreap.tiny_omni import CHECKPOINT

        return CHECKPOINT
    path = Path(model)
    if path.is_dir():
        return path
    if not is_hub_name(model):
        raise InputError("no such model directory", where=model, fix="a directory, a hub name as in org/name, or tiny")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=not download))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        problem = f"no such directory, and the hub could not provide it: {first_line(error)}"
        raise InputError(problem, where=model) from None


def is_hub_name(model: str) -> bool:
    """Whether MODEL is of the form org/name, as models of the hub are; all else is meant as a path."""
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and not Path(model).exists()


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the headers of the checkpoint in `path`.

    Raises:
        InputError: something is missing, truncated or contradictory; the message names the file.
    """
    if not path.is_dir():
        raise InputError("no such model directory", where=path)
    config = read_json(path / "config.json")
    _check_counts(config, path / "config.json")
    check_links(path)
    tensors: dict[str, TensorInfo] = {}
    for tensor in _all_tensors(path):
        if tensor.name in tensors:
            raise InputError(f"tensor {tensor.name} is also in {tensors[tensor.name].shard.name}", where=tensor.shard)
        tensors[tensor.name] = tensor
    for name, shape in packed_shapes(config, path / "config.json", tensors).items():
        tensors[name] = replace(tensors[name], stands_for=shape)
    return Checkpoint(path=path, config=config, tensors=tensors)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; `InputError` where there is none."""
    document = validation.read_json(path, missing="no such file; this is not a model directory")
    if not isinstance(document, dict):
        raise InputError("must be a JSON object", where=path)
    return document


def check_links(folder: Path) -> None:
    """Raise `InputError` if a file of a model folder is a link out of it: what it names would be read, and published.

    Files of the hub's cache are links, `snapshots/REVISION/NAME` to `blobs/HASH` of the same model.
    """
    here = folder.resolve()
    roots = [here]
    if here.parent.name == "snapshots":
        roots.append(here.parent.parent / "blobs")
    entries = list(folder.iterdir())
    for below in entries:
        if below.is_dir() and not below.is_symlink():
            entries += below.iterdir()
    # Resolved, a link counts by where it ends: it may lead to another link.
    for entry in entries:
        if entry.is_symlink() and not any(entry.resolve().is_relative_to(root) for root in roots):
            raise InputError("is a link to outside the model's folder", where=entry, fix="copy the file to here")


def _check_counts(config: Any, where: Path) -> None:
    """Raise `InputError` for more layers or experts than any model has: lists as long would fill the memory."""
    values = [config]
    for value in values:  # grows
        if isinstance(value, list):
            values += value
        if isinstance(value, dict):
            values += value.values()
            for key, count in value.items():
                is_count = any(word in key for word in _COUNTED)
                if is_count and isinstance(count, int | float) and abs(count) > _MAX_COUNT:
                    raise InputError(f"{key} is {shown(count)}, more than {_MAX_COUNT:,}", where=where)


def _all_tensors(path: Path) -> Iterator[TensorInfo]:
    if not (path / INDEX_NAME).exists():
        if not (path / SINGLE_NAME).exists():
            raise InputError(f"holds neither {SINGLE_NAME} nor {INDEX_NAME}", where=path)
        yield from read_header(path / SINGLE_NAME)
        return
    index = read_json(path / INDEX_NAME)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError("has no weight_map of tensors to files", where=path / INDEX_NAME)
    if not isinstance(index.get("metadata"), dict):  # the stock class looks into it
        raise InputError("has no metadata", where=path / INDEX_NAME, fix='add the key "metadata": {}')
    shards = sorted(set(weight_map.values()))
    for shard in shards:  # before any is opened: a name with a path in it would lead out of the folder
        if Path(shard).name != shard or shard == ".." or "\0" in shard:
            raise InputError(f"names {shown(shard)}, not a file beside it", where=path / INDEX_NAME)
    stored: dict[str, str] = {}
    for shard in shards:
        for tensor in read_header(path / shard):
            stored[tensor.name] = shard
            yield tensor
    for name in sorted(weight_map.keys() | stored.keys()):
        if weight_map.get(name) != stored.get(name):
            listed = weight_map.get(name, "no shard")
            problem = f"tensor {name} is listed in {listed}, stored in {stored.get(name, 'none')}"
            raise InputError(problem, where=path / INDEX_NAME, fix="fetch the checkpoint again")
