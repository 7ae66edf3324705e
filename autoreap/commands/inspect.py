"""autoreap inspect: parameters and bytes per component."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from autoreap.commands.options import Json, Model, Plan, print_result
from autoreap.formatting import size_text

if TYPE_CHECKING:
    from autoreap.models.headers import TensorForm


def inspect(model: Model, plan: Plan = None, json: Json = False) -> None:
    """Count parameters and bytes per component.

    Example:
        autoreap inspect tiny
    """
    from autoreap.models.loading import open_model
    from autoreap.plan import load_plan
    from autoreap.writing.rewrite import plan_rewrite
    from autoreap.writing.sizes import component_sizes

    model_info = open_model(model)
    tensors: Iterable[TensorForm] = model_info.checkpoint.tensors.values()
    if plan:
        tensors = plan_rewrite(model_info.checkpoint, load_plan(plan)).tensors
    sizes = component_sizes(tensors, model_info.family.layout)
    lines = [f"{'component':<18}{'parameters':>18}{'bytes':>14}{'tensors':>9}"]
    for name, size in sizes.items():
        lines.append(f"{name:<18}{size.num_parameters:>18,}{size_text(size.num_bytes):>14}{size.num_tensors:>9,}")
    lines.append(f"fingerprint {model_info.checkpoint.fingerprint}")
    document = {
        "model": model,
        "fingerprint": model_info.checkpoint.fingerprint,
        "components": {name: vars(size) for name, size in sizes.items()},
    }
    print_result(document, "\n".join(lines), as_json=json)
