"""The front as a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from autoreap.scores import is_exact
from autoreap.study.confirmed import columns, legend
from autoreap.study.front import drawn_metric, pareto
from autoreap.study.trials import Point, objectives_of, points_of
from autoreap.wording import metric_text, shown, size_text

FORMATS = ("png", "svg", "pdf", "jpg")  # of a picture
_LIGHT, _FRONT, _BASELINE = "#9aa5b1", "#0b6e99", "#c2410c"


def front_table(
    front: Sequence[Point],
    baseline: Mapping[str, Any],
    controls: Mapping[str, Mapping[str, Any]] | None = None,
    confirmed: Mapping[str, Any] | None = None,
) -> str:
    """One line a point, smallest first, then the controls and the unpruned model; every score with its 95% interval.

    What the report split says of them stands beside it: the study's attribute `confirmed`.
    """
    names = shown(baseline["metrics"], front[0].values if front else ())
    parameters = sorted({name for point in front for name in point.params})
    sizes = {point.trial: point.size_bytes for point in front}
    other = columns(confirmed, front[0].values if front else (), sizes)
    header = ["trial", "size", *[_heading(name, baseline) for name in names], *other, *parameters]
    rows = [
        [str(point.trial), size_text(point.size_bytes), *[metric_text(name, point.metrics[name]) for name in names]]
        + [column.get(str(point.trial), "") for column in other.values()]
        + [_value(point.params.get(name)) for name in parameters]
        for point in front
    ]
    for label, known in {**(controls or {}), "baseline": baseline}.items():
        scores = [metric_text(name, known["metrics"][name]) for name in names]
        scores += [column.get(label, "") for column in other.values()]
        rows.append([label, size_text(known["size_bytes"]), *scores, *["" for _ in parameters]])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join([line.rstrip() for line in lines] + legend(confirmed, sizes))


def _heading(name: str, baseline: Mapping[str, Any]) -> str:
    return name if is_exact(baseline["metrics"][name]) else f"{name} [95%]"


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def plot_front(study: optuna.Study, path: Path) -> None:
    """Size against WER (see `drawn_metric`) in one of `FORMATS`: all trials, the front with intervals, the baseline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points, baseline, metric = points_of(study), study.user_attrs["baseline"], drawn_metric(study)
    front = pareto(points, objectives_of(study))
    unit = 1e9 if baseline["size_bytes"] >= 1e9 else 1e6
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=150, layout="constrained")
    for chosen, colour, label in ((points, _LIGHT, "trials"), (front, _FRONT, "front")):
        axes.plot(
            [point.size_bytes / unit for point in chosen],
            [point.metrics[metric]["value"] for point in chosen],
            *("o-" if chosen is front else "o",),
            color=colour,
            label=label,
            markersize=5,
        )
    labels: dict[tuple[float, float], list[str]] = {}  # points may lie on one another
    for point in front:
        measured = point.metrics[metric]
        axes.vlines(point.size_bytes / unit, measured["low"], measured["high"], color=_FRONT, linewidth=1)
        labels.setdefault((point.size_bytes / unit, measured["value"]), []).append(str(point.trial))
    for place, trials in labels.items():
        axes.annotate(", ".join(trials), place, (4, 5), textcoords="offset points")
    reference = baseline["metrics"][metric]
    axes.axhline(reference["value"], color=_BASELINE, linewidth=1, linestyle="--")
    axes.plot(baseline["size_bytes"] / unit, reference["value"], "D", color=_BASELINE, label="unpruned")
    axes.set_xlabel("size, GB" if unit == 1e9 else "size, MB")
    axes.set_ylabel(f"{metric} (95% intervals)")
    axes.set_yscale("log")  # errors are compared by ratio: 2% and 4% lie as far apart as 20% and 40%
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_title(f"{study.study_name}: size against {metric}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
