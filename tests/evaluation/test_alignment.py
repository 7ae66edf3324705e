"""The alignment that outcomes carry costs what was counted, and gives back both texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreap.data.samples import Sample
from autoreap.data.tasks import asr
from autoreap.data.tasks.normalise import units
from autoreap.evaluation.alignment import DELETED, EQUAL, INSERTED, SUBSTITUTED, Cell, Column, Edit, align, columns

TEXTS = st.lists(st.sampled_from(["red", "dog", "a", "colour", "um", "今天", ""]), max_size=12).map(" ".join)


def edits(reference: str, output: str, language: str | None = "en") -> tuple[Edit, ...]:
    found = align("wer", reference, output, language)
    assert found is not None
    return found


def test_each_kind_of_error_says_what_was_said_and_what_was_heard() -> None:
    found = edits("The big red dog sat.", "the red frog sat down")
    assert [edit.as_list() for edit in found] == [
        ["=", "the"], ["-", "big"], ["=", "red"], ["~", "dog", "frog"], ["=", "sat"], ["+", "down"]
    ]  # fmt: skip


def test_chinese_is_aligned_by_character() -> None:
    found = edits("今天 天气好", "今天天器好", "zh")
    assert [edit.as_list() for edit in found] == [["=", "今 天 天"], ["~", "气", "器"], ["=", "好"]]


@settings(max_examples=100, deadline=None)
@given(reference=TEXTS, output=TEXTS, language=st.sampled_from(["en", "zh", "de", None]))
def test_an_alignment_holds_both_texts_and_as_many_errors_as_are_counted(
    reference: str, output: str, language: str | None
) -> None:
    found = edits(reference, output, language)
    assert [unit for edit in found for unit in edit.reference] == units(reference, language)
    assert [unit for edit in found for unit in edit.output] == units(output, language)
    sample = Sample(id="a", where="here", text=reference, language=language)
    errors = sum(max(len(edit.reference), len(edit.output)) for edit in found if edit.kind != EQUAL)
    assert errors == asr.judge(sample, output)[0].numerator


def test_an_answer_is_not_aligned() -> None:
    assert align("accuracy.caption", "dog", "cat", "en") is None
    assert align("wer.noisy/en", "dog", "cat", "en") is not None


@pytest.mark.parametrize(("reference", "output"), [("", ""), ("", "dog"), ("dog", "")])
def test_nothing_said_and_nothing_heard_can_be_aligned(reference: str, output: str) -> None:
    assert len(columns([edits(reference, output)])) == bool(reference or output)


def test_two_outputs_stand_side_by_side_under_their_reference() -> None:
    found = columns([edits("red dog", "a red dog"), edits("red dog", "red hot frog")])
    assert found == [
        Column(None, (Cell(INSERTED, "a"), None)),
        Column("red", (Cell(EQUAL, "red"), Cell(EQUAL, "red"))),
        *found[2:],
    ]
    assert sorted(cell.kind for column in found[2:] for cell in column.cells if cell) == sorted(
        [EQUAL, SUBSTITUTED, INSERTED]
    )
    gone = columns([edits("red dog", "dog"), edits("red dog", "red dog")])
    assert gone[0] == Column("red", (Cell(DELETED, "red"), Cell(EQUAL, "red")))
