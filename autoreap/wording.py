"""Numbers as people say them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoreap.scores import is_exact


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


def metric_text(name: str, measured: Mapping[str, Any]) -> str:
    """A metric's value in its own unit, and its interval if it has one: `2.10% [1.50%, 2.80%]`, `3.35 B`."""
    value, low, high = (_in_unit(name, measured[part]) for part in ("value", "low", "high"))
    return value if is_exact(measured) else f"{value} [{low}, {high}]"


def shown(metrics: Mapping[str, Mapping[str, Any]], objectives: Iterable[str]) -> list[str]:
    """The metrics that people look at: what was measured, and of what is merely counted the objectives."""
    wanted = set(objectives)
    return [name for name, measured in metrics.items() if name in wanted or not is_exact(measured)]


def unit_of(name: str) -> str:
    """What a metric is measured in, by the ending of its name; one that says no unit is a rate."""
    metric = name.partition(".")[0]
    if metric == "nll":
        return "nats"
    endings = {
        "bytes": ("_bytes", "_bytes_per_minute"),
        "parameters": ("_parameters",),
        "seconds": ("_seconds",),
        "ratio": ("_ratio", "_factor"),
    }
    return next((unit for unit, known in endings.items() if metric.endswith(known)), "rate")


def _in_unit(name: str, value: float) -> str:
    unit = unit_of(name)
    if unit == "nats":
        return f"{value:.3f} nats"
    if unit == "bytes":
        return size_text(value)
    if unit == "parameters":
        return f"{value / 1e9:,.2f} B" if value >= 1e9 else f"{value / 1e6:,.2f} M"
    if unit == "seconds":
        return f"{value * 1000:,.1f} ms" if value < 1 else f"{value:,.2f} s"
    return f"{value:.3f}" if unit == "ratio" else f"{value:.2%}"


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
