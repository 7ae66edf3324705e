"""autoreap search: start or resume a study."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoreap.commands.options import (
    Add,
    Arguments,
    Result,
    add_loading_options,
    add_tracking_option,
    at_least_zero,
    hours,
    positive,
)
from autoreap.wording import points_text

ENGINES = ("local", "ray")
SUMMARY = "start or resume a study"
EXAMPLE = "autoreap search search_spaces/tiny.yaml"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("space", type=Path, metavar="SPACE", help="a file of search_spaces/")
    add("--model", default="tiny", help="a directory, a hub name, or tiny (default)")
    add("--study", metavar="NAME", help="of the study (default: SPACE-MODEL); the same name resumes it")
    add("--trials", type=positive, metavar="N", help="finished trials to reach in all (default: the space's)")
    add("--hours", type=hours, metavar="H", help="stop after so many hours (default: the space's, or never)")
    add("--storage", metavar="URL", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")
    add("--seed", type=at_least_zero, metavar="N", help="seed of the sampler (default: the space's)")
    add(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes that search together, a GPU each (default: 1)",
    )
    add(
        "--engine",
        choices=ENGINES,
        default="local",
        help="where they run: local, on this machine (default), or on a Ray cluster",
    )
    add("--allow-other-code", action="store_true", help="go on with a study that another version has begun")
    add("--no-confirm", action="store_true", help="do not score the front on the report split at the end")
    add("--as-worker", help=argparse.SUPPRESS)  # the options of a search that has started this one, as JSON
    add_tracking_option(add)
    add_loading_options(add)


def run(options: Arguments) -> Result:
    """Search, then say what was found and shipped."""
    from autoreap import jobs
    from autoreap.report.table import front_table
    from autoreap.study.confirmed import CONFIRMED, confirmed_lines, with_confirmed
    from autoreap.study.front import empty_front
    from autoreap.study.options import SearchOptions
    from autoreap.study.trials import CONTROLS, plan_of
    from autoreap.writing.verification import behaviour_text

    chosen = (
        SearchOptions.from_json(options.as_worker)
        if options.as_worker
        else SearchOptions(
            model=options.model,
            study=options.study,
            trials=options.trials,
            hours=options.hours,
            storage=options.storage,
            seed=options.seed,
            tracking_uri=options.tracking_uri,
            device=options.device,
            dtype=options.dtype,
            workers=options.workers,
            engine=options.engine,
            allow_other_code=options.allow_other_code,
            confirm=not options.no_confirm,
        )
    )
    result = jobs.search(options.space, chosen)
    study, shipped = result.study, result.shipped
    baseline, confirmed = study.user_attrs["baseline"], study.user_attrs.get(CONFIRMED)
    lines = [front_table(result.front, baseline, study.user_attrs.get(CONTROLS), confirmed), ""]
    lines += [] if result.front else [empty_front(study)]
    lines += [f"front    {result.picture}", f"report   {result.report}"] if result.picture else []
    lines += [] if result.is_last else ["the last worker of this study draws its front and ships"]
    if shipped:
        kept = plan_of(study, shipped.trial).thinker
        lines += [
            f"shipped  {shipped.path}",
            f"         trial {shipped.trial} with {kept.in_words}",
            f"         why: {shipped.reason}",
            f"         stock transformers loads it; {behaviour_text(shipped.verified)}",
        ]
        for metric, found in shipped.against_baseline.items():
            difference = points_text(found.value, found.low, found.high)
            lines.append(f"         {metric} {difference} against the unpruned model, paired: {found.verdict}")
        lines += [f"         {line}" for line in confirmed_lines(confirmed, shipped.trial)]
    points = with_confirmed([point.as_dict() for point in result.front], confirmed)
    document: dict[str, Any] = {"study": study.study_name, "points": points}
    if shipped:
        document["shipped"] = {**asdict(shipped), "path": str(shipped.path)}
    return document, "\n".join(lines)
