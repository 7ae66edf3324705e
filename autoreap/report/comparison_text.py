"""A comparison for a terminal or a log: the figures, then the worst utterances word by word.

Of a side only what differs from the reference is written out: `·` is the same word, a dash a missing one, `+` marks one
too many. Colour, where asked for, only repeats that.
"""

import unicodedata
from collections.abc import Sequence
from itertools import groupby

from autoreap.evaluation.alignment import DELETED, EQUAL, INSERTED, SUBSTITUTED, Cell, Column
from autoreap.evaluation.comparison import Comparison, Measured, Pair
from autoreap.formatting import metric_text, points_text
from autoreap.report.tables import text_table
from autoreap.scores import NO_DIFFERENCE

_COLOURS = {DELETED: "31", SUBSTITUTED: "33", INSERTED: "36", EQUAL: "2"}  # red, yellow, cyan, faint
_SIDES = ("reference", "A", "B")
_HEAD = 4 + max(map(len, _SIDES)) + 2  # width of what stands before a row of words
_MAX_INSERTED = 8
Row = list[tuple[str, str | None]]  # text of each column, and the kind that colours it


def comparison_text(comparison: Comparison, num_worst: int, *, width: int, colour: bool = False) -> str:
    """The figures, and the `num_worst` worst utterances of each metric, in lines of at most `width` columns."""
    lines = [figures_text(comparison), *left_out_lines(comparison)]
    for metric in comparison.pairs:
        worst = comparison.worst(metric)
        if not worst or not num_worst:
            continue
        shown = f"the worst {num_worst} of {len(worst):,}" if len(worst) > num_worst else f"all {len(worst):,}"
        lines += ["", f"{metric}: {shown} in which B is worse"]
        for pair in worst[:num_worst]:
            lines += ["", f"  {heading(pair)}", *_body(pair, width, colour)]
    return "\n".join(lines)


def figures_text(comparison: Comparison) -> str:
    """One line a metric: both sides, the paired difference and the verdict."""
    rows = []
    for metric, measured in comparison.metrics.items():
        difference = measured.difference
        row = [metric, metric_text(metric, measured.first), metric_text(metric, measured.second)]
        row.append(points_text(difference.value, difference.low, difference.high))
        row += [f"{number:,}" for number in (measured.num_better, measured.num_worse, measured.num_equal)]
        rows.append([*row, verdict_text(measured)])
    header = ["", "A", "B", "B - A, paired", "better", "worse", "equal", "B is"]
    return text_table(header, rows, left=(0, len(header) - 1))


def verdict_text(measured: Measured) -> str:
    """How B compares, as words that follow "B is"."""
    verdict = measured.difference.verdict
    return "not significantly different" if verdict == NO_DIFFERENCE else verdict


def left_out_lines(comparison: Comparison) -> list[str]:
    """How many utterances are compared, and how many could not be."""
    lines = []
    for metric, (only_first, only_second) in comparison.left_out.items():
        if only_first or only_second:
            compared = len(comparison.pairs.get(metric, ()))
            lines.append(
                f"{metric}: {compared:,} compared; left out: {only_first:,} only in A, {only_second:,} only in B"
            )
    return lines


def heading(pair: Pair) -> str:
    """Which utterance, what it counts, and what failed."""
    a, b = pair.first, pair.second
    language = f" ({visible(pair.language)})" if pair.language else ""
    counts = f"{a.counts.numerator} -> {b.counts.numerator} of {a.counts.denominator}"
    failed = [f"{side}: {visible(o.reason or 'failed')}" for side, o in (("A", a), ("B", b)) if o.failed]
    return "; ".join([f"{visible(a.id)}{language}: {counts}", *failed])


def visible(text: str) -> str:
    """`text` with escapes such as \\x1b for what would move the cursor, colour or hide: an output may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _body(pair: Pair, width: int, colour: bool) -> list[str]:
    found = pair.columns()
    if found is None:
        texts = (pair.first.reference, pair.first.output, pair.second.output)
        return [f"    {side:<{_HEAD - 4}}{visible(text)}" for side, text in zip(_SIDES, texts, strict=True)]
    lines = []
    for chunk in _chunks(_shortened(found), width - _HEAD):
        widths = [_column_width(column) for column in chunk]
        reference: Row = [(visible(column.reference or ""), None) for column in chunk]
        sides: list[Row] = [[_shown(column.cells[side], column) for column in chunk] for side in (0, 1)]
        for name, row in zip(_SIDES, [reference, *sides], strict=True):
            if any(text for text, _ in row):
                lines.append(f"    {name:<{_HEAD - 4}}{_line(row, widths, colour)}".rstrip())
    return lines


def _shortened(found: Sequence[Column]) -> list[Column]:
    """Without most of what a side babbled: of a long run of insertions the first few, and how many there were."""
    kept: list[Column] = []
    for has_reference, run in groupby(found, lambda column: column.reference is not None):
        columns = list(run)
        num_more = 0 if has_reference else len(columns) - _MAX_INSERTED
        if num_more <= 1:
            kept += columns
            continue
        kept += columns[:_MAX_INSERTED]
        more = [sum(column.cells[side] is not None for column in columns[_MAX_INSERTED:]) for side in (0, 1)]
        kept.append(Column(None, tuple(Cell(INSERTED, f"({count:,} more)") if count else None for count in more)))
    return kept


def _shown(cell: Cell | None, column: Column) -> tuple[str, str | None]:
    if cell is None:
        return "", None
    unit = visible(cell.unit)
    texts = {EQUAL: "·", DELETED: "-" * _cells(visible(column.reference or "")), INSERTED: f"+{unit}"}
    return texts.get(cell.kind, unit), cell.kind


def _column_width(column: Column) -> int:
    texts = [visible(column.reference or ""), *(_shown(cell, column)[0] for cell in column.cells)]
    return max(map(_cells, texts))


def _chunks(found: Sequence[Column], width: int) -> list[list[Column]]:
    """The columns in as many lines as they need; one that is wider than a line has a line of its own."""
    chunks: list[list[Column]] = []
    room = 0
    for column in found:
        needed = _column_width(column) + 1
        if not chunks or needed > room:
            chunks.append([])
            room = width
        chunks[-1].append(column)
        room -= needed
    return chunks


def _line(row: Row, widths: Sequence[int], colour: bool) -> str:
    padded = []
    for (text, kind), width in zip(row, widths, strict=True):
        painted = f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if colour and kind else text
        padded.append(painted + " " * (width - _cells(text)))
    return " ".join(padded)


def _cells(text: str) -> int:
    """Columns that `text` takes on a terminal: two for a Chinese character, none for a mark on the letter before."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
