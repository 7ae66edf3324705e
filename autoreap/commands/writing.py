"""The end of every command that writes a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from autoreap.errors import InputError
from autoreap.formatting import size_text

if TYPE_CHECKING:
    from autoreap.models.loading import ModelInfo
    from autoreap.plan import PruningPlan
    from autoreap.writing.behaviour import Expected
    from autoreap.writing.model_card import TrialFacts
    from autoreap.writing.verification import Verified

SkipBehaviour = Annotated[bool, Option("--skip-behaviour", help="don't load the checkpoint to compare its answers")]
_CARRY = "store up to N test utterances for `verify`; 0 stores none"


@dataclass(frozen=True)
class Writing:
    """Where to write, or whether to, and how the result is verified."""

    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="directory to write; must be new")] = (
        None
    )
    dry_run: Annotated[bool, Option("--dry-run", help="show what would be written, from headers only")] = False
    skip_behaviour: SkipBehaviour = False
    carry: Annotated[int, Option(metavar="N", min=0, help=_CARRY)] = 16

    @property
    def target(self) -> Path:
        """The directory to write; `InputError` where none is named."""
        if self.output is None:
            raise InputError("needs -o OUT, or --dry-run", where="-o")
        return self.output

    @property
    def compares(self) -> bool:
        """Whether the result will be loaded to compare its answers."""
        return not (self.dry_run or self.skip_behaviour)

    def write(
        self,
        model_info: "ModelInfo",
        plan: "PruningPlan",
        *,
        facts: "TrialFacts | None" = None,
        expected: "Expected | str",
    ) -> tuple[dict[str, Any], str]:
        """Materialise `plan`, or find what it would be: the JSON object, and the text for people.

        `expected` is what the checkpoint must answer, or why there is nothing to compare with.
        """
        from autoreap.writing.rewrite import plan_rewrite
        from autoreap.writing.shards import shards_of

        verified: dict[str, str] = {}
        path = None
        verb = "would write"
        # The same rewrite that `materialise` carries out, so its figures are those of the result.
        if self.dry_run:
            rewrite = plan_rewrite(model_info.checkpoint, plan)
        else:
            from autoreap.models.checkpoint import open_checkpoint
            from autoreap.writing.materialiser import materialise

            if self.skip_behaviour:
                expected = "--skip-behaviour"
            behaviour = _behaviour(expected, self.carry)
            written = materialise(model_info.checkpoint.path, plan, self.target, facts=facts, behaviour=behaviour)
            rewrite, verified = written.rewrite, written.record.levels(open_checkpoint(self.target))
            path = str(self.output)
            verb = f"wrote {path}:"
        document = {
            "path": path,
            "size_bytes": rewrite.size_bytes,
            "file_bytes": sum(shard.num_bytes for shard in shards_of(rewrite.tensors)),
            "num_parameters": rewrite.num_parameters,
            "num_tensors": len(rewrite.tensors),
            "num_dropped": rewrite.num_dropped,
            "plan": plan.summary(),
            "verified": verified,
        }
        before = model_info.checkpoint.num_bytes
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
