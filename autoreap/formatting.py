"""Numbers as people write them."""

from collections.abc import Iterable, Mapping
from typing import Any

from autoreap.scores import Difference, Metric

# What a metric is measured in, by the ending of its name. A name without one of these endings is a rate.
UNIT_OF_ENDING = {
    "_bytes": "bytes",
    "_bytes_per_minute": "bytes",
    "_parameters": "parameters",
    "_seconds": "seconds",
    "_ratio": "ratio",
    "_factor": "ratio",
}


def duration(seconds: float) -> str:
    """`seconds` in words: 45 s, 3 min 20 s, 7 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(num_bytes: float) -> str:
    """Decimal units, as disks are sold: 5.90 MB, 36.53 GB."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:,.2f} GB"
    return f"{num_bytes / 1e6:,.2f} MB"


def count_text(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`; nouns whose plural takes an s."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}s"


def unit_of(name: str) -> str:
    """The unit of a metric: rate, nats, bytes, parameters, seconds or ratio."""
    metric = name.partition(".")[0]  # of `wer.noisy/en`, a task's label and a language of its rows
    if metric == "nll":
        return "nats"
    for ending, unit in UNIT_OF_ENDING.items():
        if metric.endswith(ending):
            return unit
    return "rate"


def value_text(name: str, value: float) -> str:
    """A value of metric `name` in its unit, without an interval: 2.10%, 3.35 B, 87.2 ms."""
    unit = unit_of(name)
    if unit == "nats":
        return f"{value:.3f} nats"
    if unit == "bytes":
        return size_text(value)
    if unit == "parameters" and value >= 1e9:
        return f"{value / 1e9:,.2f} B"
    if unit == "parameters":
        return f"{value / 1e6:,.2f} M"
    if unit == "seconds" and value < 1:
        return f"{value * 1000:,.1f} ms"
    if unit == "seconds":
        return f"{value:,.2f} s"
    if unit == "ratio":
        return f"{value:.3f}"
    return f"{value:.2%}"


def parameter_text(value: Any) -> str:
    """A value that a trial samples, short: 0.333, 8, affinity."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def metric_text(name: str, metric: Metric) -> str:
    """A metric in its unit, with its interval if it was measured on samples: `2.10% [1.50%, 2.80%]`."""
    value = value_text(name, metric.value)
    if metric.is_static:
        return value
    return f"{value} [{value_text(name, metric.low)}, {value_text(name, metric.high)}]"


def points_text(difference: Difference) -> str:
    """A difference of rates with its interval, in percentage points: +0.42 points [-0.10, +0.95]."""
    value, low, high = 100 * difference.value, 100 * difference.low, 100 * difference.high
    return f"{value:+.2f} points [{low:+.2f}, {high:+.2f}]"


def visible_metrics(metrics: Mapping[str, Metric], objectives: Iterable[str]) -> list[str]:
    """The names that people look at: what was measured on samples, and static metrics that are objectives."""
    wanted = set(objectives)
    return [name for name, metric in metrics.items() if name in wanted or not metric.is_static]


def scores_text(metrics: Mapping[str, Metric], size_bytes: int, objectives: Iterable[str]) -> str:
    """Size and visible metrics in one line, each with its interval."""
    words = [size_text(size_bytes)]
    for name in visible_metrics(metrics, objectives):
        words.append(f"{name} {metric_text(name, metrics[name])}")
    return ", ".join(words)
