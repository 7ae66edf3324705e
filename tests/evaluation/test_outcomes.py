"""Languages are reported each; the file of outcomes says what is needed to look at one, and is read from every age."""

import json
import re
from pathlib import Path

import pytest

from autoreap.errors import InputError
from autoreap.evaluation.outcomes import Evaluation, Outcome, load_outcomes
from autoreap.report.evaluation_text import evaluation_table
from autoreap.scores import Counts


def outcome(
    name: str, errors: int = 0, *, words: int = 4, language: str | None = None, reason: str | None = None
) -> Outcome:
    return Outcome(name, "red dog", "red dogs", Counts(errors, words), reason is not None, reason, language)


MIXED = Evaluation(
    {
        "wer": (
            outcome("a", 1, language="en"),
            outcome("b", 4, language="zh"),
            outcome("c", 0, language="en"),
            outcome("d", 2, reason="runaway"),
        ),
        "accuracy": (outcome("q", 1, words=1, language="en"),),
    },
    1.0,
)


def test_a_mixed_set_gives_each_language_and_the_whole() -> None:
    scores = MIXED.metrics()
    assert list(scores) == ["wer", "wer/en", "wer/zh", "accuracy"]
    assert (scores["wer"].numerator, scores["wer"].denominator, scores["wer"].num_failed) == (7, 16, 1)
    assert (scores["wer/en"].value, scores["wer/zh"].value) == (1 / 8, 1)
    assert (scores["wer/en"].num_samples, scores["wer/zh"].num_samples) == (2, 1)
    assert scores["wer/en"].low <= scores["wer/en"].value <= scores["wer/en"].high


def test_a_set_in_one_language_gives_the_whole_alone() -> None:
    assert list(Evaluation({"wer": (outcome("a", language="en"), outcome("b", language="en"))}, 1.0).metrics()) == [
        "wer"
    ]


def test_a_language_without_a_reference_word_is_no_perfect_score() -> None:
    listed = (outcome("a", 1, language="en"), outcome("b", 0, words=0, language="zh"))
    assert list(Evaluation({"wer": listed}, 1.0).metrics()) == ["wer", "wer/en"]


def test_a_language_of_any_name_makes_a_name_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name as check

    listed = (outcome("a", language="zh-CN"), outcome("b", language="中文 (Beijing)"))
    names = list(Evaluation({"wer": listed}, 1.0).metrics())
    assert names == ["wer", "wer/----Beijing-", "wer/zh-CN"]
    for name in names:
        check(name)  # type: ignore[no-untyped-call]


def test_a_row_says_what_is_needed_to_look_at_it(tmp_path: Path) -> None:
    MIXED.save_outcomes(tmp_path / "outcomes.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert rows[0]["language"] == "en"
    assert rows[0]["alignment"] == [["=", "red"], ["~", "dogs", "dog"]]
    assert rows[3]["reason"] == "runaway"
    assert "language" not in rows[3]
    assert "alignment" not in rows[4]  # of an answer
    loaded = load_outcomes(tmp_path / "outcomes.jsonl")
    assert loaded == MIXED.outcomes
    assert [o.language for o in loaded["wer"]] == ["en", "zh", "en", None]
    assert loaded["wer"][3].reason == "runaway"


def test_what_was_written_before_languages_were_kept_is_read_and_holds_the_same_answers(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    MIXED.save_outcomes(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for key in ("language", "reason", "alignment"):
            row.pop(key, None)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_outcomes(path) == MIXED.outcomes
    assert load_outcomes(path)["wer"][0].language is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("{", "not JSON: EOF while parsing an object at column 1"),
        ("[]", "must be a mapping, got []"),
        ("", "not JSON: EOF while parsing a value at column 0"),
        ('{"id": "a"}', "key metric is missing (and 5 more mistakes)"),
        ({"numerator": True}, "numerator: must be an integer, got True"),
        ({"denominator": -1}, "denominator: must be at least 0, got -1"),
        ({"failed": 0}, "failed: must be true or false, got 0"),
        ({"langauge": "en"}, "langauge: unknown key"),
        ({"alignment": [["=", 1]]}, "alignment.0.1: must be a string, got 1"),
    ],
)
def test_a_line_that_is_no_outcome_is_named(tmp_path: Path, edit: str | dict[str, object], message: str) -> None:
    path = tmp_path / "outcomes.jsonl"
    MIXED.save_outcomes(path)
    lines = path.read_text().splitlines()
    lines[2] = edit if isinstance(edit, str) else json.dumps(json.loads(lines[2]) | edit)
    path.write_text("\n".join(lines) + "\n")
    fix = "name a file of outcomes as autoreap wrote it, or score again"
    with pytest.raises(InputError, match=re.escape(f"{path}:3: {message} ({fix})")):
        load_outcomes(path)


def test_a_file_that_was_cut_short_is_not_read_as_if_it_were_whole(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    MIXED.save_outcomes(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=rf"{path}:5: not JSON"):
        load_outcomes(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audio.jsonl").write_bytes(b"\xff\xfeRIFF")
    with pytest.raises(InputError, match=r"audio\.jsonl:1: not a JSONL file"):
        load_outcomes(tmp_path / "audio.jsonl")


def test_a_file_that_is_gone_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        load_outcomes(tmp_path / "gone.jsonl")


def test_the_table_for_people_has_every_interval_and_says_what_failed() -> None:
    lines = evaluation_table(MIXED).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["wer", "wer/en", "wer/zh", "accuracy"]
    assert all(re.search(r"\d+\.\d\d% \[\d+\.\d\d%, \d+\.\d\d%\]", line) for line in lines[1:])
    assert lines[1].endswith("1 runaway")
    assert lines[2].endswith("none")
    assert len({line.index("]") for line in lines}) == 1
