"""The end of every command that writes a checkpoint."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreap.commands.options import Add, Arguments, Result, at_least_zero
from autoreap.errors import InputError
from autoreap.formatting import size_text

if TYPE_CHECKING:
    from autoreap.models.loading import Described
    from autoreap.plan import PruningPlan
    from autoreap.writing.behaviour import Expected
    from autoreap.writing.verification import Verified


def add_output_options(add: Add) -> None:
    """Where to write, or whether to, and how the result is verified."""
    add("-o", "--output", type=Path, help="directory to write; must be new")
    add("--dry-run", action="store_true", help="say what would be written, from headers alone")
    add("--skip-behaviour", action="store_true", help="don't load the result to compare its answers")
    add(
        "--carry",
        type=at_least_zero,
        default=16,
        metavar="N",
        help="at most N utterances left with the result for verify; 0 leaves none (default: 16)",
    )


def target(options: Arguments) -> Path:
    """The directory to write; `InputError` where none is named."""
    if options.output is None:
        raise InputError("needs -o OUT, or --dry-run", where="-o")
    output: Path = options.output
    return output


def compares(options: Arguments) -> bool:
    """Whether the result will be loaded to compare its answers."""
    return not (options.dry_run or options.skip_behaviour)


def write(
    described: "Described",
    plan: "PruningPlan",
    options: Arguments,
    *,
    facts: dict[str, Any] | None = None,
    expected: "Expected | str",
) -> Result:
    """Materialise `plan`, or say what it would be.

    `expected` is what the checkpoint must answer, or why there is nothing to compare with.
    """
    from autoreap.writing.rewrite import plan_rewrite
    from autoreap.writing.shards import shards_of

    verified: dict[str, str] = {}
    if options.dry_run:
        rewrite = plan_rewrite(described.checkpoint, plan)
    else:
        from autoreap.models.checkpoint import open_checkpoint
        from autoreap.writing.materialiser import materialise

        behaviour = _behaviour("--skip-behaviour" if options.skip_behaviour else expected, options.carry)
        written = materialise(described.checkpoint.path, plan, target(options), facts=facts, behaviour=behaviour)
        rewrite, verified = written.rewrite, written.record.levels(open_checkpoint(target(options)))
    document = {
        "path": None if options.dry_run else str(options.output),
        "size_bytes": rewrite.size_bytes,
        "file_bytes": sum(shard.num_bytes for shard in shards_of(rewrite.tensors)),
        "num_parameters": rewrite.num_parameters,
        "num_tensors": len(rewrite.tensors),
        "num_dropped": rewrite.num_dropped,
        "plan": plan.summary(),
        "verified": verified,
    }
    before = described.checkpoint.num_bytes
    verb = "would write" if options.dry_run else f"wrote {options.output}:"
    text = (
        f"{verb} {size_text(rewrite.size_bytes)} ({rewrite.size_bytes / before:.1%} of {size_text(before)}), "
        f"{rewrite.num_parameters:,} parameters in {len(rewrite.tensors):,} tensors"
    )
    return document, "\n".join([text, *verified_lines(verified)])


def verified_lines(levels: dict[str, str]) -> list[str]:
    """One line a level."""
    return [f"  {level:<10} {text}" for level, text in levels.items()]


def _behaviour(expected: "Expected | str", carry: int) -> "Callable[[Path], Verified]":
    from autoreap.writing.verification import Verified

    if isinstance(expected, str):
        return lambda _checkpoint: Verified(None, expected)
    from autoreap.writing.behaviour import check_behaviour

    return partial(check_behaviour, expected=expected, carried=carry)
