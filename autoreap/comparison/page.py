"""A comparison as one self-contained page: the figures, and every utterance with its differences in line.

A transcript is untrusted input. It travels as JSON and reaches the page as text alone (`textContent`), never as markup.
"""

import html
import json
from pathlib import Path
from string import Template
from typing import Any

from autoreap.comparison.alignment import EQUAL, SUBSTITUTED, Column
from autoreap.comparison.comparison import Comparison, Measured, Pair
from autoreap.comparison.text import left_out_lines, verdict_text, visible
from autoreap.outcomes import Outcome
from autoreap.scores import UNDECIDED
from autoreap.wording import points_text, rate_text

_FOLDER = Path(__file__).parent.parent / "page"


def write_comparison_page(comparison: Comparison, names: tuple[str, str], path: Path) -> None:
    """Write it. `names` are what A and B are called."""
    pairs = [pair for listed in comparison.pairs.values() for pair in listed]
    worst_first = sorted(pairs, key=lambda pair: (-pair.growth, not pair.second.failed))
    page = Template(asset("comparison.html")).substitute(
        first=html.escape(names[0]),
        second=html.escape(names[1]),
        rows="".join(_figures(metric, measured) for metric, measured in comparison.metrics.items()),
        left_out="".join(f"<p>{html.escape(line)}</p>" for line in left_out_lines(comparison)),
        options="".join(f"<option>{html.escape(metric)}</option>" for metric in comparison.pairs),
        style=asset("style.css") + asset("comparison.css"),
        data=embedded([utterance(pair) for pair in worst_first]),
        script=asset("utterance.js") + asset("comparison.js"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _figures(metric: str, measured: Measured) -> str:
    found = measured.difference
    cells = [verdict_text(measured), points_text(found.value, found.low, found.high)]
    cells += [rate_text(side.value, side.low, side.high) for side in (measured.first, measured.second)]
    cells += [f"{number:,}" for number in (measured.num_better, measured.num_worse, measured.num_equal)]
    row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    told = ' class="told"' if found.verdict != UNDECIDED else ""
    return f"<tr{told}><th>{html.escape(metric)}</th>{row}</tr>"


def asset(name: str) -> str:
    """A file of `page/`, which pages share."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def embedded(data: Any) -> str:
    """JSON that can't end the script element it stands in."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


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
        "sides": [_side(outcome, found, side) for side, outcome in enumerate((pair.first, pair.second))],
    }


def _side(outcome: Outcome, found: list[Column] | None, side: int) -> dict[str, Any]:
    runs = [[EQUAL, visible(outcome.output), visible(outcome.output)]] if found is None else _runs(found, side)
    failed = visible(outcome.reason or "failed") if outcome.failed else ""
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
