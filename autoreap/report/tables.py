"""Tables for a terminal, a log or a file: plain text in columns, whatever the width of the terminal."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

_WIDTH = 10_000  # nothing is ever cut or wrapped; a terminal may scroll


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table with a line of headings; the columns `left` are aligned to the left, others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, heading in enumerate(header):
        table.add_column(heading, justify="left" if number in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Without markup, emoji and highlighting: a name may hold brackets and colons, which rich would take for its own.
    text = io.StringIO()
    console = Console(file=text, width=_WIDTH, color_system=None, markup=False, emoji=False, highlight=False)
    console.print(table)
    # rich pads each line to the width of the table; in a file or a log that is only noise.
    lines = [line.rstrip() for line in text.getvalue().rstrip("\n").split("\n")]
    return "\n".join(lines)
