"""Two sides on the same utterances: figures with a verdict, what differs, and a page that no transcript can break."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoreap.data.samples import Sample
from autoreap.data.tasks import asr, audio_qa
from autoreap.errors import InputError
from autoreap.evaluation.comparison import compare_outcomes
from autoreap.evaluation.outcomes import Outcome
from autoreap.report.comparison_page import write_comparison_page
from autoreap.report.comparison_text import comparison_text, visible
from autoreap.scores import NO_DIFFERENCE, WORSE, paired_difference

REFERENCE = "the big red dog sat"
Outcomes = Mapping[str, Sequence[Outcome]]


def heard(name: str, output: str, *, reference: str = REFERENCE, language: str | None = "en", **more: Any) -> Outcome:
    counts, _ = asr.judge(Sample(id=name, where="here", text=reference, language=language), output)
    return Outcome(name, output, reference, counts, "reason" in more, language=language, **more)


def answered(name: str, output: str) -> Outcome:
    sample = Sample(id=name, where="here", question="what?", answer="dog", choices=("dog", "cat"))
    counts, failed = audio_qa.judge(sample, output)
    return Outcome(name, output, "dog", counts, failed, "unparseable" if failed else None)


FIRST = {
    "wer": [heard(str(i), REFERENCE) for i in range(8)] + [heard("8", "the big red dog")],
    "accuracy": [answered("q", "dog"), answered("r", "cat")],
}
SECOND = {
    "wer": [heard(str(i), "the red dog sat") for i in range(7)]
    + [heard("7", f"a {REFERENCE} sat down", reason="runaway"), heard("8", REFERENCE)],
    "accuracy": [answered("q", "no idea"), answered("r", "dog")],
}


def test_the_figures_are_of_both_sides_and_of_the_difference_of_b_to_a() -> None:
    measured = compare_outcomes(FIRST, SECOND).metrics["wer"]
    assert (measured.first.numerator, measured.second.numerator, measured.first.denominator) == (1, 10, 45)
    sides = ([outcome.counts for outcome in side["wer"]] for side in (SECOND, FIRST))
    found = measured.difference
    assert (found.value, found.low, found.high) == paired_difference(*sides)
    assert found.verdict == WORSE
    assert (measured.num_better, measured.num_worse, measured.num_equal) == (1, 8, 0)


def test_where_more_is_better_fewer_right_answers_are_worse() -> None:
    comparison = compare_outcomes(FIRST, SECOND)
    measured = comparison.metrics["accuracy"]
    assert (measured.num_better, measured.num_worse) == (1, 1)
    assert measured.difference.verdict == NO_DIFFERENCE
    assert [pair.first.id for pair in comparison.worst("accuracy")] == ["q"]


def test_the_worst_come_first() -> None:
    worst = compare_outcomes(FIRST, SECOND).worst("wer")
    assert [pair.first.id for pair in worst] == ["7", "0", "1", "2", "3", "4", "5", "6"]
    assert worst[0].growth == 3
    assert compare_outcomes(FIRST, FIRST).worst("wer") == []


def test_sides_in_another_order_are_paired_by_id_and_an_id_given_twice_by_its_place() -> None:
    twice = [heard("a", "the"), heard("a", REFERENCE), heard("b", "big")]
    reordered = [twice[2], twice[0], twice[1]]
    measured = compare_outcomes({"wer": twice}, {"wer": reordered}).metrics["wer"]
    assert (measured.num_equal, measured.difference.value) == (3, 0)


def test_each_language_has_its_figures_though_only_one_side_says_which_is_which() -> None:
    zh = [heard("z", "今天", reference="今天天气", language="zh")]
    first = {"wer": [*FIRST["wer"], *zh]}
    second = {"wer": [*SECOND["wer"], heard("z", "今天天气", reference="今天天气", language="zh")]}
    old = {"wer": [replace(outcome, language=None) for outcome in first["wer"]]}
    for sides in ((first, second), (old, second)):
        metrics = compare_outcomes(*sides).metrics
        assert list(metrics) == ["wer", "wer/en", "wer/zh"]
        assert (metrics["wer/zh"].first.numerator, metrics["wer/zh"].second.numerator) == (2, 0)


def test_what_only_one_side_has_is_left_out_and_counted() -> None:
    first = {"wer": FIRST["wer"], "wer.car": FIRST["wer"][:2]}
    second = {"wer": SECOND["wer"][1:], "accuracy": SECOND["accuracy"]}
    comparison = compare_outcomes(first, second)
    assert comparison.metrics["wer"].first.num_samples == 8
    assert comparison.left_out == {"wer": (1, 0), "wer.car": (2, 0), "accuracy": (0, 2)}
    text = comparison_text(comparison, 0, width=100)
    assert "wer: 8 compared; left out: 1 only in A, 0 only in B" in text
    assert "accuracy: 0 compared; left out: 0 only in A, 2 only in B" in text


def test_sides_whose_references_hold_no_word_are_refused() -> None:
    silence = {"wer": [heard(str(i), "the", reference="") for i in range(3)]}
    with pytest.raises(InputError, match="A and B: no reference of wer has a word"):
        compare_outcomes(silence, silence)


@pytest.mark.parametrize("second", [{"accuracy": FIRST["accuracy"]}, {"wer": [heard("x", "the")]}, {}])
def test_sides_that_share_no_utterance_are_refused(second: Outcomes) -> None:
    with pytest.raises(InputError, match="share no utterance: A has 9 of wer, B has"):
        compare_outcomes({"wer": FIRST["wer"]}, second)


def test_other_references_are_refused_and_shown() -> None:
    other = [heard("0", REFERENCE, reference="the small dog"), *SECOND["wer"][1:]]
    with pytest.raises(InputError, match=r"1 of 9 utterances have another reference in B, such as wer 0: .*small dog"):
        compare_outcomes(FIRST, {"wer": other})


def test_a_metric_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="unknown metric 'bleu'"):
        compare_outcomes({"bleu": FIRST["wer"]}, {"bleu": SECOND["wer"]})


def test_the_text_shows_the_worst_word_by_word() -> None:
    lines = comparison_text(compare_outcomes(FIRST, SECOND), 2, width=100).splitlines()
    (figures,) = (line for line in lines if line.startswith("wer "))
    assert figures.count("[") == 3  # an interval each for A, B and the difference
    assert figures.endswith("worse")
    start = lines.index("  7 (en): 0 -> 3 of 5; B: runaway")
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["reference", "the", "big", "red", "dog", "sat"],
        ["A", "·", "·", "·", "·", "·"],
        ["B", "+a", "·", "·", "·", "·", "·", "+sat", "+down"],
    ]
    reference, _, second = lines[start + 6 : start + 9]
    assert second[reference.index("big") :].startswith("--- ·")


def test_a_narrow_terminal_gets_shorter_lines_and_nothing_is_lost() -> None:
    words = " ".join(f"word{number}" for number in range(60))
    first, second = {"wer": [heard("a", words, reference=words)]}, {"wer": [heard("a", "", reference=words)]}
    text = comparison_text(compare_outcomes(first, second), 1, width=50)
    body = text[text.index("  a (en)") :]
    assert max(map(len, body.splitlines())) <= 50
    assert all(f"{number}" in body for number in range(60))


def test_babble_is_cut_short_and_counted() -> None:
    second = {"wer": [heard("0", f"{REFERENCE} {'so on ' * 100}", reason="runaway")]}
    text = comparison_text(compare_outcomes(FIRST, second), 1, width=100)
    assert "(192 more)" in text
    assert len(text.splitlines()) < 20


EVIL = "\x1b[31mred\x07 </script><script>alert(1)</script> & \u202edog \u2028"


def test_no_control_character_of_an_output_reaches_the_terminal_and_colour_only_when_asked() -> None:
    first = {"wer": [heard("a", REFERENCE)], "accuracy": [answered("q", "dog")]}
    comparison = compare_outcomes(first, {"wer": [heard("a", EVIL)], "accuracy": [answered("q", EVIL)]})
    text = comparison_text(comparison, 3, width=100)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\u2028]", text)
    assert r"\x1b[31mred\x07" in text
    assert "\x1b[33m" in comparison_text(comparison, 3, width=100, colour=True)
    assert visible("naïve 今天") == "naïve 今天"


def test_the_page_holds_every_utterance_as_data_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    second = {**SECOND, "wer": [*SECOND["wer"][:-1], heard("8", EVIL)]}
    comparison = compare_outcomes(FIRST, second)
    write_comparison_page(comparison, ("<i>a</i>", "b & c"), tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "alert(1)</" not in page
    assert "&lt;i&gt;a&lt;/i&gt;" in page
    assert "b &amp; c" in page
    assert not re.search(r"(src|href|@import|url\()", page)
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    utterances = json.loads(data[1])
    assert len(utterances) == 11
    assert [one["growth"] for one in utterances] == sorted((one["growth"] for one in utterances), reverse=True)
    seventh = next(one for one in utterances if one["id"] == "7")
    assert seventh["sides"][1]["failed"] == "runaway"
    runs = [["+", "", "a"], ["=", "the", REFERENCE], ["+", "", "sat down"]]
    assert seventh["sides"][1]["runs"] == runs
    for measured in comparison.metrics.values():
        assert f"{measured.first.value:.2%} [{measured.first.low:.2%}" in page
        assert f"{measured.second.value:.2%} [{measured.second.low:.2%}" in page
