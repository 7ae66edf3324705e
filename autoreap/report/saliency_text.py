"""A saliency file for a terminal: where it comes from, then the figures of each component, layer by layer."""

from collections.abc import Mapping

from autoreap.calibration.summary import ComponentSummary, headline, layer_table
from autoreap.report.tables import text_table
from autoreap.saliency import Saliency

_LEGEND = """
cosine     between input and output of the layer on audio; cut: order in which single layers go"""
_LEGEND_OF_EXPERTS = """\
top hold   share of S1 in as many of its highest experts as are kept
effective  exp(entropy) of the shares of S1: how many equal experts would spread it as wide
no audio   experts that took no audio token; no token: that took none at all
moved      share of the kept experts that lambda and beta brought in"""


def saliency_text(saliency: Saliency, summaries: Mapping[str, ComponentSummary]) -> str:
    """The provenance, a table for each component of `summaries`, and what its columns mean."""
    provenance = saliency.shown_provenance
    width = max(map(len, provenance))
    lines = [f"{key:<{width}}  {value}" for key, value in provenance.items()]
    legends = [_LEGEND]
    for name, summary in summaries.items():
        lines += ["", name]
        for line in headline(summary):
            lines.append(f"  {line}")
        header, *rows = layer_table(summary)
        lines += ["", text_table(header, rows, left=())]
        if not summary.shape.is_dense:
            legends = [_LEGEND, _LEGEND_OF_EXPERTS]
    return "\n".join([*lines, *legends])
