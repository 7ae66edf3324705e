"""autoreap prune: calibrate, plan and materialise in one go."""

from autoreap.commands.options import (
    COMPONENTS,
    Add,
    Arguments,
    Result,
    add_calibration_options,
    add_model,
    calibration_config,
)
from autoreap.commands.planning import add_planning_options, candidate, planned
from autoreap.commands.writing import add_output_options, target, write

SUMMARY = "calibrate, plan and materialise in one go"
EXAMPLE = "autoreap prune tiny --preset medium --audio calibration/tiny/audio.jsonl -o pruned"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_model(add)
    add_calibration_options(add)
    add_planning_options(add, component=False)
    add_output_options(add)


def run(options: Arguments) -> Result:
    """All three steps."""
    from autoreap import jobs
    from autoreap.materialise import check_target

    described = jobs.describe(options.model)
    candidate(options, described.shape)
    calibration = calibration_config(options)
    data = jobs.read_calibration(calibration)
    if not options.dry_run:
        check_target(target(options), described.checkpoint.path, size_bytes=0)
    components = COMPONENTS[options.component]
    loaded = jobs.load(described, speech="talker" in components)
    saliency = jobs.calibrated(loaded, data, components, max_unreadable=calibration.max_unreadable)
    return write(described, planned(options, saliency, described.shape, described.base_model), options, {})
