"""Where a row holds what a sample needs: in a column, in several, or in a template of columns."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoreap.data.row_templates import columns_of_template, fill_in, is_row_template, kind_of
from autoreap.errors import InputError, shown
from autoreap.reading import parse_json


@dataclass(frozen=True)
class Constant:
    """A value that is the same in every row."""

    value: str


# A column, a template of columns or a constant; several make a list.
ColumnRef = str | Constant | tuple[str | Constant, ...]

TEXTS = ("text", "question", "answer", "language", "speaker")
_ONE_TEXT = ("id", "text", "question", "language", "speaker")  # an answer may be a list, too
KEYS = ("id", "audio", "image", "video", "choices", *TEXTS)
_COLUMN_ALONE = re.compile(r"\s*\{\{-?\s*(\w+)\s*-?\}\}\s*")
# Characters of a list that is stored as text: Python's parser takes much memory.
_MAX_LIST = 100_000


def referenced_columns(ref: ColumnRef) -> frozenset[str]:
    """The columns that `ref` reads."""
    if isinstance(ref, Constant):
        return frozenset()
    if isinstance(ref, tuple):
        return frozenset().union(*map(referenced_columns, ref))
    if is_row_template(ref):
        return columns_of_template(ref)
    return frozenset({ref})


def rename_columns(row: Mapping[str, Any], columns: Mapping[str, ColumnRef], where: str) -> dict[str, Any]:
    """`row` under our keys: the values that `columns` refer to, with choices as a list and the answer as a text.

    A list may be stored as text, in JSON or as Python prints it. An answer that is a whole number is a choice's place,
    counted from 0 as in lm-eval; of an answer that is a list, all are right, and `answers` takes those after the first.

    Raises:
        InputError: a template can't be filled in, or choices or answer are of another form.
    """
    values = {key: _value(ref, row, where) for key, ref in columns.items()}
    for key in _ONE_TEXT:
        if key in values:
            check_text(key, values[key], where)
            _check_prints_no_list(key, columns[key], row, where)
    choices = _choices(values.get("choices"), where)
    if choices:
        values["choices"] = choices
    answers = _answers(values.get("answer"), choices, where)
    if answers:
        values["answer"] = answers[0]
        values["answers"] = answers[1:]
    return values


def check_text(key: str, value: Any, where: str) -> None:
    """Raise `InputError` unless `value` is a text, a number or nothing."""
    # NaN, which an empty cell of numbers is stored as, is a float that does not equal itself.
    if value is None or (isinstance(value, str | int | float) and value == value):
        return
    part = f"{key}[0]"
    if isinstance(value, Mapping) and value:
        part = f"{key}.{next(iter(value))}"
    raise InputError(
        f"{key} must be a text, got {kind_of(value)}",
        where=where,
        fix=f"map {key} in columns: to a column of texts, or to a template such as '{{{{{part}}}}}'",
    )


def _check_prints_no_list(key: str, ref: ColumnRef, row: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` where a template is a column alone that holds a list: `{{transcripts}}`."""
    if key == "question" or not isinstance(ref, str) or not is_row_template(ref):
        return
    alone = _COLUMN_ALONE.fullmatch(ref)
    if alone and isinstance(row.get(alone[1]), list | tuple):
        check_text(key, row[alone[1]], where)


def _value(ref: ColumnRef, row: Mapping[str, Any], where: str) -> Any:
    if isinstance(ref, Constant):
        return ref.value
    if isinstance(ref, tuple):
        values = []
        for part in ref:
            value = _value(part, row, where)
            if value not in (None, ""):
                values.append(value)
        return values
    if not is_row_template(ref):
        return row[ref]
    try:
        return fill_in(ref, row)
    except ValueError as error:
        raise InputError(str(error), where=where) from None


def _choices(stored: Any, where: str) -> list[str]:
    if stored in (None, "", []):
        return []
    choices = _list_of_texts(stored)
    if choices is None or len(choices) < 2:
        raise InputError(
            f"choices must be a list of at least two texts, got {shown(stored)}",
            where=where,
            fix="of several columns: columns: {choices: [first, second]}",
        )
    return choices


def _answers(stored: Any, choices: list[str], where: str) -> list[str]:
    if stored in (None, ""):
        return []
    if type(stored) is int and choices:  # `type`, as true and false are integers for `isinstance`
        if not 0 <= stored < len(choices):
            raise InputError(f"answer must be a choice's place from 0 to {len(choices) - 1}, got {stored}", where=where)
        return [choices[stored]]
    answers = _list_of_texts(stored)
    if answers is None:
        if isinstance(stored, list | tuple):
            raise InputError(f"answer must be a text or a list of texts, got {kind_of(stored)}", where=where)
        check_text("answer", stored, where)
        return [str(stored)]
    if not answers:
        raise InputError("answer is empty", where=where)
    return answers


def _list_of_texts(stored: Any) -> list[str] | None:
    """A list of texts, or the text of one; None for anything else."""
    if isinstance(stored, str):
        stored = _parse_list(stored)
    if not isinstance(stored, list | tuple):
        return None
    for entry in stored:
        if not isinstance(entry, str | int | float) or entry == "" or entry != entry:
            return None
    return [str(entry) for entry in stored]


def _parse_list(text: str) -> Any:
    """The list that `text` prints, in JSON or in Python; None if it prints none."""
    if not text.lstrip().startswith("[") or len(text) > _MAX_LIST:
        return None
    # JSON's true and null are no Python, and Python's single quotes are no JSON.
    for parse in (parse_json, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None
