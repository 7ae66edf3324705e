"""autoreap prune: calibrate, plan and materialise in one go."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from autoreap.candidate import Candidate
from autoreap.commands.options import COMPONENTS, Calibration, Component, Json, Loading, Model, print_result
from autoreap.commands.plan_options import Planning
from autoreap.commands.writing import Writing
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.writing.behaviour import Expected


def prune(
    model: Model,
    calibration: Calibration,
    loading: Loading,
    planning: Planning,
    writing: Writing,
    component: Component = "thinker",
    json: Json = False,
) -> None:
    """Calibrate, plan and materialise in one go.

    Example:
        autoreap prune tiny --preset medium --audio calibration/tiny/audio.parquet -o pruned
    """
    from autoreap.models.loading import open_model
    from autoreap.planning import check_candidate, needs_saliency, num_layers_to_order
    from autoreap.writing.materialiser import check_target

    model_info = open_model(model)
    shape, base_model = model_info.shape, model_info.base_model
    if not writing.dry_run:
        check_target(writing.target, model_info.checkpoint.path)
    values = planning.candidate(component, shape)
    if values == Candidate() and planning.layers is None:
        raise InputError("names nothing to prune", where="prune", fix="give --preset medium, or --retention 0.5")
    check_candidate(values, shape)
    # What ranks nothing needs no measurement, and no weight of the model in memory.
    if not needs_saliency(values) or not calibration.is_given:
        # Or the error that says what is to be measured.
        plan = planning.plan(component, None, shape, base_model)
        result = writing.write(model_info, plan, expected="no weight was loaded to compare with")
        print_result(*result, as_json=json)
        return

    from autoreap import jobs
    from autoreap.calibration.calibrator import Options
    from autoreap.calibration.spool import spool_beside
    from autoreap.models.loading import release

    config = calibration.config()
    num_ordered = num_layers_to_order(values, shape)
    data = jobs.read_calibration(config, num_ordered=num_ordered)
    with TemporaryDirectory() as scratch:
        loaded = loading.load(model_info, component)
        # What calibration spills goes to the disk that will hold the checkpoint: /tmp may be small, or memory.
        beside = Path(scratch) / "dry"
        if not writing.dry_run:
            beside = writing.target
        options = replace(Options.of(config), spool=spool_beside(beside))
        components = COMPONENTS[component]
        saliency = jobs.calibrated(loaded, data, components, options=options, num_ordered=num_ordered)
        plan = planning.plan(component, saliency, shape, base_model)
        if plan.heals and not writing.dry_run:
            plan = jobs.refitted(loaded, plan, data, Path(scratch))
        expected: Expected | str = "the base model was never completely in memory"
        if writing.compares and not loading.stream_layers:
            expected = jobs.answers_to_calibration(loaded, data, plan, Path(scratch))
        del loaded
        release()
        print_result(*writing.write(model_info, plan, expected=expected), as_json=json)
