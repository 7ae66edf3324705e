"""What is read from disk is checked here, once: JSON, JSONL and the mappings of YAML, by pydantic models.

All mistakes of one document are reported together, each with its key. Nothing is converted: "3" is no number.
The types here are strict one by one: pydantic's strict mode would refuse a mapping for a dataclass, and a list for a
tuple.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from autoreap.errors import InputError, shown
from autoreap.reading import MAX_JSON_BYTES, lines_of, parse_json, read_text

KeyPath = tuple[str | int, ...]
Mistake = tuple[KeyPath, str]
Value = TypeVar("Value")

NO_OTHER_KEYS = ConfigDict(extra="forbid")

_MAX_INTEGER = 2**63 - 1  # a database can't hold a larger one
_MISTAKE = "mistake"  # the type of errors that are worded already
_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
_WORDS = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "dict_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
}


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


# pydantic would turn 5 into 5.0. Digests are made of values as they are written, and would change.
Number = Annotated[StrictFloat, Field(allow_inf_nan=False), WrapValidator(_as_written)]
PositiveNumber = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False), WrapValidator(_as_written)]
Share = Annotated[StrictFloat, Field(ge=0, le=1), WrapValidator(_as_written)]
PositiveInteger = Annotated[StrictInt, Field(gt=0, le=_MAX_INTEGER)]
Count = Annotated[StrictInt, Field(ge=0, le=_MAX_INTEGER)]
Text = Annotated[StrictStr, Field(min_length=1)]


def one_of(allowed: Iterable[Value]) -> AfterValidator:
    """The check that a value is one of `allowed`."""
    values = tuple(allowed)

    def check(value: Value) -> Value:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(map(str, values))}")
        return value

    return AfterValidator(check)


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class Section:
    """A mapping of known keys. A key without a value counts as absent; an unknown key is a mistake.

    Attributes:
        form: what it must be, for messages.
        unsupported: keys that other tools know, and what to do instead.
    """

    form: ClassVar[str] = "a mapping"
    unsupported: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def mistakes(cls, values: Mapping[str, Any], context: Any) -> Iterator[Mistake]:
        """The rules between keys that `values` break; these are as they are written, and may be of any type."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, values: Any, validate: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Report broken rules beside broken values: pydantic would look at rules only once all values are right."""
        if isinstance(values, dict):
            values = {key: value for key, value in values.items() if value is not None}
        found: list[Mistake] = []
        section = None
        try:
            section = validate(values)
        except ValidationError as error:
            found += [_worded(each, cls) for each in error.errors(include_url=False)]
        found += cls.mistakes(mapping_or_empty(values), info.context)
        if section is None or found:
            raise error_of(found)
        return section

    @classmethod
    def known_keys(cls) -> str:
        """The keys, for messages."""
        return ", ".join(field.name for field in fields(cls))


def mapping_or_empty(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping; rules look into values that may be of any type."""
    if not isinstance(value, dict):
        return {}
    return value


def error_of(mistakes: Iterable[Mistake]) -> ValidationError:
    """The error that a validator raises for several mistakes, each at its own key."""
    lines = []
    for key, message in mistakes:
        kind = PydanticCustomError(_MISTAKE, "{message}", {"message": message})
        lines.append(InitErrorDetails(type=kind, loc=key, input=None))
    return ValidationError.from_exception_data("mistakes", lines)


def _worded(error: ErrorDetails, section: type[Section] | None = None) -> Mistake:
    """Where a mistake is and what it is, in our words."""
    key, kind, message = error["loc"], error["type"], error["msg"]
    if kind == _MISTAKE:
        return key, message
    if kind == "json_invalid":  # of a text of one line
        return key, f"not JSON: {error['ctx']['error']}".replace("line 1 column", "column")
    if kind in ("missing", "missing_argument"):
        return key[:-1], f"key {key[-1]} is missing"
    if kind in _UNKNOWN_KEY:
        if section is None:
            return key, "unknown key"
        advice = section.unsupported.get(str(key[-1]))
        return key, advice or f"unknown key; known: {section.known_keys()}"
    if kind == "dataclass_type" and section is not None:
        message = f"must be {section.form}; known keys: {section.known_keys()}"
    elif kind == "value_error":
        message = str(error["ctx"]["error"])
    elif kind in _WORDS:
        message = _WORDS[kind].format(**error.get("ctx", {}))
    return key, f"{message}, got {shown(error['input'])}"


def mistakes_of(error: ValidationError) -> list[Mistake]:
    """All mistakes that `error` reports."""
    return [_worded(each) for each in error.errors(include_url=False)]


def dotted(key: KeyPath) -> str:
    """`key` as users read it: `thinker.layers.3`."""
    return ".".join(str(part) for part in key)


def validate(adapter: TypeAdapter[Value], document: Any, where: object, *, fix: str | None = None) -> Value:
    """`document` as the type of `adapter`.

    Raises:
        InputError: it is of another form; the message names `where` and the key of the first mistake, and says `fix`.
    """
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        raise _refuse(error, where, fix) from None


def _refuse(error: ValidationError, where: object, fix: str | None) -> InputError:
    """The error to raise for a document in `where`."""
    (key, message), *others = mistakes_of(error)
    # Nobody writes these documents by hand, so the first mistake tells what went wrong.
    if len(others) == 1:
        message += " (and 1 more mistake)"
    elif others:
        message += f" (and {len(others)} more mistakes)"
    if key:
        where = f"{where}: {dotted(key)}"
    return InputError(message, where=where, fix=fix)


def read_json(path: Path, *, missing: str = "no such file", fix: str | None = None) -> Any:
    """The JSON document in `path`; `InputError` where there is none, which is said with `missing` and `fix`."""
    text = read_text(path, "JSON", MAX_JSON_BYTES, missing=missing, fix=fix)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from None
    except ValueError as error:
        raise InputError(str(error), where=path) from None


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON object of each line that is not blank, and its place: `rows.jsonl:3`.

    Raises:
        InputError: the file is not there, or a line is no JSON object or has a key twice; the message names the line.
    """
    for number, line in lines_of(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line, allow_nan=True)  # other tools write NaN into keys that are theirs
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.colno}") from None
        except ValueError as error:
            raise InputError(str(error), where=where) from None
        if not isinstance(row, dict):
            raise InputError("each line must be a JSON object", where=where)
        yield where, row


def read_lines(path: Path, adapter: TypeAdapter[Value], *, fix: str) -> Iterator[Value]:
    """Each line of a JSONL file that autoreap has written, as the type of `adapter`. There may be many: it is fast.

    Raises:
        InputError: the file is not there, or a line is of another form; the message names line and key, and says `fix`.
    """
    for number, line in lines_of(path, fix=fix):
        try:
            value = adapter.validate_json(line)
        except ValidationError as error:
            raise _refuse(error, f"{path}:{number}", fix) from None
        yield value
