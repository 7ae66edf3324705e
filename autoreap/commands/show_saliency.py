"""autoreap saliency: what a calibration measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from autoreap.candidate import Candidate
from autoreap.commands.options import COMPONENTS, ComponentName, Json, check_output, print_result

_LEGEND = """
cosine     between input and output of the layer on audio; cut: order in which single layers go"""
_LEGEND_OF_EXPERTS = """\
top hold   share of S1 in as many of its highest experts as are kept
effective  exp(entropy) of the shares of S1: how many equal experts would spread it as wide
no audio   experts that took no audio token; no token: that took none at all
moved      share of the kept experts that lambda and beta brought in"""


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
    from autoreap.calibration.summary import headline, layer_table, summarise
    from autoreap.report.tables import text_table
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
    if png or html:
        from autoreap.report.saliency_page import plot_saliency, write_saliency_page

        if png:
            plot_saliency(measured, names, values, png)
        if html:
            write_saliency_page(measured, names, values, html)
    lines = _provenance(measured.provenance)
    for name, summary in summaries.items():
        lines += ["", name]
        lines += [f"  {line}" for line in headline(summary)]
        header, *rows = layer_table(summary)
        lines += ["", text_table(header, rows, left=())]
    document = {
        "provenance": dict(measured.provenance),
        "retention": values.retention,
        "components": {name: summary.as_dict() for name, summary in summaries.items()},
    }
    lines.append(_LEGEND)
    if not all(summary.shape.is_dense for summary in summaries.values()):
        lines.append(_LEGEND_OF_EXPERTS)
    print_result(document, "\n".join(lines), as_json=json)


def _provenance(provenance: Mapping[str, str]) -> list[str]:
    # `shape` is for `plan`, which needs no model then; no person reads it.
    width = max(map(len, provenance))
    return [f"{key:<{width}}  {value}" for key, value in provenance.items() if key != "shape"]
