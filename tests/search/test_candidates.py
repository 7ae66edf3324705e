"""What may be an objective."""

import json
from pathlib import Path

import pytest
from pages import ROOT

from autoreap.data.eval_set import open_evals
from autoreap.errors import InputError
from autoreap.search.candidates import check_device, check_objectives

EVALS = open_evals(ROOT / "evals" / "tiny.yaml").search


def test_sizes_and_the_metrics_of_the_search_split_are_objectives() -> None:
    check_objectives({"size_bytes": "minimize", "wer": "minimize", "accuracy": "maximize"}, EVALS)


def test_what_is_counted_and_what_is_timed_are_objectives() -> None:
    names = ("size_4bit_bytes", "active_parameters", "kv_bytes_per_minute", "first_token_ratio", "peak_memory_bytes")
    check_objectives(dict.fromkeys(names, "minimize"), EVALS)


def test_the_likelihood_of_references_is_an_objective() -> None:
    check_objectives({"size_bytes": "minimize", "nll.wer": "minimize"}, EVALS)


def test_memory_in_use_is_no_objective_where_it_is_not_measured() -> None:
    with pytest.raises(InputError, match="peak_memory_bytes is measured on accelerators only"):
        check_device(["wer", "peak_memory_bytes"], on_accelerator=False)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"latency": "minimize"}, r"unknown metric 'latency' \(known: size_bytes, wer, accuracy, .*first_token_ratio"),
        ({"first_token_ratio": "maximize"}, "first_token_ratio is better minimised"),
        ({"wer.voices": "minimize"}, "unknown metric 'wer.voices'"),
        ({"wer": "maximize"}, "wer is better minimised"),
        ({"accuracy": "minimize"}, "accuracy is better maximised"),
    ],
)
def test_what_is_not_measured_or_searched_the_wrong_way_is_refused(objectives: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_objectives(objectives, EVALS)


def test_a_metric_of_one_language_is_an_objective_where_the_rows_have_that_language(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    rows = [{"id": name, "audio": "a.wav", "text": "one", "language": name} for name in ("en", "zh")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evals.yaml").write_text("search: [{task: asr, label: car, dataset_path: rows.jsonl}]")
    evals = open_evals(tmp_path / "evals.yaml").search
    check_objectives({"wer.car": "minimize", "wer.car/zh": "minimize"}, evals)
    with pytest.raises(InputError, match=r"unknown metric 'wer.car/de' \(known: .*wer.car/en, wer.car/zh, "):
        check_objectives({"wer.car/de": "minimize"}, evals)
    with pytest.raises(InputError, match=r"wer\.car/zh is better minimised"):
        check_objectives({"wer.car/zh": "maximize"}, evals)
