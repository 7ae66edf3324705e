"""autoreap plan: decide what is kept, without the model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from autoreap.commands.options import Component, Json, ModelNow, print_result
from autoreap.commands.plan_options import Planning, describe_plan
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.plan import BaseModel, ModelShape
    from autoreap.saliency import Saliency


def plan(
    saliency_file: Annotated[Path, Argument(metavar="SALIENCY", help="what calibrate wrote")],
    planning: Planning,
    component: Component = "thinker",
    model: ModelNow = None,
    output: Annotated[Path, Option("-o", "--output", metavar="FILE")] = Path("plan.json"),
    json: Json = False,
) -> None:
    """Decide what is kept, and write the plan.

    Example:
        autoreap plan saliency.safetensors --retention 0.5 --layers-cut 1 -o plan.json
    """
    from autoreap.saliency import load_saliency

    saliency = load_saliency(saliency_file)
    made = planning.plan(component, saliency, *_measured_model(saliency, model))
    made.save(output)
    print_result({"path": str(output), **made.summary()}, f"wrote {output}: {describe_plan(made)}", as_json=json)


def _measured_model(saliency: "Saliency", model: str | None) -> tuple["ModelShape", "BaseModel"]:
    """What to plan for: by the saliency file alone where it carries the shape, else by the model on disk."""
    from autoreap.calibration.summary import read_shape
    from autoreap.plan import BaseModel

    name = model or saliency.provenance.get("model")
    if name is None:
        raise InputError("does not name the model that was measured", where="saliency", fix="name it with --model")
    shape = read_shape(saliency)
    if shape is None:  # the file does not carry it, so the model must be on this disk
        from autoreap.models.loading import open_model

        model_info = open_model(name)
        return model_info.shape, model_info.base_model
    if model is None:  # nothing of the model is opened: what was measured names it by its fingerprint
        return shape, BaseModel(name, saliency.model_fingerprint)
    from autoreap.models.checkpoint import open_checkpoint, resolve_model

    return shape, BaseModel(name, open_checkpoint(resolve_model(model)).fingerprint)
