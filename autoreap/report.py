"""The front as a table, a picture, and a page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from autoreap.confirmed import columns, legend
from autoreap.front import ERROR, Point, drawn_metric, objectives_of, pareto, points_of
from autoreap.scores import is_exact
from autoreap.wording import metric_text, shown, size_text

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
    """Size against WER (see `drawn_metric`) as a PNG: all trials, the front with its intervals, and the baseline."""
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
    for point in front:
        measured = point.metrics[metric]
        axes.vlines(point.size_bytes / unit, measured["low"], measured["high"], color=_FRONT, linewidth=1)
        axes.annotate(
            str(point.trial), (point.size_bytes / unit, measured["value"]), (4, 5), textcoords="offset points"
        )
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


def write_report(study: optuna.Study, path: Path) -> None:
    """One self-contained HTML file: the front, every trial, failures with their reasons, the command for each point."""
    points, baseline = points_of(study), study.user_attrs["baseline"]
    front = pareto(points, objectives_of(study))
    names = shown(baseline["metrics"], objectives_of(study))
    failed = [
        (trial.number, str(trial.user_attrs.get(ERROR, "cut off")))
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.FAIL,))
    ]
    on_front = {point.trial for point in front}
    rows = "".join(_html_row(study.study_name, point, names, point.trial in on_front) for point in points)
    failures = "".join(f"<li>trial {number}: {html.escape(reason)}</li>" for number, reason in failed)
    page = _PAGE.format(
        name=html.escape(study.study_name),
        summary=f"{len(points)} trials scored, {sum(p.duplicate_of is not None for p in points)} of them repeats of an "
        f"equal plan, {len(failed)} failed; {len(front)} on the front.",
        baseline=f"{size_text(baseline['size_bytes'])}, "
        + ", ".join(f"{name} {metric_text(name, baseline['metrics'][name])}" for name in names),
        figure=_interactive_front(points, front, baseline, drawn_metric(study)),
        header="".join(f"<th>{html.escape(name)}</th>" for name in names),
        rows=rows,
        failures=f"<h2>Failed trials</h2><ul>{failures}</ul>" if failed else "",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _interactive_front(
    points: Sequence[Point], front: Sequence[Point], baseline: Mapping[str, Any], metric: str
) -> str:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    unpruned = {"size_bytes": baseline["size_bytes"], "metrics": baseline["metrics"]}
    series = [
        ("trials", [_plain(point) for point in points], _LIGHT, "markers"),
        ("front", [_plain(point) for point in front], _FRONT, "markers+lines"),
        ("unpruned", [unpruned], _BASELINE, "markers"),
    ]
    for label, drawn, colour, mode in series:
        measured = [entry["metrics"][metric] for entry in drawn]
        figure.add_scatter(
            x=[entry["size_bytes"] / 1e6 for entry in drawn],
            y=[m["value"] for m in measured],
            error_y=None
            if label == "trials"
            else {
                "array": [m["high"] - m["value"] for m in measured],
                "arrayminus": [m["value"] - m["low"] for m in measured],
            },
            text=[entry.get("label", "unpruned") for entry in drawn],
            name=label,
            mode=mode,
            marker={"color": colour, "size": 9},
        )
    figure.update_layout(
        xaxis_title="size, MB", yaxis_title=f"{metric}, log scale (95% intervals)", yaxis_type="log",
        yaxis_tickformat=".1~%", yaxis_dtick="D2", template="simple_white", height=480,
    )  # fmt: skip
    return str(figure.to_html(full_html=False, include_plotlyjs=True))


def _plain(point: Point) -> dict[str, Any]:
    values = ", ".join(f"{name} {_value(value)}" for name, value in point.params.items())
    return {"size_bytes": point.size_bytes, "metrics": point.metrics, "label": f"trial {point.trial}: {values}"}


def _html_row(study: str, point: Point, names: Sequence[str], on_front: bool) -> str:
    scores = "".join(f"<td>{metric_text(name, point.metrics[name])}</td>" for name in names)
    values = html.escape(", ".join(f"{name} {_value(value)}" for name, value in point.params.items()))
    command = html.escape(f"autoreap materialise {study} --trial {point.trial} -o OUT")
    style = ' class="front"' if on_front else ""
    return (
        f"<tr{style}><td>{point.trial}</td><td>{size_text(point.size_bytes)}</td>{scores}"
        f"<td>{values}</td><td><code>{command}</code></td></tr>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>autoreap: {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }}
table {{ border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e4e7eb; }}
tr.front {{ background: #e6f4f9; font-weight: 600; }}
.scroll {{ overflow-x: auto; }}
</style></head><body>
<h1>{name}</h1>
<p>{summary} Unpruned: {baseline}. Intervals are 95% bootstrap intervals over utterances.</p>
{figure}
<h2>Trials</h2>
<div class="scroll"><table><thead><tr><th>trial</th><th>size</th>{header}<th>parameters</th>
<th>to write it</th></tr></thead><tbody>{rows}</tbody></table></div>
{failures}
</body></html>
"""
