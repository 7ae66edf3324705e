"""autoreap pareto: the front of a study."""

from pathlib import Path
from typing import Annotated

from typer import Option

from autoreap.commands.options import Json, Storage, Study, check_output, load_study, print_result
from autoreap.errors import InputError


def pareto(
    study: Study,
    storage: Storage = None,
    png: Annotated[Path | None, Option(metavar="FILE", help="draw it in a file, too (or .svg, .pdf, .jpg)")] = None,
    csv: Annotated[
        Path | None, Option(metavar="FILE", help="write the table with all metrics and intervals, too")
    ] = None,
    json: Json = False,
) -> None:
    """Print the front of a study, and draw it.

    Example:
        autoreap pareto tiny-tiny --png front.png
    """
    from autoreap.report.front_table import FORMATS, front_table, plot_front, write_front_csv
    from autoreap.search.front import explain_empty_front, front_of, nearest
    from autoreap.search.held_out import points_as_dicts

    # Before a study is read from a server: a place that can't be written is found at once.
    if png:
        check_output(png, "--png", FORMATS)
    if csv:
        check_output(csv, "--csv")
    recorded = load_study(study, storage)
    front = front_of(recorded)
    points = front or nearest(recorded.points)
    if not points:
        raise InputError(explain_empty_front(recorded), where=f"study {study}", fix="search longer")
    if png:
        plot_front(recorded, png)
    if csv:
        write_front_csv(recorded, points, csv)
    baseline = recorded.baseline.as_dict()
    if recorded.held_out is not None:
        baseline["held_out"] = recorded.held_out.as_dict()["baseline"]
    document = {"study": recorded.name, "points": points_as_dicts(recorded, front), "baseline": baseline}
    if recorded.controls:
        document["controls"] = {name: control.as_dict() for name, control in recorded.controls.items()}
    table = front_table(recorded, points)
    if not front:
        document["nearest"] = [point.as_dict() for point in points]
        table = f"{explain_empty_front(recorded)}\n\n{table}"
    print_result(document, table, as_json=json)
