"""A saliency file as a picture, and as a page."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoreap.calibration.pictures import Picture, pictures
from autoreap.calibration.summary import ComponentSummary, headline, layer_table, summarise
from autoreap.candidate import Candidate
from autoreap.saliency import ComponentSaliency, Saliency

_INK = "#1f2933"
_AS_THE_PAGE = "#010203"  # stands for the page's text colour, which is dark or light as the reader has it
_DPI = 120
_WIDTH = 12.0  # inches


def plot_saliency(saliency: Saliency, components: Sequence[str], values: Candidate, path: Path) -> None:
    """All pictures of `components` as one PNG, at the retention, lambda and beta of `values`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    summaries = {name: summarise(saliency, name, values) for name in components}
    rows = [(name, picture) for name in components for picture in pictures(summaries[name])]
    heights = [picture.height(summaries[name]) for name, picture in rows]
    with rc_context(_style(_INK)):
        figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout="constrained")
        parts: Any = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
        for part, (name, picture) in zip(parts.flat, rows, strict=True):
            picture.draw(part, saliency.component(name), summaries[name])
            if picture is pictures(summaries[name])[0]:
                part.suptitle(f"{name} of {saliency.provenance.get('model', 'an unnamed model')}", fontsize=14)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")


def write_saliency_page(saliency: Saliency, components: Sequence[str], values: Candidate, path: Path) -> None:
    """One self-contained HTML file: each picture of `components` with how to read it, and the figures of each layer."""
    sections = "".join(
        _section(name, saliency.component(name), summarise(saliency, name, values)) for name in components
    )
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in saliency.provenance.items()
        if key != "shape"
    )
    title = html.escape(f"saliency of {saliency.provenance.get('model', 'an unnamed model')}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGE.format(title=title, sections=sections, provenance=rows), encoding="utf-8")


def _section(name: str, measured: ComponentSaliency, summary: ComponentSummary) -> str:
    figures = "".join(
        f"<figure>{_svg(picture, measured, summary, salt=f'{name} {number}')}"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for number, picture in enumerate(pictures(summary))
    )
    header, *rows = layer_table(summary)
    table = f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in header)}</tr>" + "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    lines = "<br>".join(map(html.escape, headline(summary)))
    return (
        f"<h2>{html.escape(name)}</h2><p>{lines}</p>{figures}"
        f'<details><summary>Each layer in figures</summary><div class="scroll"><table>{table}</table></div></details>'
    )


def _svg(picture: Picture, measured: ComponentSaliency, summary: ComponentSummary, salt: str) -> str:
    """The picture as an SVG element in the colours of the page; `salt` keeps its ids apart from other pictures'."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_style(_AS_THE_PAGE) | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(_WIDTH, picture.height(summary)), layout="constrained")
        picture.draw(figure, measured, summary)
        written = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    document = written.getvalue()
    return document[document.index("<svg") :].replace(_AS_THE_PAGE, "currentColor")


def _style(ink: str) -> Any:
    """Matplotlib parameters: text and lines in the colour `ink`, plain words as text of an SVG."""
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(colours, ink),
        "axes.titlelocation": "left", "axes.titlesize": 10, "font.size": 9, "svg.fonttype": "none",
    }  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>autoreap: {title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2933; background: #fff; }}
figure {{ margin: 2rem 0; }}
figure svg {{ width: 100%; height: auto; }}
figcaption {{ max-width: 60rem; font-size: .9rem; opacity: .85; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8886; }}
td {{ overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #e4e7eb; background: #14181d; }} }}
</style></head><body>
<h1>{title}</h1>
{sections}
<h2>Where the numbers come from</h2>
<table>{provenance}</table>
</body></html>
"""
