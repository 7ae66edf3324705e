"""A comparison for a terminal or a log: the figures, then the worst utterances word by word.

Of a side only what differs from the reference is written out: `·` is the same word, a dash a missing one, `+` marks one
too many. Colour, where asked for, only repeats that.
"""

from collections.abc import Sequence
from itertools import groupby

from rich.cells import cell_len

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
        shown = f"all {len(worst):,}"
        if len(worst) > num_worst:
            shown = f"the worst {num_worst} of {len(worst):,}"
        lines += ["", f"{metric}: {shown} in which B is worse"]
        for pair in worst[:num_worst]:
            lines += ["", f"  {heading(pair)}", *_body(pair, width, colour)]
    return "\n".join(lines)


def figures_text(comparison: Comparison) -> str:
    """One line a metric: both sides, the paired difference and the verdict."""
    rows = []
    for metric, measured in comparison.metrics.items():
        row = [
            metric,
            metric_text(metric, measured.first),
            metric_text(metric, measured.second),
            points_text(measured.difference),
            f"{measured.num_better:,}",
            f"{measured.num_worse:,}",
            f"{measured.num_equal:,}",
            verdict_text(measured),
        ]
        rows.append(row)
    header = ["", "A", "B", "B - A, paired", "better", "worse", "equal", "B is"]
    return text_table(header, rows, left=(0, len(header) - 1))


def verdict_text(measured: Measured) -> str:
    """How B compares, as words that follow "B is"."""
    if measured.difference.verdict == NO_DIFFERENCE:
        return "not significantly different"
    return measured.difference.verdict


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
    name = visible(a.id)
    if pair.language:
        name += f" ({visible(pair.language)})"
    parts = [f"{name}: {a.counts.numerator} -> {b.counts.numerator} of {a.counts.denominator}"]
    for side, outcome in (("A", a), ("B", b)):
        if outcome.failed:
            parts.append(f"{side}: {visible(outcome.reason or 'failed')}")
    return "; ".join(parts)


def visible(text: str) -> str:
    """`text` with escapes such as \\x1b for what would move the cursor, colour or hide: an output may hold anything."""
    characters = []
    for character in text:
        if not character.isprintable():
            character = character.encode("unicode_escape").decode()
        characters.append(character)
    return "".join(characters)


def _body(pair: Pair, width: int, colour: bool) -> list[str]:
    found = pair.columns()
    lines = []
    if found is None:  # an answer to a question has no words to align
        texts = (pair.first.reference, pair.first.output, pair.second.output)
        for side, text in zip(_SIDES, texts, strict=True):
            lines.append(f"    {side:<{_HEAD - 4}}{visible(text)}")
        return lines
    for chunk in _chunks(_shortened(found), width - _HEAD):
        widths = []
        reference: Row = []
        first: Row = []
        second: Row = []
        for column in chunk:
            widths.append(_column_width(column))
            reference.append((visible(column.reference or ""), None))
            first.append(_shown(column.cells[0], column))
            second.append(_shown(column.cells[1], column))
        for name, row in zip(_SIDES, (reference, first, second), strict=True):
            # A side without a word in this chunk, such as a reference beside insertions, gets no line.
            if any(text for text, _ in row):
                lines.append(f"    {name:<{_HEAD - 4}}{_line(row, widths, colour)}".rstrip())
    return lines


def _shortened(found: Sequence[Column]) -> list[Column]:
    """Without most of what a side babbled: of a long run of insertions the first few, and how many there were."""
    kept: list[Column] = []
    for has_reference, run in groupby(found, lambda column: column.reference is not None):
        columns = list(run)
        # `(1 more)` takes as much room as the word.
        if has_reference or len(columns) <= _MAX_INSERTED + 1:
            kept += columns
            continue
        kept += columns[:_MAX_INSERTED]
        cells: list[Cell | None] = [None, None]
        for side in (0, 1):
            num_inserted = sum(column.cells[side] is not None for column in columns[_MAX_INSERTED:])
            if num_inserted:
                cells[side] = Cell(INSERTED, f"({num_inserted:,} more)")
        kept.append(Column(None, tuple(cells)))
    return kept


def _shown(cell: Cell | None, column: Column) -> tuple[str, str | None]:
    if cell is None:
        return "", None
    unit = visible(cell.unit)
    if cell.kind == EQUAL:
        return "·", EQUAL
    if cell.kind == DELETED:
        return "-" * cell_len(visible(column.reference or "")), DELETED
    if cell.kind == INSERTED:
        return f"+{unit}", INSERTED
    return unit, cell.kind


def _column_width(column: Column) -> int:
    width = cell_len(visible(column.reference or ""))
    for cell in column.cells:
        shown, _ = _shown(cell, column)
        width = max(width, cell_len(shown))
    return width


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
        # By cells: a Chinese character takes two columns. Before the colour, whose escapes take none.
        padding = " " * (width - cell_len(text))
        if colour and kind:
            text = f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m"
        padded.append(text + padding)
    return " ".join(padded)
