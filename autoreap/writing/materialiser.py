"""Write the pruned checkpoint: shard by shard, verified before it gets its name, resumed where it was killed.

Everything is written to `.NAME.partial` beside the target, which a rename turns into the target once it is complete and
verified. Of a run that was killed that directory stays; the next run goes on after its last finished shard.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import StrictStr, TypeAdapter, ValidationError

from autoreap.dimensions.healed import check_fitted
from autoreap.dimensions.polished import polished_weights
from autoreap.errors import InputError, VerificationError
from autoreap.files import exclusive, own_directory
from autoreap.models.checkpoint import INDEX_NAME, Checkpoint, open_checkpoint
from autoreap.models.families import family_of
from autoreap.plan import COMPONENTS, PruningPlan
from autoreap.progress import Progress
from autoreap.validation import NO_OTHER_KEYS
from autoreap.writing.model_card import TrialFacts, model_card, public_name
from autoreap.writing.rewrite import Rewrite, plan_rewrite
from autoreap.writing.shards import Shard, check_shard, shards_of, write_shard
from autoreap.writing.verification import (
    Record,
    Verified,
    check_structure,
    facts_of_versions,
    file_checksums,
    structure_fault,
)

logger = logging.getLogger(__name__)

_JOURNAL = ".journal.jsonl"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
_SPARE_BYTES = 64 << 20  # record, index, and the file system's own needs

# Loads the checkpoint that lies there, and compares what it answers.
Behaviour = Callable[[Path], Verified]


@dataclass(frozen=True)
class Materialised:
    """What was written, and what was verified before it got its name."""

    rewrite: Rewrite
    record: Record


def materialise(
    source: Path,
    plan: PruningPlan,
    target: Path,
    *,
    facts: TrialFacts | None = None,
    behaviour: Behaviour | None = None,
) -> Materialised:
    """Write the checkpoint that `plan` makes of the one in `source` to `target`; either all of it appears or nothing.

    Args:
        facts: of the trial that it is, for the model card.
        behaviour: the check of what the checkpoint answers; None leaves it at structure and content.

    Raises:
        InputError: the target is in the way or being written, the disk too small, or the plan is for another model.
        VerificationError: what was written is not what was planned; nothing is left behind.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from autoreap.candidate import Candidate
        >>> from autoreap.models.loading import open_model
        >>> from autoreap.planning import make_plan
        >>> model = open_model("tiny")
        >>> plan = make_plan(Candidate(strip_vision=True), None, model.shape, model.base_model)
        >>> with TemporaryDirectory() as folder:
        ...     written = materialise(model.checkpoint.path, plan, Path(folder) / "pruned")
        ...     open_checkpoint(Path(folder) / "pruned").fingerprint == model.checkpoint.fingerprint
        False
    """
    # All that can be told from headers and the plan is found out before anything is written.
    checkpoint = open_checkpoint(source)
    for component in COMPONENTS:
        check_fitted(plan, component)  # a plan without its weights can't be written
    polished_weights(plan)
    rewrite = plan_rewrite(checkpoint, plan)
    shards = shards_of(rewrite.tensors)
    check_target(target, source)
    fault = structure_fault(checkpoint.config, checkpoint.tensors.values())
    if fault:
        raise InputError(fault, where=source, fix="fetch the checkpoint again")
    fault = structure_fault(rewrite.config, rewrite.tensors)
    if fault:
        raise VerificationError(f"{target}: planned {fault}")
    with _open_partial(target) as partial:
        journal = _Journal(partial / _JOURNAL, _identity(checkpoint, plan, shards))
        _check_space(partial, checkpoint, shards)
        checksums = _write_shards(partial, shards, journal)
        _write_sidecars(partial, checkpoint, rewrite, plan)
        _write_index(partial, rewrite, shards)
        check_structure(partial, rewrite)
        verified = Verified(None, "no answers to compare with were given")
        if behaviour:
            verified = behaviour(partial)
        record = Record(checksums, verified, facts_of_versions(), file_checksums(partial))
        record.save(partial)
        # The card tells of the record. It may be edited later, so the record does not know its checksum.
        card = model_card(plan, rewrite, facts, record, checkpoint.path)
        (partial / "README.md").write_text(card, encoding="utf-8")
        journal.remove()
        _publish(partial, target)
    return Materialised(rewrite, record)


def check_target(target: Path, source: Path) -> None:
    """Raise `InputError` if something is in the way of a checkpoint at `target`."""
    if target.name in ("", ".."):
        raise InputError("names no new directory", where=target, fix="give the directory a name")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError("is not a directory", where=target, fix="name a new directory")
    if target.is_dir() and any(target.iterdir()):
        raise InputError("exists and is not empty", where=target, fix="name a new directory, or remove this one")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError("lies inside the source checkpoint", where=target, fix="name a directory elsewhere")


@contextmanager
def _open_partial(target: Path) -> Iterator[Path]:
    """The directory beside `target` to write in, for this process alone; gone after any error, but not after a kill."""
    partial = target.absolute().with_name(f".{target.name}.partial")
    own_directory(partial)
    lock = partial.with_suffix(".lock")  # beside the directory, which is removed after an error
    with exclusive(lock, "another process is writing this checkpoint", fix="wait for it, or name another -o"):
        try:
            yield partial
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise InputError(
                str(error.strerror or error), where=error.filename or target, fix="nothing was left behind"
            ) from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@dataclass(frozen=True)
class _FinishedShard:
    """A line of a journal but the first."""

    __pydantic_config__ = NO_OTHER_KEYS

    shard: StrictStr
    checksums: Mapping[StrictStr, StrictStr]


_FINISHED_SHARD = TypeAdapter(_FinishedShard)


class _Journal:
    """Which shards of a partial checkpoint are finished, so that a run that was killed can go on.

    The first line names what is being written from what; each further one a finished shard and its checksums. A journal
    of anything else is started anew, together with the directory it lies in.

    Attributes:
        finished: by shard, the checksums of its tensors.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.finished: dict[str, Mapping[str, str]] = {}
        lines: list[str] = []
        if path.is_file():
            # What follows the last line feed is empty, or a line that a kill has cut off.
            *lines, _cut_off = path.read_text(encoding="utf-8", errors="replace").split("\n")
        if lines and lines[0] == json.dumps(identity):
            for line in lines[1:]:
                try:
                    entry = _FINISHED_SHARD.validate_json(line)
                except ValidationError:
                    break  # this shard is written again, and those that follow
                if (path.parent / entry.shard).is_file():
                    self.finished[entry.shard] = entry.checksums
            logger.info(f"going on with {path.parent}: {len(self.finished)} shards are there")
        # A shard that no line names may be half written.
        for leftover in path.parent.iterdir():
            if leftover.name in self.finished:
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()  # the old journal, too
        self._path = path
        self._append(identity)
        for shard, checksums in self.finished.items():
            self.finish(shard, checksums)

    def finish(self, shard: str, checksums: Mapping[str, str]) -> None:
        """Note that `shard` is on the disk."""
        self._append({"shard": shard, "checksums": checksums})

    def remove(self) -> None:
        """The checkpoint is complete."""
        self._path.unlink()

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _identity(checkpoint: Checkpoint, plan: PruningPlan, shards: tuple[Shard, ...]) -> dict[str, Any]:
    """What a partial checkpoint must share with this run: the plan, the layout, and the very files of the source."""
    # Size and time stand for the bytes: to read them all would take as long as to write the checkpoint.
    source = []
    for file in sorted({info.shard for info in checkpoint.tensors.values()}):
        state = file.stat()
        source.append([str(file.resolve()), state.st_size, state.st_mtime_ns])
    layout = [[shard.name, shard.num_bytes] for shard in shards]
    weights = [heal.weights for heal in (plan.heal, plan.talker_heal) if heal]
    return {"plan": plan.digest(), "fitted": weights, "shards": layout, "source": source}


def _check_space(partial: Path, checkpoint: Checkpoint, shards: tuple[Shard, ...]) -> None:
    # Of an earlier run, finished shards are there already.
    present = {path.name for path in partial.iterdir()}
    needed = _SPARE_BYTES
    for shard in shards:
        if shard.name not in present:
            needed += shard.num_bytes
    for path in _sidecars(checkpoint):
        needed += path.stat().st_size
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise InputError(
            f"needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free", where=partial.parent, fix="free some space"
        )


def _write_shards(folder: Path, shards: tuple[Shard, ...], journal: _Journal) -> dict[str, str]:
    """Write what is not there yet; checksums of all tensors. Each shard is read again while the next is written."""
    checksums: dict[str, str] = {}
    checks: list[Future[None]] = []
    total = sum(shard.num_bytes for shard in shards)
    with ThreadPoolExecutor(max_workers=1) as pool, Progress("writing MB", max(1, total // 1_000_000)) as progress:
        for shard in shards:
            written = journal.finished.get(shard.name)
            if written is None:
                written = write_shard(shard, folder)
                checks.append(pool.submit(_check_and_note, folder / shard.name, written, journal))
            else:  # it may have been damaged since it was written
                checks.append(pool.submit(check_shard, folder / shard.name, written))
            checksums |= written
            while len(checks) > 1:  # one shard may wait for its check, lest the disk fall behind
                checks.pop(0).result()
            progress.advance(shard.num_bytes // 1_000_000)
        for check in checks:
            check.result()
    return checksums


def _check_and_note(path: Path, checksums: Mapping[str, str], journal: _Journal) -> None:
    # In this order: the journal may name no shard that a power cut could take.
    check_shard(path, checksums)
    journal.finish(path.name, checksums)


def _write_sidecars(folder: Path, checkpoint: Checkpoint, rewrite: Rewrite, plan: PruningPlan) -> None:
    """Tokenizer, processor and generation files as they were; config and plan of the new model."""
    for path in _sidecars(checkpoint):
        shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(rewrite.config, indent=2) + "\n")
    base = replace(plan.base_model, name=public_name(plan.base_model.name))
    replace(plan, base_model=base).save(folder / "plan.json")


def _sidecars(checkpoint: Checkpoint) -> list[Path]:
    """What travels with the weights: files beside them but card, index, hidden ones and weights in other formats."""
    companions = family_of(checkpoint.config).layout.companions
    sidecars = []
    for path in sorted(checkpoint.path.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.name == "README.md":
            continue
        if path.suffix in _WEIGHT_SUFFIXES and path.name not in companions:
            continue
        if not path.name.endswith(".index.json"):
            sidecars.append(path)
    return sidecars


def _write_index(folder: Path, rewrite: Rewrite, shards: tuple[Shard, ...]) -> None:
    if len(shards) == 1:
        return
    weight_map = {}
    for shard in shards:
        for tensor in shard.tensors:
            weight_map[tensor.name] = shard.name
    index = {"metadata": {"total_size": rewrite.size_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _publish(partial: Path, target: Path) -> None:
    """Give the complete checkpoint its name, and see that it outlives a power cut."""
    # A rename may reach the disk before what it names does, so all of that goes first.
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    if target.exists():
        # Empty, as was checked; a rename would not replace it on every system.
        target.rmdir()
    partial.rename(target)
    _sync(target.absolute().parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
