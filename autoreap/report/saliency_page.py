"""A saliency file as a picture, and as a page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from autoreap.calibration.summary import ComponentSummary, headline, layer_table, summarise
from autoreap.candidate import Candidate
from autoreap.files import atomic_write
from autoreap.report.pages import write_page
from autoreap.report.saliency_pictures import Picture, pictures
from autoreap.saliency import ComponentSaliency, Saliency

_INK = "#1f2933"
# Stands for the page's text colour, which is dark or light as the reader has it.
_AS_THE_PAGE = "#010203"
_DPI = 120
_WIDTH = 12.0  # inches


def plot_saliency(saliency: Saliency, components: Sequence[str], values: Candidate, path: Path) -> None:
    """All pictures of `components` as one PNG, at the retention, lambda and beta of `values`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A component's pictures lie one above the other; its title stands over the first.
    rows: list[tuple[str, ComponentSummary, Picture, str]] = []
    heights = []
    for name in components:
        summary = summarise(saliency, name, values)
        title = f"{name} of {saliency.provenance.get('model', 'an unnamed model')}"
        for picture in pictures(summary):
            rows.append((name, summary, picture, title))
            heights.append(picture.height(summary))
            title = ""
    with rc_context(_style(_INK)):
        figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout="constrained")
        parts: Any = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
        for part, (name, summary, picture, title) in zip(parts.flat, rows, strict=True):
            picture.draw(part, saliency.component(name), summary)
            if title:
                part.suptitle(title, fontsize=14)
        with atomic_write(path) as partial:
            figure.savefig(partial, format="png")


def write_saliency_page(saliency: Saliency, components: Sequence[str], values: Candidate, path: Path) -> None:
    """One self-contained HTML file: each picture of `components` with how to read it, and the figures of each layer."""
    sections = []
    for name in components:
        measured, summary = saliency.component(name), summarise(saliency, name, values)
        figures = []
        for number, picture in enumerate(pictures(summary)):
            svg = _svg(picture, measured, summary, salt=f"{name} {number}")
            figures.append({"svg": Markup(svg), "caption": picture.caption})
        header, *rows = layer_table(summary)
        section = {"name": name, "headline": headline(summary), "figures": figures, "header": header, "rows": rows}
        sections.append(section)
    write_page(
        "saliency.html",
        path,
        title=f"saliency of {saliency.provenance.get('model', 'an unnamed model')}",
        sections=sections,
        provenance=list(saliency.shown_provenance.items()),
    )


def _svg(picture: Picture, measured: ComponentSaliency, summary: ComponentSummary, salt: str) -> str:
    """The picture as an SVG element in the colours of the page; `salt` keeps its ids apart from other pictures'."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A salt of its own: matplotlib would draw random ids without one, and the file would differ from run to run.
    with rc_context(_style(_AS_THE_PAGE) | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(_WIDTH, picture.height(summary)), layout="constrained")
        picture.draw(figure, measured, summary)
        written = io.StringIO()
        # Without a date and the names of tools: they would differ where the measurement does not.
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    # Within a page of HTML there is no XML declaration and no document type: the element alone.
    document = written.getvalue()
    return document[document.index("<svg") :].replace(_AS_THE_PAGE, "currentColor")


def _style(ink: str) -> Any:
    """Matplotlib parameters: text and lines in the colour `ink`, plain words as text of an SVG."""
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(colours, ink),
        "axes.titlelocation": "left", "axes.titlesize": 10, "font.size": 9, "svg.fonttype": "none",
    }  # fmt: skip
