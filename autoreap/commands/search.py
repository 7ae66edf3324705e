"""autoreap search: start or resume a study."""

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
        help="score on N Ray actors, a GPU each (default: 1, in this process); RAY_ADDRESS names a cluster",
    )
    add("--allow-other-code", action="store_true", help="go on with a study that another version has begun")
    add("--no-confirm", action="store_true", help="do not score the front on the report split at the end")
    add_tracking_option(add)
    add_loading_options(add)


def run(options: Arguments) -> Result:
    """Search, then say what was found and shipped."""
    from autoreap import jobs
    from autoreap.report.front_table import front_table
    from autoreap.search.front import explain_empty_front
    from autoreap.search.held_out import with_held_out
    from autoreap.search.non_inferiority import quality_lines
    from autoreap.search.search_options import SearchOptions
    from autoreap.writing.verification import behaviour_text

    chosen = SearchOptions(
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
        allow_other_code=options.allow_other_code,
        confirm=not options.no_confirm,
    )
    result = jobs.search(options.space, chosen)
    study, shipped = result.study, result.shipped
    lines = [front_table(study, result.front), ""]
    if not result.front:
        lines.append(explain_empty_front(study))
    for path in result.drawn:
        label = "front" if path.suffix == ".png" else "report"
        lines.append(f"{label:<8} {path}")
    document: dict[str, Any] = {
        "study": study.name,
        "points": with_held_out([point.as_dict() for point in result.front], study.held_out),
    }
    if shipped:
        document["shipped"] = shipped.as_dict()
        lines += [
            f"shipped  {shipped.path}",
            f"         trial {shipped.trial} with {study.plan(shipped.trial).thinker.in_words}",
            f"         why: {shipped.reason}",
            f"         stock transformers loads it; {behaviour_text(shipped.verified)}",
        ]
        lines += [f"         {line}" for line in quality_lines(study, study.trial(shipped.trial))]
    if result.not_shipped:
        document["not_shipped"] = result.not_shipped
        lines.append(f"shipped  nothing: {result.not_shipped}")
    return document, "\n".join(lines)
