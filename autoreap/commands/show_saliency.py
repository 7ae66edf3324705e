"""autoreap saliency: what a calibration measured."""

from collections.abc import Mapping
from pathlib import Path

from autoreap.candidate import Candidate
from autoreap.commands.options import COMPONENTS, Add, Arguments, Result, check_output

SUMMARY = "show what a calibration measured"
EXAMPLE = "autoreap saliency saliency.safetensors --retention 0.5 --html saliency.html"

_LEGEND = """
cosine     between input and output of the layer on audio; cut: order in which single layers go"""
_LEGEND_OF_EXPERTS = """
top hold   share of S1 in as many of its highest experts as are kept
effective  exp(entropy) of the shares of S1: how many equal experts would spread it as wide
no audio   experts that took no audio token; no token: that took none at all
moved      share of the kept experts that lambda and beta brought in"""


def add_options(add: Add) -> None:
    """What the command takes."""
    add("saliency_file", type=Path, metavar="FILE", help="what calibrate wrote")
    add("--component", choices=tuple(COMPONENTS), help="default: all that were measured")
    add("--retention", type=float, default=0.5, metavar="SHARE", help="of the experts kept in each layer (default 0.5)")
    add(
        "--lambda",
        dest="lambda_",
        type=float,
        default=1.0,
        metavar="WEIGHT",
        help="weight of the contrast term (default 1)",
    )
    add("--beta", type=float, default=1.0, metavar="SHARE", help="of the video saliency that it subtracts (default 1)")
    add("--png", type=Path, metavar="FILE", help="draw it")
    add("--html", type=Path, metavar="FILE", help="write a page with the same pictures, and how to read them")


def run(options: Arguments) -> Result:
    """Where it comes from, and what it says of each layer; pictures where asked for."""
    from autoreap.calibration.summary import headline, layer_table, summarise
    from autoreap.saliency import load_saliency

    if options.png:
        check_output(options.png, "--png", ("png",))
    if options.html:
        check_output(options.html, "--html")
    values = Candidate(retention=options.retention, lambda_=options.lambda_, beta=options.beta)
    saliency = load_saliency(options.saliency_file)
    measured = [name for name in COMPONENTS["both"] if name in saliency.components]
    names = COMPONENTS[options.component] if options.component else measured
    summaries = {name: summarise(saliency, name, values) for name in names}
    if options.png or options.html:
        from autoreap.report.saliency_page import plot_saliency, write_saliency_page

        if options.png:
            plot_saliency(saliency, names, values, options.png)
        if options.html:
            write_saliency_page(saliency, names, values, options.html)
    lines = _provenance(saliency.provenance)
    for name, summary in summaries.items():
        lines += ["", name, *(f"  {line}" for line in headline(summary)), "", *_aligned(layer_table(summary))]
    document = {
        "provenance": dict(saliency.provenance),
        "retention": values.retention,
        "components": {name: summary.as_dict() for name, summary in summaries.items()},
    }
    has_experts = not all(summary.shape.is_dense for summary in summaries.values())
    return document, "\n".join([*lines, _LEGEND + _LEGEND_OF_EXPERTS * has_experts])


def _provenance(provenance: Mapping[str, str]) -> list[str]:
    width = max(map(len, provenance))
    return [f"{key:<{width}}  {value}" for key, value in provenance.items() if key != "shape"]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
