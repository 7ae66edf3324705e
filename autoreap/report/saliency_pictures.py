"""The pictures of what was measured of a component: how each is drawn, and how to read it.

Shape legend as in `saliency`: L layers, E experts, S spans; K experts retained in each layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoreap.calibration.summary import ComponentSummary
from autoreap.data.samples import MODALITIES
from autoreap.errors import InputError
from autoreap.planning import layers_to_cut
from autoreap.saliency import ComponentSaliency, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_GREY, _BAR, _MARK, _LINE = "#8a8f98", "#4c8dae", "#d9480f", "#3fd0e0"
_NAMES = {"audio": "S1, audio", "video": "S2, video", "mixed": "S3, mixed"}


@dataclass(frozen=True)
class Picture:
    """One picture of a component.

    Attributes:
        draw: draws it into a figure.
        height: in inches.
        caption: how to read it.
        of_experts: a dense decoder has no such picture.
    """

    draw: Callable[["FigureBase", ComponentSaliency, ComponentSummary], None]
    height: Callable[[ComponentSummary], float]
    caption: str
    of_experts: bool = True


def pictures(summary: ComponentSummary) -> list[Picture]:
    """Those that there are of a component."""
    if summary.shape.is_dense:
        return [picture for picture in _PICTURES if not picture.of_experts]
    return list(_PICTURES)


def _draw_heat_maps(figure: "FigureBase", measured: ComponentSaliency, summary: ComponentSummary) -> None:
    """S1, S2, S3 and A, [L, E] each, in units of the layer's mean S1; experts of a layer sorted by A."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    affinity = measured.affinity(summary.lambda_, summary.beta)
    # Stable, as the plan breaks ties: of equal experts the lower index comes first.
    order = np.argsort(-affinity, axis=1, kind="stable")
    means = measured.modalities["audio"].per_token().mean(axis=1, keepdims=True)
    panels: dict[str, FloatArray | None] = {}
    for modality in MODALITIES:
        sums = measured.modalities.get(modality)
        if sums is None:
            panels[_NAMES[modality]] = None
            continue
        panels[f"{_NAMES[modality]}: the kept experts hold {summary.kept_share[modality]:.0%}"] = sums.per_token()
    formula = "S1"
    if summary.lambda_:
        formula += f" + {summary.lambda_:g} ReLU(S3 \N{MINUS SIGN} {summary.beta:g} S2)"
    panels[f"A = {formula}"] = affinity
    norm = LogNorm(0.01, 10.0, clip=True)
    colours = colormaps["magma"].with_extremes(bad=_GREY)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (title, scores) in zip(grid.flat, panels.items(), strict=True):
        axes.set_title(title)
        if scores is None:
            _say(axes, "not measured")
            continue
        relative = np.take_along_axis(scores, order, axis=1) / np.where(means > 0, means, 1)
        # A logarithm has no 0: what is masked is drawn grey.
        shown = np.ma.masked_less_equal(relative, 0)
        image = axes.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="none")
        axes.axvline(summary.num_retained - 0.5, color=_LINE, linewidth=1.8)
    label = f"experts of a layer, highest A first; right of the line dropped (keeps {summary.num_retained})"
    for axes in grid[1]:
        axes.set_xlabel(label)
    for axes in grid[:, 0]:
        axes.set_ylabel("layer")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(image, ax=grid, extend="both", aspect=40)
    bar.set_ticks([0.01, 0.1, 1, 10], labels=["0.01", "0.1", "1", "10"])
    bar.set_label("relative to the layer's mean S1; grey: zero")


def _draw_cosines(figure: "FigureBase", measured: ComponentSaliency, summary: ComponentSummary) -> None:
    """1 - layer_cosine [S, L] on a log scale, the layers to be cut first, and the best block of each length."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    cosine = measured.layer_cosine
    num_spans, num_layers = cosine.shape
    change = np.ma.masked_invalid(np.maximum(1 - cosine, 1e-6))  # above 0, for the logarithm
    spans = range(1, num_spans + 1)
    free = np.ones((num_spans, num_layers), dtype=bool)
    for row, span in enumerate(spans):
        for column in range(num_layers):
            free[row, column] = summary.pinned.isdisjoint(range(column, column + span))
    axes = figure.subplots()
    axes.set_title("change of the hidden states; numbers: single layers in the order of cuts; frames: the best block")
    if not change.count():
        _say(axes, "not measured")
        return
    # Coloured by hand: what may not be cut is faded and what was not measured left out, and the bar shows neither.
    colours = ScalarMappable(LogNorm(change.min(), change.max()), colormaps["viridis_r"])
    cells = colours.to_rgba(change)
    cells[..., 3] = np.where(free, 1, 0.3)
    cells[np.ma.getmaskarray(change), 3] = 0
    axes.imshow(cells, aspect="auto", interpolation="none")
    for span in spans:
        first = _best_block(cosine, span, summary.pinned)
        if first is not None:
            _outline(axes, first, span - 1)
    for layer in summary.layers:
        if layer.cut_order is not None:
            axes.text(layer.layer, 0, str(layer.cut_order), ha="center", va="center", fontsize=8, color="black")
    axes.set_yticks(range(num_spans), labels=[str(span) for span in spans])
    axes.set_ylabel("layers cut together")
    axes.set_xlabel("first layer of the cut")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(colours, ax=axes, aspect=15)
    bar.locator = LogLocator(subs=(1.0, 2.0, 5.0))
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
    bar.minorticks_off()
    bar.set_label("1 \N{MINUS SIGN} cosine")


def _best_block(cosine: FloatArray, span: int, pinned: frozenset[int]) -> int | None:
    """The first layer of the block of `span` layers that `layers_to_cut` takes; None where no block is free."""
    try:
        return min(layers_to_cut(cosine, span, pinned, selection="block"))
    except InputError:
        return None


def _draw_layers(figure: "FigureBase", _measured: ComponentSaliency, summary: ComponentSummary) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    num_experts, num_kept = summary.shape.num_experts, summary.num_retained
    numbers, colours, top_shares, effective, without_audio, moved = [], [], [], [], [], []
    for layer in summary.layers:
        numbers.append(layer.layer)
        colours.append(_BAR if layer.cut_order is None else _MARK)
        top_shares.append(layer.top_share)
        effective.append(layer.effective_experts)
        without_audio.append(layer.never_routed_audio)
        moved.append(layer.turnover)
    panels: tuple[tuple[str, Sequence[float], float], ...] = (  # title, heights, upper end of the axis
        (f"share of S1 in its {num_kept} highest experts (dashed: if all were equal)", top_shares, 1),
        (f"effective number of experts on audio, of {num_experts}", effective, num_experts),
        (f"experts that took no audio token, {sum(without_audio)} in all", without_audio, max(without_audio) + 1),
        ("share of the kept experts that lambda and beta brought in", moved, max(*moved, 0.1) * 1.1),
    )
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (title, heights, top) in zip(grid.flat, panels, strict=True):
        axes.bar(numbers, heights, color=colours)
        axes.set_title(title)
        axes.set_ylim(0, top)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer="share" not in title))
        if "share" in title:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    # In the first panel: what these experts would hold if all were equal.
    grid[0, 0].axhline(num_kept / num_experts, color="white", linewidth=1, linestyle="--")
    for axes in grid[1]:
        axes.set_xlabel("layer (orange: among the first to be cut)")


def _draw_turnover(figure: "FigureBase", measured: ComponentSaliency, summary: ComponentSummary) -> None:
    """The turnover against lambda = 0 over lambda and beta, in per cent."""
    axes = figure.subplots()
    axes.set_title(f"share of the {summary.num_retained} kept experts that differ from lambda = 0, mean over layers")
    if not _lambda_matters(summary):
        reason = "the talker is ranked by audio alone:"
        if summary.lambdas:
            reason = "not measured: without mixed data"
        _say(axes, f"{reason} lambda and beta move nothing")
        return
    shares = summary.turnover.T
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=max(shares.max(), 0.01), aspect="auto", origin="lower")
    for (row, column), share in np.ndenumerate(shares):
        # To be read on a bright cell and on a dark one.
        colour = "black" if share > 0.6 * shares.max() else "white"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(summary.lambdas)), labels=[f"{value:g}" for value in summary.lambdas])
    axes.set_yticks(range(len(summary.betas)), labels=[f"{value:g}" for value in summary.betas])
    axes.set_xlabel("lambda")
    axes.set_ylabel("beta")
    if "video" not in measured.modalities:
        axes.set_ylabel("beta (no video measured)")
    _outline(axes, summary.lambdas.index(summary.lambda_), summary.betas.index(summary.beta))
    figure.colorbar(image, ax=axes, aspect=15, format="{x:.0%}")


def _lambda_matters(summary: ComponentSummary) -> bool:
    return bool(summary.lambdas) and "mixed" in summary.tokens


def _outline(axes: "Axes", column: int, row: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=_MARK, linewidth=2, zorder=3))


def _say(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=_GREY)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)


_PICTURES = (
    Picture(
        _draw_heat_maps,
        lambda summary: min(3.2 + 0.16 * summary.shape.num_layers, 11.0),
        "A row is a layer, a column an expert; all four panels sort the experts of a layer by its affinity A, so what "
        "is right of the line is dropped. Bright means salient, relative to the layer's mean expert on audio; "
        "grey is zero, mostly experts that took no token. Bright S1 right of the line is hearing thrown away, bright "
        "S2 there is what pruning is for.",
    ),
    Picture(
        _draw_cosines,
        lambda _: 3.0,
        "A cell is a cut of as many layers as its row says, from the layer of its column on; yellow cuts change the "
        "hidden states least. Numbers give the order in which single layers are cut, frames the block that goes where "
        "layers are selected as a block; faded cuts touch a protected layer.",
        of_experts=False,
    ),
    Picture(
        _draw_layers,
        lambda _: 4.2,
        "A bar is a layer, orange where the layer is among the first to be cut. The more of S1 few experts hold, and "
        "the lower the effective number, the less a layer loses; experts without a token cost no hearing.",
    ),
    Picture(
        _draw_turnover,
        lambda summary: 3.6 if _lambda_matters(summary) else 0.9,
        "How many of the kept experts are others than audio alone would keep; the frame is the choice of the pictures "
        "above. Where all cells are near zero, lambda and beta decide little and are hardly worth searching.",
    ),
)
