"""autoreap plan: decide what is kept, without the model."""

from pathlib import Path
from typing import TYPE_CHECKING

from autoreap.commands.options import Add, Arguments, Result
from autoreap.commands.plan_options import add_planning_options, in_words, planned
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.plan import BaseModel, ModelShape
    from autoreap.saliency import Saliency

SUMMARY = "decide what is kept, and write the plan"
EXAMPLE = "autoreap plan saliency.safetensors --retention 0.5 --layers-cut 1 -o plan.json"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("saliency_file", type=Path, metavar="SALIENCY", help="what calibrate wrote")
    add("--model", help="where the model is now, to check that it is the one that was measured")
    add_planning_options(add)
    add("-o", "--output", type=Path, default=Path("plan.json"), help="default: plan.json")


def run(options: Arguments) -> Result:
    """Plan and save."""
    from autoreap.saliency import load_saliency

    saliency = load_saliency(options.saliency_file)
    plan = planned(options, saliency, *_measured_model(saliency, options.model))
    plan.save(options.output)
    summary = plan.summary()
    return {"path": str(options.output), **summary}, f"wrote {options.output}: {in_words(plan)}"


def _measured_model(saliency: "Saliency", model: str | None) -> tuple["ModelShape", "BaseModel"]:
    """What to plan for: by the saliency file alone where it carries the shape, else by the model on disk."""
    from autoreap.calibration.summary import read_shape
    from autoreap.plan import BaseModel

    name = model or saliency.provenance.get("model")
    if name is None:
        raise InputError("does not name the model that was measured", where="saliency", fix="name it with --model")
    shape = read_shape(saliency)
    if shape is None:
        from autoreap.models.loading import describe

        described = describe(name)
        return described.shape, described.base_model
    if model is None:
        return shape, BaseModel(name, saliency.model_fingerprint)
    from autoreap.models.checkpoint import open_checkpoint, resolve_model

    return shape, BaseModel(name, open_checkpoint(resolve_model(model)).fingerprint)
