"""What may be an objective."""

from pathlib import Path

import pytest

from autoreap.errors import InputError
from autoreap.evals_config import load_evals
from autoreap.objective import check_objectives

EVALS = load_evals(Path(__file__).parent.parent / "evals" / "tiny.yaml")


def test_sizes_and_the_metrics_of_the_search_split_are_objectives() -> None:
    check_objectives({"size_bytes": "minimize", "wer": "minimize", "accuracy": "maximize"}, EVALS)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"latency": "minimize"}, r"unknown metric 'latency' \(known: size_bytes, wer, accuracy\)"),
        ({"wer.voices": "minimize"}, "unknown metric 'wer.voices'"),
        ({"wer": "maximize"}, "wer is better minimised"),
        ({"accuracy": "minimize"}, "accuracy is better maximised"),
    ],
)
def test_what_is_not_measured_or_searched_the_wrong_way_is_refused(objectives: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_objectives(objectives, EVALS)
