"""autoreap saliency: what a calibration measured."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from autoreap.candidate import Candidate
from autoreap.commands.options import COMPONENTS, ComponentName, Json, check_output, print_result


def saliency(
    saliency_file: Annotated[Path, Argument(metavar="FILE", help="what calibrate wrote")],
    component: Annotated[ComponentName | None, Option(help="default: all that were measured")] = None,
    retention: Annotated[float, Option(metavar="NUMBER", help="fraction of experts kept in each layer")] = 0.5,
    lambda_: Annotated[float, Option("--lambda", metavar="NUMBER", help="weight of the contrast term")] = 1.0,
    beta: Annotated[float, Option(metavar="NUMBER", help="fraction of the video saliency that it subtracts")] = 1.0,
    png: Annotated[Path | None, Option(metavar="FILE", help="draw it")] = None,
    html: Annotated[
        Path | None, Option(metavar="FILE", help="write a page with the same pictures, and how to read them")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a calibration measured.

    Example:
        autoreap saliency saliency.safetensors --retention 0.5 --html saliency.html
    """
    from autoreap.calibration.summary import summarise
    from autoreap.report.saliency_page import plot_saliency, write_saliency_page
    from autoreap.report.saliency_text import saliency_text
    from autoreap.saliency import load_saliency

    if png:
        check_output(png, "--png", ("png",))
    if html:
        check_output(html, "--html")
    values = Candidate(retention=retention, lambda_=lambda_, beta=beta)
    measured = load_saliency(saliency_file)
    names = COMPONENTS[component or "both"]
    if component is None:
        names = tuple(name for name in names if name in measured.components)
    summaries = {name: summarise(measured, name, values) for name in names}
    if png:
        plot_saliency(measured, names, values, png)
    if html:
        write_saliency_page(measured, names, values, html)
    document = {
        "provenance": dict(measured.provenance),
        "retention": values.retention,
        "components": {name: summary.as_dict() for name, summary in summaries.items()},
    }
    print_result(document, saliency_text(measured, summaries), as_json=json)
