"""Where a row holds what a sample needs: in a column, in several, or in a template of columns.

Templates are Jinja's, as lm-eval writes them (`{{question}}`), in its sandbox: an evals file runs no code.
"""

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from autoreap.errors import InputError


@dataclass(frozen=True)
class Constant:
    """A value that is the same in every row."""

    value: str


Place = str | Constant | tuple[str | Constant, ...]  # a column, a template or a constant; several of them make a list

TEXTS = ("text", "question", "answer", "language", "speaker")
KEYS = ("id", "audio", "image", "video", "choices", *TEXTS)

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_MARKS = ("{{", "{%")
# What a template may trip over in a row.
_FAULTS = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError)


def is_row_template(place: str) -> bool:
    """Whether `place` is a template of columns, not the name of one."""
    return any(mark in place for mark in _MARKS)


def fault_of(place: str) -> str | None:
    """What is wrong with a template, or None."""
    try:
        _ENVIRONMENT.parse(place)
    except jinja2.TemplateSyntaxError as error:
        return f"is no template ({error.message})"
    return None


def read_columns(place: Place) -> frozenset[str]:
    """The columns that `place` reads."""
    if isinstance(place, Constant):
        return frozenset()
    if isinstance(place, tuple):
        return frozenset().union(*map(read_columns, place))
    if is_row_template(place):
        return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(place)))
    return frozenset({place})


def arranged(row: Mapping[str, Any], columns: Mapping[str, Place], where: str) -> dict[str, Any]:
    """`row` under our keys: what `columns` places, with choices as a list and the right one by its text.

    A list may be stored as text, in JSON or as Python prints it. An answer that is a whole number is a choice's place,
    counted from 0 as in lm-eval; of an answer that is a list, all are right, and `answers` takes those after the first.

    Raises:
        InputError: a template can't be filled in, or choices or answer are of another form.
    """
    values = {key: _value(place, row, where) for key, place in columns.items()}
    choices = _choices(values.get("choices"), where)
    answers = _answers(values.get("answer"), choices, where)
    if choices:
        values["choices"] = choices
    if answers:
        values |= {"answer": answers[0], "answers": answers[1:]}
    return values


def _value(place: Place, row: Mapping[str, Any], where: str) -> Any:
    if isinstance(place, Constant):
        return place.value
    if isinstance(place, tuple):
        listed = (_value(part, row, where) for part in place)
        return [value for value in listed if value not in (None, "")]
    if not is_row_template(place):
        return row[place]
    try:
        return _template(place).render(row)
    except _FAULTS as error:
        raise InputError(f"template {place!r} can't be filled in: {error}", where=where) from None


@cache
def _template(place: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(place)


def _choices(stored: Any, where: str) -> list[str]:
    if stored in (None, "", []):
        return []
    choices = _listed(stored)
    if choices is None or len(choices) < 2:
        raise InputError(
            f"choices must be a list of at least two texts, got {stored!r}",
            where=where,
            fix="of several columns: columns: {choices: [first, second]}",
        )
    return choices


def _answers(stored: Any, choices: list[str], where: str) -> list[str]:
    if type(stored) is int and choices:
        if not 0 <= stored < len(choices):
            raise InputError(f"answer must be a choice's place from 0 to {len(choices) - 1}, got {stored}", where=where)
        return [choices[stored]]
    answers = _listed(stored)
    if answers is None:
        return [] if stored in (None, "") else [str(stored)]
    if not answers:
        raise InputError("answer is empty", where=where)
    return answers


def _listed(stored: Any) -> list[str] | None:
    """A list of texts, or the text of one; None for anything else."""
    if isinstance(stored, str):
        stored = _parsed(stored)
    if not isinstance(stored, list | tuple) or not _are_plain(stored):
        return None
    return [str(entry) for entry in stored]


def _parsed(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _are_plain(entries: Iterable[Any]) -> bool:
    return all(isinstance(entry, str | int | float) and entry != "" for entry in entries)
