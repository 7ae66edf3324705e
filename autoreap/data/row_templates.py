"""Templates of columns, as lm-eval writes them (`{{question}}`): Jinja's, bounded, so an evals file runs no code.

Jinja's sandbox keeps a template from Python's insides, not from filling memory: `{{ 'a' * 10 ** 9 }}`. So a template
has no statements but `if` and one `for`, an expression multiplies texts in no way that is not counted beforehand, and
what is written and how long it takes have an end.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from autoreap.errors import shown

_MAX_TEMPLATE = 10_000  # characters
_MAX_WRITTEN = 1_000_000  # characters of a row, and of what an expression multiplies
_MAX_SECONDS = 2.0
_MAX_RANGE = 1000
_LONG_NUMBER = re.compile(r"[\d_]{300}")
_REFUSED = {
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.Block: "block",
    nodes.CallBlock: "call",
    nodes.Extends: "extends",
    nodes.FilterBlock: "filter",
    nodes.FromImport: "import",
    nodes.Import: "import",
    nodes.Include: "include",
    nodes.Macro: "macro",
    nodes.With: "with",
    nodes.Pow: "**",
}
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "escape", "e", "first", "float", "int", "items"),
    *("join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
    *("round", "safe", "select", "selectattr", "slice", "sort", "string", "striptags", "sum", "title", "tojson"),
    *("trim", "truncate", "unique", "upper", "wordcount"),
)
_METHODS = (
    "capitalize casefold count endswith find get index isalpha isdigit islower isnumeric isspace isupper items join "
    "keys lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split "
    "splitlines startswith strip swapcase title upper values"
)
_METHOD_NAMES = frozenset(_METHODS.split())
# What a template may raise on a row.
_ERRORS = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja without what multiplies."""

    intercepted_binops = frozenset({"*", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_printable)
        self.deadline = math.inf
        self.filters = {name: self._bounded(self.filters[name]) for name in _FILTERS}
        self.globals = {"range": _short_range}

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that counts beforehand what it may write."""

        @wraps(function)  # Jinja marks those that want its context
        def run(*arguments: Any, **named: Any) -> Any:
            counted = []
            for argument in arguments:
                if isinstance(argument, Iterator):
                    argument = list(argument)  # it has no length, and could not be read twice
                counted.append(argument)
            self.check(*counted, *named.values())
            return function(*counted, **named)

        return run

    def check(self, *arguments: Any) -> None:
        """Raise `ValueError` where a result as long as the product of the arguments' lengths would be too long."""
        if time.monotonic() > self.deadline:
            raise ValueError(f"it takes more than {_MAX_SECONDS:g} seconds")
        size = 1
        for number, argument in enumerate(arguments):
            if isinstance(argument, str | list | tuple | dict):
                size *= max(len(argument), 1)
            elif isinstance(argument, int | float) and number:  # the first is what the others work on
                size *= max(abs(int(argument)), 1)
        if size > _MAX_WRITTEN:
            raise ValueError(f"it may write more than {_MAX_WRITTEN:,} characters")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods of a value that only read it."""
        return attr in _METHOD_NAMES and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, obj: Any, *arguments: Any, **named: Any) -> Any:
        self.check(getattr(obj, "__self__", None), *arguments, *named.values())
        return super().call(context, obj, *arguments, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers may be multiplied; texts and lists can't be, nor a text be formatted by %."""
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise ValueError(f"{operator} is of numbers alone")
        return super().call_binop(context, operator, left, right)


def _printable(value: Any) -> Any:
    """`value` as a template prints it; what Python alone would print is no text."""
    if value is None or isinstance(value, Mapping | bytes):
        raise TypeError(f"{kind_of(value)} is no text")
    return value


def kind_of(value: Any) -> str:
    """What `value` is, for messages."""
    if value is None:
        return "nothing"
    for kind, name in ((Mapping, "a struct"), (bytes, "bytes"), (list | tuple, "a list")):
        if isinstance(value, kind):
            if not value:
                return f"{name} of nothing"
            return f"{name}: {shown(value)}"
    return f"{type(value).__name__}: {shown(value)}"


def _short_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MAX_RANGE:
        raise ValueError(f"a range of more than {_MAX_RANGE:,} numbers")
    return numbers


_ENVIRONMENT = _Environment()


def is_row_template(ref: str) -> bool:
    """Whether `ref` is a template of columns, not the name of one."""
    return "{{" in ref or "{%" in ref


def check_template(ref: str) -> None:
    """Raise `ValueError` if `ref` is a template that can't be parsed, or has what no prompt needs."""
    if len(ref) > _MAX_TEMPLATE:
        raise ValueError(f"is longer than {_MAX_TEMPLATE:,} characters")
    if _LONG_NUMBER.search(ref):
        raise ValueError("is a template with a number that is too large")
    try:
        parsed = _ENVIRONMENT.parse(ref)
        refused = next(_refused(parsed), None)
        if refused is not None:
            raise ValueError(f"is a template with {refused}, which is not supported")
        _template(ref)
    except jinja2.TemplateError as error:
        raise ValueError(f"is no template ({error.message})") from None
    except (RecursionError, MemoryError, SyntaxError):
        raise ValueError("is no template (nested too deeply)") from None


def _refused(parsed: nodes.Template) -> Iterator[str]:
    """What is in a template and is not supported, in words."""
    for kind, name in _REFUSED.items():
        if parsed.find(kind) is not None:
            yield name
    for loop in parsed.find_all(nodes.For):
        if loop.recursive or any(loop.find_all(nodes.For)):
            yield "a for within a for"
    for attribute in parsed.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            yield f"the attribute {attribute.attr}"


def columns_of_template(ref: str) -> frozenset[str]:
    """The columns that a template reads."""
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(ref))) - _ENVIRONMENT.globals.keys()


def fill_in(ref: str, row: Mapping[str, Any]) -> str:
    """The template `ref` with the columns of `row`; `ValueError` where that can't be, or would not end."""
    # One environment fills in all rows, one at a time, so the deadline is this row's.
    _ENVIRONMENT.deadline = time.monotonic() + _MAX_SECONDS
    written, length = [], 0
    try:
        for piece in _template(ref).generate(row):
            written.append(piece)
            length += len(piece)
            if length > _MAX_WRITTEN:
                raise ValueError(f"it writes more than {_MAX_WRITTEN:,} characters")
            _ENVIRONMENT.check()
    except _ERRORS as error:
        raise ValueError(f"template {shown(ref)} can't be filled in: {error}") from None
    return "".join(written)


@cache
def _template(ref: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(ref)
