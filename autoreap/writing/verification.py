"""Is the checkpoint what it should be? Structure, content and behaviour; light until a level needs torch.

Structure: every name, type and shape, against the plan and against the stock class built on the meta device. Content:
the checksum of every tensor, against the bytes read from the source, and of each file beside the weights. Behaviour:
the same utterances, the same text (`writing.behaviour`). What a checkpoint needs to be verified again, anywhere, it
carries in its folder `verification`.
"""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import StrictStr, TypeAdapter

from autoreap import __version__
from autoreap.errors import InputError, VerificationError, shown
from autoreap.formatting import size_text
from autoreap.models.checkpoint import Checkpoint, open_checkpoint, read_json
from autoreap.models.families import family_of
from autoreap.models.headers import TensorForm
from autoreap.models.packed import plain_shapes
from autoreap.scores import Metric, metrics_as_dict
from autoreap.validation import NO_OTHER_KEYS, Count, validate
from autoreap.writing.rewrite import Rewrite
from autoreap.writing.shards import CHECKSUM, check_tensors, checksum_of

FOLDER = "verification"
RECORD = "record.json"
_FORMAT = 1


@dataclass(frozen=True)
class Verified:
    """The result of the behaviour level.

    Attributes:
        num_compared: how many answers were equal; None where the level did not run.
        detail: on what, or why it did not run.
        metrics: what the checkpoint scored.
        where: device and type that it was computed on, as `place_of` names them.
        num_different: how many answers were not equal, though no score differs by more than chance.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    num_compared: Count | None
    detail: StrictStr
    metrics: Mapping[StrictStr, Metric] = field(default_factory=dict)
    where: StrictStr = ""
    num_different: Count = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "metrics": metrics_as_dict(self.metrics)}


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of its own verification.

    Attributes:
        checksums: of each tensor's bytes, by name.
        behaviour: how the behaviour level went.
        versions: of what wrote it.
        files: checksums of the files beside the weights, by name; none in a record made before they were kept.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    checksums: Mapping[StrictStr, StrictStr]
    behaviour: Verified
    versions: Mapping[StrictStr, StrictStr]
    files: Mapping[StrictStr, StrictStr] = field(default_factory=dict)

    def save(self, checkpoint: Path) -> None:
        """Write it into the checkpoint's folder `verification`."""
        (checkpoint / FOLDER).mkdir(exist_ok=True)
        document = {"format": _FORMAT, "checksum": CHECKSUM, **vars(self), "behaviour": self.behaviour.as_dict()}
        (checkpoint / FOLDER / RECORD).write_text(json.dumps(document) + "\n", encoding="utf-8")

    def levels(self, checkpoint: Checkpoint) -> dict[str, str]:
        """For people and JSON: what each level covered, or why it did not run."""
        origin = "equal to the source's"
        if checkpoint.is_packed:
            origin = "as computed from the source"
        content = f"{CHECKSUM} of {size_text(checkpoint.num_bytes)} {origin}"
        if self.files:
            content += f", {len(self.files)} files beside them as written"
        return {
            "structure": f"{len(checkpoint.tensors):,} tensors as the stock class expects them",
            "content": content,
            "behaviour": behaviour_text(self.behaviour),
        }


def behaviour_text(verified: Verified) -> str:
    """One line on the behaviour level."""
    if verified.num_compared is None:
        return f"not run: {verified.detail}"
    if verified.num_different:
        num_answers = verified.num_compared + verified.num_different
        return f"{verified.num_compared} of {num_answers} outputs match, the scores within chance ({verified.detail})"
    return f"all {verified.num_compared} outputs match ({verified.detail})"


_RECORD = TypeAdapter(Record)


def load_record(checkpoint: Path) -> Record:
    """What `Record.save` wrote; `InputError` where there is none, or it is of another form."""
    path = checkpoint / FOLDER / RECORD
    if not checkpoint.is_dir():
        raise InputError("no such model directory", where=checkpoint)
    if not path.is_file():
        raise InputError(
            f"carries no {FOLDER}/{RECORD}", where=checkpoint, fix="name a checkpoint that autoreap has written"
        )
    document = read_json(path)
    if document.pop("format", None) != _FORMAT or document.pop("checksum", None) != CHECKSUM:
        raise InputError(f"is not a record of format {_FORMAT} with {CHECKSUM}", where=path, fix="update autoreap")
    return validate(_RECORD, document, path, fix="take another copy of the checkpoint, or write it again")


def facts_of_versions() -> dict[str, str]:
    """Versions of what a checkpoint is written and verified with."""
    return {
        "autoreap": __version__,
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }


def check_structure(folder: Path, rewrite: Rewrite | None = None) -> Checkpoint:
    """The checkpoint in `folder`; `VerificationError` unless it is what the stock class expects, and `rewrite` says."""
    written = open_checkpoint(folder)
    fault = structure_fault(written.config, written.tensors.values())
    if fault:
        raise VerificationError(f"{folder}: {fault}")
    if rewrite is not None:
        for tensor in rewrite.tensors:
            info = written.tensors.get(tensor.name)
            if info is None or (info.dtype, info.shape) != (tensor.dtype, tensor.shape):
                raise VerificationError(f"{folder}: tensor {tensor.name} was not written as planned")
    return written


def structure_fault(config: Mapping[str, Any], tensors: Iterable[TensorForm]) -> str | None:
    """The first of `tensors`, by name, that is not as the stock class expects it for this config."""
    layout = family_of(config).layout
    # Compared in one form, however they are stored: not packed, and one tensor for each expert.
    stored = layout.unfuse_all(plain_shapes(tensors))
    expected = layout.expected_tensors(config, stored)
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            found = stored.get(name, "missing")
            wanted = expected.get(name, "none of that name")
            return f"tensor {name} is {found}, the stock class expects {wanted}"
    return None


def check_content(checkpoint: Checkpoint, record: Record) -> None:
    """Raise `VerificationError` unless every tensor holds the source's bytes, and each other file those written."""
    # The names first, so that `check_tensors` finds a checksum for each.
    in_one_alone = checkpoint.tensors.keys() ^ record.checksums.keys()
    if in_one_alone:
        raise VerificationError(f"{checkpoint.path}: tensor {min(in_one_alone)} is not in both checkpoint and record")
    check_tensors(list(checkpoint.tensors.values()), record.checksums)
    for name, checksum in record.files.items():
        path = checkpoint.path / name
        # A record may come from anywhere: a name with a path in it would lead out of the checkpoint.
        if Path(name).name != name:
            raise VerificationError(f"{checkpoint.path}: the record names {shown(name)}, not a file of the checkpoint")
        if not path.is_file():
            raise VerificationError(f"{path}: is missing")
        if checksum_of(path) != checksum:
            raise VerificationError(f"{path}: is not as it was written")


def file_checksums(folder: Path) -> dict[str, str]:
    """Of every file beside the weights: config, plan, tokenizer. A model card may be edited, so it does not count."""
    checksums = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix != ".safetensors" and path.name != "README.md":
            checksums[path.name] = checksum_of(path)
    return checksums
