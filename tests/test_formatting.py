"""Numbers are shown in the unit that their name says, and never without an interval if they were measured."""

import pytest

from autoreap.formatting import count_text, metric_text, visible_metrics
from autoreap.scores import Metric


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("wer", (0.021, 0.015, 0.028), "2.10% [1.50%, 2.80%]"),
        ("wer.car", (0.021, 0.015, 0.028), "2.10% [1.50%, 2.80%]"),
        ("first_token_seconds", (0.0123, 0.01, 1.5), "12.3 ms [10.0 ms, 1.50 s]"),
        ("first_token_ratio", (0.81234, 0.8, 0.82), "0.812 [0.800, 0.820]"),
        ("real_time_factor", (0.018, 0.017, 0.019), "0.018 [0.017, 0.019]"),
    ],
)
def test_a_measured_metric_is_shown_in_its_unit_with_its_interval(
    name: str, values: tuple[float, float, float], text: str
) -> None:
    assert metric_text(name, Metric(*values, num_samples=48)) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("active_parameters", 3_353_646_080, "3.35 B"),
        ("active_parameters", 720_000, "0.72 M"),
        ("kv_bytes_per_minute", 76_677_120, "76.68 MB"),
        ("size_4bit_bytes", 19_400_000_000, "19.40 GB"),
    ],
)
def test_a_counted_metric_is_shown_alone(name: str, value: int, text: str) -> None:
    assert metric_text(name, Metric.static(value)) == text


def test_static_metrics_are_visible_where_they_are_objectives() -> None:
    metrics = {
        "wer": Metric(0.0, 0.0, 0.0, num_samples=48),
        "active_parameters": Metric.static(1),
        "size_4bit_bytes": Metric.static(1),
    }
    assert visible_metrics(metrics, ["size_bytes", "active_parameters"]) == ["wer", "active_parameters"]


def test_one_is_singular() -> None:
    assert [count_text(number, "trial") for number in (0, 1, 1000)] == ["0 trials", "1 trial", "1,000 trials"]
