"""autoreap pareto: the front of a study."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreap.commands.options import Add, Arguments, Result, add_study_options, check_output
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.study.trials import Point

SUMMARY = "print the front of a study, and draw it"
EXAMPLE = "autoreap pareto tiny-tiny --png front.png"

_WIDTH = 100  # where there is no terminal


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("--png", type=Path, metavar="FILE", help="draw it in a file, too (or .svg, .pdf, .jpg)")
    add("--csv", type=Path, metavar="FILE", help="write the table with all metrics and intervals, too")


def run(options: Arguments) -> Result:
    """The front as a table, and as points with intervals; where no trial keeps the constraints, the nearest ones."""
    from autoreap.report.front_csv import write_front_csv
    from autoreap.report.table import FORMATS, front_table, plot_front
    from autoreap.study.confirmed import CONFIRMED, with_confirmed
    from autoreap.study.front import drawn_metric, empty_front, nearest, pareto
    from autoreap.study.trials import CONTROLS, objectives_of, open_study, points_of

    if options.png:
        check_output(options.png, "--png", FORMATS)
    if options.csv:
        check_output(options.csv, "--csv")
    study = open_study(options.study, options.storage)
    points = points_of(study)
    front = pareto(points, objectives_of(study))
    closest = [] if front else nearest(points)
    if not front and not closest:
        raise InputError(empty_front(study), where=f"study {options.study}", fix="search longer")
    baseline, controls = study.user_attrs["baseline"], study.user_attrs.get(CONTROLS, {})
    if options.png:
        plot_front(study, options.png)
    if options.csv:
        write_front_csv(options.csv, front or closest, baseline, controls)
    confirmed = study.user_attrs.get(CONFIRMED)
    document = {
        "study": study.study_name,
        "points": with_confirmed([point.as_dict() for point in front], confirmed),
        "baseline": baseline | ({"confirmed": confirmed["baseline"]} if confirmed else {}),
        **({"controls": controls} if controls else {}),
        **({"nearest": [point.as_dict() for point in closest]} if closest else {}),
    }
    table = front_table(front or closest, baseline, controls, confirmed)
    drawn = f"{table}\n\n{_picture(points, front, baseline, drawn_metric(study))}"
    return document, drawn if front else f"{empty_front(study)}\n\n{drawn}"


def _picture(points: "Sequence[Point]", front: "Sequence[Point]", baseline: Mapping[str, Any], metric: str) -> str:
    """All points in characters, as wide as the terminal."""
    from autoreap.scores import exact
    from autoreap.terminal.plot import Scene, plot
    from autoreap.wording import metric_text

    scene = Scene(
        points=[(point.size_bytes, point.metrics[metric]["value"]) for point in points],
        front={point.trial: (point.size_bytes, point.metrics[metric]["value"]) for point in front},
        baseline=(baseline["size_bytes"], baseline["metrics"][metric]["value"]),
        label=lambda value: metric_text(metric, exact(value)),
    )
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    legend = f"{metric} against size; O the front, + other trials, B unpruned"
    return f"{legend}\n{plot(scene, width=width)}"
