"""The front as a table, as a file for a spreadsheet, and as a picture."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoreap.files import atomic_write
from autoreap.formatting import metric_text, parameter_text, size_text, visible_metrics
from autoreap.report.tables import text_table
from autoreap.search.front import drawn_metric, front_of, worse_elsewhere
from autoreap.search.held_out import smaller_ties
from autoreap.search.non_inferiority import smallest_safe
from autoreap.search.records import BASELINE, ScoredModel, StudyRecord, TrialRecord

FORMATS = ("png", "svg", "pdf", "jpg")  # of a picture
_CHARACTER_PIXELS, _LINE_PIXELS = 13, 24  # of a label, at the picture's 150 dots an inch
_LIGHT, _FRONT, _UNPRUNED = "#9aa5b1", "#0b6e99", "#c2410c"


def front_table(study: StudyRecord, points: Sequence[TrialRecord]) -> str:
    """One line a point, smallest first, then the controls and the unpruned model; every score with its 95% interval.

    What the report split says of them stands beside it.
    """
    names = visible_metrics(study.baseline.metrics, study.objectives)
    held_out = study.held_out
    on_report: list[str] = []
    if held_out is not None:
        on_report = [name for name in study.objectives if name in held_out.baseline]
    parameters = _sampled_parameters(points)
    header = ["trial", "size"]
    for name in names:
        header.append(name if study.baseline.metrics[name].is_static else f"{name} [95%]")
    header += [f"{name} (report split) [95%]" for name in on_report]
    header += parameters
    rows = []
    for point in points:
        row = _scores(str(point.number), point, names)
        row += _held_out_scores(study, point, points, on_report)
        for name in parameters:
            value = point.params.get(name)
            row.append("" if value is None else parameter_text(value))
        rows.append(row)
    for name, control in study.controls.items():
        rows.append(_scores(name, control, names))
    baseline = _scores(BASELINE, study.baseline, names)
    if held_out is not None:
        baseline += [metric_text(name, held_out.baseline[name]) for name in on_report]
    rows.append(baseline)
    lines = [text_table(header, rows, left=())]
    if any(smaller_ties(study, point, points) for point in points):
        lines.append("~N: not significantly different from the smaller trial N on the report split (paired, 95%)")
    worse: dict[str, list[str]] = {}
    for point in points:
        for name in worse_elsewhere(study, point):
            worse.setdefault(name, []).append(str(point.number))
    for name, trials in worse.items():
        lines.append(f"{name}, no objective, is significantly worse than unpruned: trials {', '.join(trials)}")
    if held_out is not None and held_out.missing:
        lines.append(f"not in the report split: {', '.join(held_out.missing)}")
    return "\n".join(lines)


def _scores(label: str, scored: TrialRecord | ScoredModel, names: Sequence[str]) -> list[str]:
    row = [label, size_text(scored.size_bytes)]
    for name in names:
        row.append(metric_text(name, scored.metrics[name]))
    return row


def _sampled_parameters(points: Iterable[TrialRecord]) -> list[str]:
    """Of any of `points`: a parameter with a condition is not sampled by each."""
    names: set[str] = set()
    for point in points:
        names |= point.params.keys()
    return sorted(names)


def _held_out_scores(
    study: StudyRecord, point: TrialRecord, points: Sequence[TrialRecord], names: Sequence[str]
) -> list[str]:
    """A text for each of `names`, with the smallest of `points` that does as well; empty where it was not scored."""
    held_out = study.held_out_of(point.number)
    if held_out is None:
        return [""] * len(names)
    mark = ""
    tied = smaller_ties(study, point, points)
    if tied:
        mark = f" ~{tied[0].number}"
    return [metric_text(name, held_out.metrics[name]) + mark for name in names]


def write_front_csv(study: StudyRecord, points: Sequence[TrialRecord], path: Path) -> None:
    """A row a point, then the controls and the unpruned model; `wer`, `wer.low` and `wer.high` are fractions."""
    metrics, parameters = list(study.baseline.metrics), _sampled_parameters(points)
    header = ["trial", "size_bytes"]
    for name in metrics:
        header += [name, f"{name}.low", f"{name}.high"]
    entries: dict[str, TrialRecord | ScoredModel] = {str(point.number): point for point in points}
    entries |= study.controls
    entries[BASELINE] = study.baseline
    # `newline=""`: the csv module ends its lines itself, and a blank line would follow each on Windows.
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *parameters])
        for label, scored in entries.items():
            row: list[Any] = [label, scored.size_bytes]
            for name in metrics:
                metric = scored.metrics.get(name)
                if metric is None:
                    row += ["", "", ""]
                else:
                    row += [metric.value, metric.low, metric.high]
            if isinstance(scored, TrialRecord):
                row += [scored.params.get(name, "") for name in parameters]
            else:
                row += [""] * len(parameters)
            writer.writerow(row)


def plot_front(study: StudyRecord, path: Path) -> None:
    """Size against WER (see `drawn_metric`) in one of `FORMATS`: all trials, the front with intervals, the baseline."""
    import matplotlib

    matplotlib.use("Agg")  # no window: a search runs without a display
    from matplotlib import pyplot

    metric, front = drawn_metric(study), front_of(study)
    unit, unit_name = 1e6, "MB"  # the embedded model has 6 MB
    if study.baseline.size_bytes >= 1e9:
        unit, unit_name = 1e9, "GB"
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=150, layout="constrained")
    # The front is drawn over the trials, which it is a part of.
    for points, style, colour, label in ((study.points, "o", _LIGHT, "trials"), (front, "o-", _FRONT, "front")):
        sizes = [point.size_bytes / unit for point in points]
        values = [point.metrics[metric].value for point in points]
        axes.plot(sizes, values, style, color=colour, label=label, markersize=5)
    labels: dict[tuple[float, float], list[str]] = {}  # points may lie on one another
    for point in front:
        measured = point.metrics[metric]
        axes.vlines(point.size_bytes / unit, measured.low, measured.high, color=_FRONT, linewidth=1)
        labels.setdefault((point.size_bytes / unit, measured.value), []).append(str(point.number))
    recommended = smallest_safe(study)
    if recommended is not None:
        place = (recommended.size_bytes / unit, recommended.metrics[metric].value)
        label = "recommended"
        if study.shipped == recommended.number:
            label = f"shipped: {recommended.number}"
        axes.plot(*place, "s", markersize=15, fillstyle="none", color=_UNPRUNED, label=label)
    reference = study.baseline.metrics[metric]
    axes.axhline(reference.value, color=_UNPRUNED, linewidth=1, linestyle="--")
    axes.plot(study.baseline.size_bytes / unit, reference.value, "D", color=_UNPRUNED, label="unpruned")
    axes.set_xlabel(f"size, {unit_name}")
    axes.set_ylabel(f"{metric} (95% intervals)")
    axes.set_yscale("log")  # errors are compared by ratio: 2% and 4% lie as far apart as 20% and 40%
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_title(f"{study.name}: size against {metric}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _write_labels(figure, axes, labels)
    # The format is said, since the partial file has another ending.
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix(".").lower())
    pyplot.close(figure)  # pyplot keeps each figure that it made until then


def _write_labels(figure: Any, axes: Any, labels: Mapping[tuple[float, float], Sequence[str]]) -> None:
    """The trials of each place at one of its corners: the first one where they cover no other label."""
    figure.draw_without_rendering()  # only now it is known where a place lies
    taken: list[tuple[float, float, float]] = []  # left, bottom and width, in pixels
    for place, trials in labels.items():
        text = ", ".join(trials)
        x, y = axes.transData.transform(place)
        width = _CHARACTER_PIXELS * len(text)
        corners = [(x + 8, y + 8), (x - 8 - width, y - 8 - _LINE_PIXELS), (x + 8, y - 8 - _LINE_PIXELS)]
        left, bottom = corners[0]
        for corner in corners:
            if _is_free(corner, width, taken):
                left, bottom = corner
                break
        taken.append((left, bottom, width))
        points = 72 / figure.dpi  # matplotlib takes an offset in points, 72 an inch
        axes.annotate(text, place, ((left - x) * points, (bottom - y) * points), textcoords="offset points")


def _is_free(corner: tuple[float, float], width: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    left, bottom = corner
    for other_left, other_bottom, other_width in taken:
        is_beside = left > other_left + other_width or other_left > left + width
        if not is_beside and abs(bottom - other_bottom) < _LINE_PIXELS:
            return False
    return True
