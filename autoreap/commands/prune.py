"""autoreap prune: calibrate, plan and materialise in one go."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from autoreap.candidate import Candidate
from autoreap.commands.options import (
    COMPONENTS,
    Add,
    Arguments,
    Result,
    add_calibration_options,
    add_loading_options,
    add_model,
    add_streaming_option,
    calibration_config,
    gives_calibration,
)
from autoreap.commands.plan_options import add_planning_options, candidate, planned
from autoreap.commands.writing import add_output_options, compares, target, write
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.models.loading import Described
    from autoreap.plan import PruningPlan
    from autoreap.saliency import Saliency
    from autoreap.writing.behaviour import Expected

SUMMARY = "calibrate, plan and materialise in one go"
EXAMPLE = "autoreap prune tiny --preset medium --audio calibration/tiny/audio.parquet -o pruned"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_model(add)
    add_calibration_options(add)
    add_loading_options(add)
    add_streaming_option(add)
    add_planning_options(add, component=False)
    add_output_options(add)


def run(options: Arguments) -> Result:
    """All three steps; what needs no measurement loads no weight."""
    from autoreap.models.loading import describe
    from autoreap.planning import check_candidate, needs_saliency
    from autoreap.writing.materialiser import check_target

    described = describe(options.model)
    if not options.dry_run:
        check_target(target(options), described.checkpoint.path)
    values = candidate(options, described.shape)
    if values == Candidate() and options.layers is None:
        raise InputError("names nothing to prune", where="prune", fix="give --preset medium, or --retention 0.5")
    check_candidate(values, described.shape)
    decide = partial(planned, options, shape=described.shape, base_model=described.base_model)
    if not needs_saliency(values):
        return write(described, decide(None), options, expected="no weight was loaded to compare with")
    return _measured(described, decide, options)


def _measured(described: "Described", decide: "Callable[[Saliency | None], PruningPlan]", options: Arguments) -> Result:
    if not gives_calibration(options):
        decide(None)  # says what would have to be measured
    from autoreap import jobs
    from autoreap.calibration.calibrator import Options
    from autoreap.calibration.spool import spool_beside
    from autoreap.models.loading import load, release

    calibration = calibration_config(options)
    data = jobs.read_calibration(calibration)
    with TemporaryDirectory() as scratch:
        components = COMPONENTS[options.component]
        loaded = load(
            described,
            speech="talker" in components,
            device=options.device,
            dtype=options.dtype,
            stream_layers=options.stream_layers,
        )
        spool = spool_beside(Path(scratch) / "dry" if options.dry_run else target(options))
        measuring = replace(Options.of(calibration), spool=spool)
        saliency = jobs.calibrated(loaded, data, components, options=measuring)
        plan = decide(saliency)
        expected: Expected | str | None = "the base model was never in memory as a whole"
        if compares(options) and not options.stream_layers:
            expected = jobs.answers_to_calibration(loaded, data, plan, Path(scratch))
        del loaded
        release()
        return write(described, plan, options, expected=expected or "no calibration row holds speech with its text")
