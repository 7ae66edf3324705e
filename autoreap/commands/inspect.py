"""autoreap inspect: parameters and bytes per component."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from autoreap.commands.options import Add, Arguments, Result, add_model
from autoreap.formatting import size_text

if TYPE_CHECKING:
    from autoreap.models.checkpoint import TensorInfo
    from autoreap.writing.rewrite import OutputTensor

SUMMARY = "count parameters and bytes per component"
EXAMPLE = "autoreap inspect tiny"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_model(add)
    add("--plan", type=Path, metavar="FILE", help="count what this plan would leave")


def run(options: Arguments) -> Result:
    """Sizes, from headers alone."""
    from autoreap.models.loading import describe
    from autoreap.plan import load_plan
    from autoreap.writing.rewrite import plan_rewrite
    from autoreap.writing.sizes import component_sizes

    described = describe(options.model)
    tensors: Iterable[TensorInfo | OutputTensor] = described.checkpoint.tensors.values()
    if options.plan:
        tensors = plan_rewrite(described.checkpoint, load_plan(options.plan)).tensors
    sizes = component_sizes(tensors, described.family.layout)
    rows = [
        f"{name:<18}{s.num_parameters:>18,}{size_text(s.num_bytes):>14}{s.num_tensors:>9,}" for name, s in sizes.items()
    ]
    header = f"{'component':<18}{'parameters':>18}{'bytes':>14}{'tensors':>9}"
    document = {
        "model": options.model,
        "fingerprint": described.checkpoint.fingerprint,
        "components": {name: vars(size) for name, size in sizes.items()},
    }
    return document, "\n".join([header, *rows, f"fingerprint {described.checkpoint.fingerprint}"])
