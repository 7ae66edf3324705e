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
    """The front as a table, and as points with intervals; where no trial keeps the constraints, the nearest ones."""
    from autoreap.confirmed import CONFIRMED, with_confirmed
    from autoreap.front import CONTROLS, empty_front, nearest, objectives_of, open_study, pareto, points_of
    from autoreap.report import front_table, plot_front

    study = open_study(options.study, options.storage)
    front = pareto(points_of(study), objectives_of(study))
    closest = [] if front else nearest(points_of(study))
    if not front and not closest:
        raise InputError(empty_front(study), where=f"study {options.study}", fix="search longer")
    if options.png:
        plot_front(study, options.png)
    baseline, controls = study.user_attrs["baseline"], study.user_attrs.get(CONTROLS, {})
    confirmed = study.user_attrs.get(CONFIRMED)
    document = {
        "study": study.study_name,
        "points": with_confirmed([point.as_dict() for point in front], confirmed),
        "baseline": baseline | ({"confirmed": confirmed["baseline"]} if confirmed else {}),
        **({"controls": controls} if controls else {}),
        **({"nearest": [point.as_dict() for point in closest]} if closest else {}),
    }
    table = front_table(front or closest, baseline, controls, confirmed)
    return document, table if front else f"{empty_front(study)}\n\n{table}"
