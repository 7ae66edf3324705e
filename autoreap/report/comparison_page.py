"""A comparison as one self-contained page: the figures, and every utterance with its differences in line."""

from pathlib import Path
from typing import Any

from autoreap.evaluation.alignment import EQUAL, SUBSTITUTED, Column
from autoreap.evaluation.comparison import Comparison, Pair
from autoreap.evaluation.outcomes import Outcome
from autoreap.formatting import metric_text, points_text
from autoreap.report.comparison_text import left_out_lines, verdict_text, visible
from autoreap.report.pages import write_page
from autoreap.scores import NO_DIFFERENCE


def write_comparison_page(comparison: Comparison, names: tuple[str, str], path: Path) -> None:
    """Write it. `names` are what A and B are called."""
    rows = []
    for metric, measured in comparison.metrics.items():
        cells = [
            verdict_text(measured),
            points_text(measured.difference),
            metric_text(metric, measured.first),
            metric_text(metric, measured.second),
            f"{measured.num_better:,}",
            f"{measured.num_worse:,}",
            f"{measured.num_equal:,}",
        ]
        is_significant = measured.difference.verdict != NO_DIFFERENCE
        rows.append({"metric": metric, "cells": cells, "is_significant": is_significant})
    pairs: list[Pair] = []
    for of_metric in comparison.pairs.values():
        pairs += of_metric
    # Of all metrics together, in the order in which `Comparison.worst` has those of one.
    worst_first = sorted(pairs, key=lambda pair: (-pair.growth, not pair.second.failed))
    write_page(
        "comparison.html",
        path,
        title=f"{names[0]} and {names[1]}",
        first=names[0],
        second=names[1],
        rows=rows,
        metrics=list(comparison.pairs),
        left_out=left_out_lines(comparison),
        utterances=[utterance(pair) for pair in worst_first],
    )


def utterance(pair: Pair) -> dict[str, Any]:
    """As the scripts of `page/` read it: each side as runs of [kind, reference, output]."""
    found = pair.columns()
    return {
        "id": visible(pair.first.id),
        "metric": pair.metric,
        "language": visible(pair.language or ""),
        "growth": pair.growth,
        "units": pair.first.counts.denominator,
        "reference": visible(pair.first.reference),
        "sides": [_side(pair.first, found, 0), _side(pair.second, found, 1)],
    }


def _side(outcome: Outcome, found: list[Column] | None, side: int) -> dict[str, Any]:
    if found is None:  # an answer to a question has no words to align: it is shown as it is
        runs = [[EQUAL, visible(outcome.output), visible(outcome.output)]]
    else:
        runs = _runs(found, side)
    failed = ""
    if outcome.failed:
        failed = visible(outcome.reason or "failed")
    return {"count": outcome.counts.numerator, "failed": failed, "runs": runs}


def _runs(found: list[Column], side: int) -> list[list[str]]:
    """Neighbours of one kind are one run, but substitutions: each of those stands beside its own word."""
    runs: list[list[str]] = []
    for column in found:
        cell = column.cells[side]
        if cell is None:
            continue
        unit = visible(cell.unit)
        if runs and cell.kind == runs[-1][0] != SUBSTITUTED:
            runs[-1][2] += f" {unit}"
        else:
            runs.append([cell.kind, visible(column.reference or ""), unit])
    return runs
