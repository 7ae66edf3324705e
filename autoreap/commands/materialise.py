"""autoreap materialise: write the checkpoint of a trial or a plan."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from autoreap.commands.options import Add, Arguments, Result, add_tracking_option, at_least_zero
from autoreap.commands.writing import add_output_options, compares, target, write
from autoreap.errors import InputError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from autoreap.writing.behaviour import Expected

SUMMARY = "write a pruned checkpoint"
EXAMPLE = "autoreap materialise tiny-tiny --trial 7 -o pruned"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("source", metavar="STUDY|MODEL", help="a study with --trial, or a model with --plan")
    add("--trial", type=at_least_zero, metavar="N", help="number of the trial")
    add("--plan", type=Path, metavar="FILE", help="a plan.json")
    add("--model", help="where the base model is now (default: where the study had it)")
    add(
        "--evals",
        type=Path,
        metavar="FILE",
        help="compare answers to these (default: those that the trial was scored on)",
    )
    add("--storage", metavar="URL", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")
    add("--register", metavar="NAME", help="make the trial's checkpoint a version of this model in MLflow's registry")
    add_tracking_option(add)
    add_output_options(add)


def run(options: Arguments) -> Result:
    """Write it, or say what it would be."""
    if (options.plan is None) == (options.trial is None):
        raise InputError("needs STUDY with --trial, or MODEL with --plan", where="materialise")
    if options.register and (options.trial is None or options.dry_run):
        raise InputError("needs STUDY with --trial, and no --dry-run", where="--register")
    if options.evals and not compares(options):
        taken = "--dry-run" if options.dry_run else "--skip-behaviour"
        raise InputError(f"compares answers, which {taken} leaves out", where="--evals", fix="take one of them")
    return _of_plan(options) if options.plan is not None else _of_trial(options)


def _of_plan(options: Arguments) -> Result:
    from autoreap.models.loading import describe
    from autoreap.plan import load_plan
    from autoreap.writing.materialiser import check_target

    plan = load_plan(options.plan)
    described = describe(options.source)
    expected: Expected | str = "no --evals to answer"
    if options.evals and compares(options):
        from autoreap import jobs

        check_target(target(options), described.checkpoint.path)
        expected = jobs.answers_of_mask(described, plan, options.evals)
    return write(described, plan, options, expected=expected)


def _of_trial(options: Arguments) -> Result:
    from autoreap import jobs
    from autoreap.models.loading import describe
    from autoreap.search.records import read_study
    from autoreap.search.storage import DEFAULT_ROOT, open_study

    study = read_study(open_study(options.source, options.storage))
    plan = study.plan(options.trial)
    described = describe(options.model or plan.base_model.name)
    trial = f"{study.name}/{options.trial}"
    facts = {"metrics": study.scored_trial(options.trial).metrics, "trial": trial}
    expected: Expected | str = ""
    if options.evals and compares(options):
        expected = jobs.answers_of_mask(described, plan, options.evals)
    elif compares(options):
        try:
            expected = jobs.answers_of_trial(study, options.trial)
        except InputError as error:  # what was measured may be gone; the checkpoint is right all the same
            logger.info(str(error))
            expected = "what the trial answered is no longer there as it was"  # in the record: no paths of this machine
    document, text = write(described, plan, options, facts=facts, expected=expected)
    if not options.register:
        return document, text
    from autoreap.search.tracking import register

    uri = options.tracking_uri
    version = register(options.output, options.register, trial, folder=DEFAULT_ROOT, tracking_uri=uri)
    registered = {"registered": {"name": options.register, "version": version}}
    return {**document, **registered}, f"{text}\nregistered as {options.register}, version {version}"
