"""autoreap pareto: the front of a study."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result, add_study_options
from autoreap.errors import InputError

SUMMARY = "print the front of a study"
EXAMPLE = "autoreap pareto tiny-tiny --png front.png"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("--png", type=Path, help="draw it, too")


def run(options: Arguments) -> Result:
    """The front as a table, and as points with intervals."""
    from autoreap.front import objectives_of, open_study, pareto, points_of
    from autoreap.report import front_table, plot_front

    study = open_study(options.study, options.storage)
    front = pareto(points_of(study), objectives_of(study))
    if not front:
        raise InputError("has no finished trial yet", where=f"study {options.study}", fix="search longer")
    if options.png:
        plot_front(study, options.png)
    document = {
        "study": study.study_name,
        "points": [point.as_dict() for point in front],
        "baseline": study.user_attrs["baseline"],
    }
    return document, front_table(front, study.user_attrs["baseline"])
