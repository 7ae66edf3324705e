"""autoreap materialise: write the checkpoint of a trial or a plan."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from autoreap.commands.options import (
    Calibration,
    Json,
    Loading,
    ModelNow,
    Plan,
    Storage,
    TrackingUri,
    load_study,
    print_result,
    source_names,
)
from autoreap.commands.writing import Writing
from autoreap.errors import InputError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from autoreap.writing.behaviour import Expected

_SOURCE = "a study with --trial, or a model with --plan"


def materialise(
    source: Annotated[str, Argument(metavar="STUDY|MODEL", help=_SOURCE, autocompletion=source_names)],
    writing: Writing,
    calibration: Calibration,
    loading: Loading,
    trial: Annotated[int | None, Option(metavar="N", min=0, help="number of the trial")] = None,
    plan: Plan = None,
    model: ModelNow = None,
    evals: Annotated[
        Path | None, Option(metavar="FILE", help="compare answers to these (default: those of the trial)")
    ] = None,
    storage: Storage = None,
    register: Annotated[
        str | None, Option(metavar="NAME", help="make it a version of this model in MLflow's registry")
    ] = None,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Write a pruned checkpoint (materialize is the same).

    Example:
        autoreap materialise tiny-tiny --trial 7 -o pruned
    """
    if register and (trial is None or writing.dry_run):
        raise InputError("needs STUDY with --trial, and no --dry-run", where="--register")
    if evals and not writing.compares:
        taken = "--skip-behaviour"
        if writing.dry_run:
            taken = "--dry-run"
        raise InputError(f"compares answers, which {taken} leaves out", where="--evals", fix="take one of them")
    # Without both no source is named, with both there are two.
    if plan is not None and trial is None:
        document, text = _write_plan(writing, source, plan, evals, calibration, loading)
    elif trial is not None and plan is None:
        document, text = _write_trial(writing, source, trial, storage, model, evals)
    else:
        raise InputError("needs STUDY with --trial, or MODEL with --plan", where="materialise")
    if register:
        from autoreap.search.storage import DEFAULT_ROOT
        from autoreap.search.tracking import register as register_version

        # Last, when the checkpoint is verified: a version in the registry must be one that can be loaded.
        version = register_version(
            writing.target, register, f"{source}/{trial}", folder=DEFAULT_ROOT, tracking_uri=tracking_uri
        )
        document["registered"] = {"name": register, "version": version}
        text += f"\nregistered as {register}, version {version}"
    print_result(document, text, as_json=json)


def _write_plan(
    writing: Writing, model: str, path: Path, evals: Path | None, calibration: Calibration, loading: Loading
) -> tuple[dict[str, Any], str]:
    from autoreap.models.loading import open_model
    from autoreap.plan import load_plan
    from autoreap.writing.materialiser import check_target

    plan = load_plan(path)
    model_info = open_model(model)
    if not writing.dry_run:
        check_target(writing.target, model_info.checkpoint.path)
    if plan.heals and not writing.dry_run:
        from autoreap import jobs
        from autoreap.healing.healer import STREAMS
        from autoreap.search.storage import DEFAULT_ROOT

        # A plan says how it is healed, not with what result: the weights are fitted again.
        data = jobs.healing_data(calibration.config_if_given())
        component = "thinker"
        if plan.talker_heal is not None:
            component = "both"
        loaded = loading.load(model_info, component)
        plan = jobs.refitted(loaded, plan, data, DEFAULT_ROOT / STREAMS)
    expected: Expected | str = "no --evals to answer"
    if evals:
        from autoreap import jobs

        expected = jobs.answers_of_mask(model_info, plan, evals)
    return writing.write(model_info, plan, expected=expected)


def _write_trial(
    writing: Writing, name: str, trial: int, storage: str | None, model: str | None, evals: Path | None
) -> tuple[dict[str, Any], str]:
    from autoreap import jobs
    from autoreap.models.loading import open_model
    from autoreap.search.shipping import trial_facts
    from autoreap.search.storage import DEFAULT_ROOT
    from autoreap.writing.materialiser import check_target

    study = load_study(name, storage)
    plan = study.plan(trial)
    model_info = open_model(model or plan.base_model.name)
    facts = trial_facts(study, study.scored_trial(trial))
    expected: Expected | str = ""
    scored = plan
    if not writing.dry_run:
        # Before weights are fitted, which takes minutes.
        check_target(writing.target, model_info.checkpoint.path)
        plan = jobs.refitted_trial(study, plan, model_info, DEFAULT_ROOT)
    if evals:
        expected = jobs.answers_of_mask(model_info, plan, evals)
    elif writing.compares:
        try:
            answers = jobs.answers_of_trial(study, trial)
            expected = replace(answers, is_exact=jobs.is_same_fit(scored, plan))
        except InputError as error:  # what was measured may be gone; the checkpoint is right all the same
            logger.info(str(error))
            # In the record: no paths of this machine.
            expected = "what the trial answered is no longer there as it was"
    return writing.write(model_info, plan, facts=facts, expected=expected)
