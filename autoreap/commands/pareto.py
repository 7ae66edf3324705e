"""autoreap pareto: the front of a study."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result, add_study_options, check_output
from autoreap.errors import InputError

SUMMARY = "print the front of a study, and draw it"
EXAMPLE = "autoreap pareto tiny-tiny --png front.png"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("--png", type=Path, metavar="FILE", help="draw it in a file, too (or .svg, .pdf, .jpg)")
    add("--csv", type=Path, metavar="FILE", help="write the table with all metrics and intervals, too")


def run(options: Arguments) -> Result:
    """The front as a table, and as points with intervals; where no trial keeps the constraints, the nearest ones."""
    from autoreap.report.front_table import FORMATS, front_table, plot_front, write_front_csv
    from autoreap.search.front import explain_empty_front, front_of, nearest
    from autoreap.search.held_out import with_held_out
    from autoreap.search.records import read_study
    from autoreap.search.storage import open_study

    if options.png:
        check_output(options.png, "--png", FORMATS)
    if options.csv:
        check_output(options.csv, "--csv")
    study = read_study(open_study(options.study, options.storage))
    front = front_of(study)
    points = front or nearest(study.points)
    if not points:
        raise InputError(explain_empty_front(study), where=f"study {options.study}", fix="search longer")
    if options.png:
        plot_front(study, options.png)
    if options.csv:
        write_front_csv(study, points, options.csv)
    baseline = study.baseline.as_dict()
    if study.held_out is not None:
        baseline["held_out"] = study.held_out.as_dict()["baseline"]
    document = {
        "study": study.name,
        "points": with_held_out([point.as_dict() for point in front], study.held_out),
        "baseline": baseline,
    }
    if study.controls:
        document["controls"] = {name: control.as_dict() for name, control in study.controls.items()}
    table = front_table(study, points)
    if front:
        return document, table
    document["nearest"] = [point.as_dict() for point in points]
    return document, f"{explain_empty_front(study)}\n\n{table}"
