"""autoreap materialise: write the checkpoint of a trial or a plan."""

from pathlib import Path
from typing import Any

from autoreap.commands.options import Add, Arguments, Result
from autoreap.commands.writing import add_output_options, write
from autoreap.errors import InputError

SUMMARY = "write a pruned checkpoint"
EXAMPLE = "autoreap materialise tiny-tiny --trial 7 -o pruned"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("source", metavar="STUDY|MODEL", help="a study with --trial, or a model with --plan")
    add("--trial", type=int, help="number of the trial")
    add("--plan", type=Path, help="a plan.json")
    add("--model", help="where the base model is now (default: where the study had it)")
    add("--storage", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")
    add_output_options(add)


def run(options: Arguments) -> Result:
    """Write it, or say what it would be."""
    from autoreap import jobs
    from autoreap.plan import load_plan

    if (options.plan is None) == (options.trial is None):
        raise InputError("needs STUDY with --trial, or MODEL with --plan", where="materialise")
    facts: dict[str, Any] = {}
    if options.plan is not None:
        model, plan = options.source, load_plan(options.plan)
    else:
        from autoreap.front import open_study, plan_of, points_of

        study = open_study(options.source, options.storage)
        plan = plan_of(study, options.trial)
        model = options.model or plan.base_model.name
        point = next(point for point in points_of(study) if point.trial == options.trial)
        facts = {"metrics": point.metrics, "trial": f"{study.study_name}/{options.trial}"}
    return write(jobs.describe(model), plan, options, facts)
