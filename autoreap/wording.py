"""Numbers as people say them."""

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """`seconds` as people say it: 45 s, 3 min 20 s, 7 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(num_bytes: float) -> str:
    """Decimal units, as disks are sold: 5.90 MB, 36.53 GB."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.2f} MB"


def rate_text(value: float, low: float, high: float) -> str:
    """A measured rate, which is never shown without its interval: 3.21% [2.10%, 4.40%]."""
    return f"{value:.2%} [{low:.2%}, {high:.2%}]"


def points_text(value: float, low: float, high: float) -> str:
    """A difference of rates with its interval, in percentage points: +0.42 points [-0.10, +0.95]."""
    return f"{100 * value:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column and the last to the left, those between to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows
    )
