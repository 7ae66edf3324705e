"""autoreap plan: decide what is kept, without the model."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result
from autoreap.commands.planning import add_planning_options, planned

SUMMARY = "decide what is kept"
EXAMPLE = "autoreap plan saliency.safetensors --retention 0.5 --layers-cut 1 -o plan.json"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("saliency_file", type=Path, metavar="SALIENCY", help="what calibrate wrote")
    add("--model", help="where the model is now (default: where it was calibrated)")
    add_planning_options(add)
    add("-o", "--output", type=Path, default=Path("plan.json"), help="default: plan.json")


def run(options: Arguments) -> Result:
    """Plan and save."""
    from autoreap.described import describe
    from autoreap.saliency import load_saliency

    saliency = load_saliency(options.saliency_file)
    described = describe(options.model or saliency.provenance["model"])
    plan = planned(options, saliency, described.shape, described.base_model)
    plan.save(options.output)
    summary = plan.summary()
    return {"path": str(options.output), **summary}, f"wrote {options.output}: {summary}"
