"""The end of every command that writes a checkpoint, and what is said of the plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreap.commands.options import Add, Arguments, Result
from autoreap.errors import InputError
from autoreap.wording import size_text

if TYPE_CHECKING:
    from autoreap.jobs import Described
    from autoreap.plan import PruningPlan


def add_output_options(add: Add) -> None:
    """Where to write, or whether to."""
    add("-o", "--output", type=Path, help="directory to write; must be new")
    add("--dry-run", action="store_true", help="say what would be written, from headers alone")


def write(described: "Described", plan: "PruningPlan", options: Arguments, facts: dict[str, Any]) -> Result:
    """Materialise `plan`, or say what it would be."""
    from autoreap.materialise import materialise, plan_rewrite

    if options.dry_run:
        rewrite = plan_rewrite(described.checkpoint, plan)
    else:
        rewrite = materialise(described.checkpoint.path, plan, target(options), facts=facts)
    document = {
        "path": None if options.dry_run else str(options.output),
        "size_bytes": rewrite.size_bytes,
        "num_parameters": rewrite.num_parameters,
        "num_tensors": len(rewrite.tensors),
        "num_dropped": rewrite.num_dropped,
        "plan": plan_summary(plan),
    }
    before = described.checkpoint.num_bytes
    verb = "would write" if options.dry_run else f"wrote {options.output}:"
    text = (
        f"{verb} {size_text(rewrite.size_bytes)} ({rewrite.size_bytes / before:.1%} of {size_text(before)}), "
        f"{rewrite.num_parameters:,} parameters in {len(rewrite.tensors):,} tensors"
    )
    return document, text


def plan_summary(plan: "PruningPlan") -> dict[str, Any]:
    """How many experts and layers each component keeps, for people and JSON."""
    from autoreap.plan import COMPONENTS

    return {
        "strip_vision": plan.strip_vision,
        **{
            name: {"experts": edit.num_retained_experts, "layers": len(edit.layers), "of_layers": len(edit.experts)}
            for name in COMPONENTS
            if (edit := plan.component(name)) is not None
        },
    }


def target(options: Arguments) -> Path:
    """The directory to write; `InputError` where none is named."""
    if options.output is None:
        raise InputError("needs -o OUT, or --dry-run", where="-o")
    output: Path = options.output
    return output
