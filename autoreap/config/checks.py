"""Reading YAML with all its mistakes at once: each one with the line of its key, and the rule that must hold."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autoreap.errors import InputError

KeyPath = tuple[str | int, ...]


class Problems:
    """Collects every mistake of one file; `finish` reports them all."""

    def __init__(self, path: Path, lines: Mapping[KeyPath, int]) -> None:
        self._path = path
        self._lines = lines
        self._found: list[tuple[int, str]] = []

    def add(self, key: KeyPath, problem: str) -> None:
        """Note that the value at `key` has a `problem`."""
        line = next((self._lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self._lines), 1)
        dotted = ".".join(str(part) for part in key)
        self._found.append((line, f"{self._path}:{line}: {dotted + ': ' if dotted else ''}{problem}"))

    def finish(self) -> None:
        """Raise one `InputError` with every mistake noted, in the order of the file; do nothing if there is none."""
        if self._found:
            raise InputError("\n".join(message for _, message in sorted(self._found)))

    def unknown_keys(self, document: Mapping[str, Any], known: Sequence[str], at: KeyPath = ()) -> None:
        """Note every key of `document` that is not `known`."""
        for key in document:
            if key not in known:
                self.add((*at, key), f"unknown key; known: {', '.join(known)}")

    def take(self, document: Mapping[str, Any], key: str, at: KeyPath, check: Callable[[Any], str | None]) -> Any:
        """`document[key]` if `check` finds no fault with it, else None, with the fault noted."""
        value = document.get(key)
        if value is not None and (fault := check(value)):
            self.add((*at, key), f"{fault}, got {value!r}")
            return None
        return value


# Each check returns the rule that a value breaks, or None.


def one_of(allowed: Sequence[str]) -> Callable[[Any], str | None]:
    """The value is one of `allowed`."""
    return lambda value: None if value in allowed else f"must be one of {', '.join(allowed)}"


def all_of(allowed: Sequence[str]) -> Callable[[Any], str | None]:
    """The value is a list of some of `allowed`."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, list) and all(entry in allowed for entry in value)
        return None if fits else f"must be a list of some of {', '.join(allowed)}"

    return check


def is_string(value: Any) -> str | None:
    """The value is a string."""
    return None if isinstance(value, str) else "must be a string"


def is_string_mapping(value: Any) -> str | None:
    """The value maps strings to strings."""
    fits = isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)
    return None if fits else "must map keys to column names"


def is_template(value: Any) -> str | None:
    """The value is a text in which at most `{question}`, `{choices}` and `{lettered}` are filled in."""
    if not isinstance(value, str):
        return "must be a string"
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
    except ValueError as error:
        return f"is no template ({error})"
    fits = names <= {"question", "choices", "lettered"}
    return None if fits else "may use {question}, {choices} and {lettered} alone"


def is_bool(value: Any) -> str | None:
    """The value is true or false."""
    return None if isinstance(value, bool) else "must be true or false"


def is_positive_integer(value: Any) -> str | None:
    """The value is an integer above 0."""
    return None if type(value) is int and value > 0 else "must be an integer above 0"


def is_integer(value: Any) -> str | None:
    """The value is an integer."""
    return None if type(value) is int else "must be an integer"


def is_number(value: Any) -> str | None:
    """The value is a finite number."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if fits else "must be a number"


def is_positive_number(value: Any) -> str | None:
    """The value is a number above 0."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return None if fits else "must be a number above 0"


def is_weight(value: Any) -> str | None:
    """The value is a finite number above 0."""
    fits = is_positive_number(value) is None and math.isfinite(value)
    return None if fits else "must be a finite number above 0"


def is_share(value: Any) -> str | None:
    """The value is a number from 0 to 1."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return None if fits else "must be a number from 0 to 1"


def is_hub_name(value: str) -> bool:
    """Whether `value` has the form of a data set's name on the hub: `owner/name`, or a name alone without dots."""
    return re.fullmatch(r"[\w-]+|[\w-][\w.-]*/[\w-][\w.-]*", value) is not None


def read_yaml(path: Path) -> tuple[dict[str, Any], Problems]:
    """The mapping in `path`, and a list of problems that knows its lines; what is there twice is the first of them."""
    try:
        text = path.read_text(encoding="utf-8")
        root, document = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
        found = _lines(root, ()) if root is not None else []
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except IsADirectoryError:
        raise InputError("is a directory", where=path, fix="name a YAML file") from None
    except RecursionError:
        raise InputError("a part of it contains itself, or it is nested too deeply", where=path) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", where=path) from None
    if not isinstance(document, dict):
        raise InputError("must be a mapping of keys to values", where=path)
    problems = Problems(path, dict(found))
    for key, times in Counter(key for key, _ in found).items():
        if times > 1:  # YAML would keep the last in silence
            problems.add(key, "is there twice; leave one out")
    return document, problems


def _lines(node: yaml.Node, at: KeyPath) -> list[tuple[KeyPath, int]]:
    """The line of every key and entry beneath `node`."""
    found = [(at, node.start_mark.line + 1)]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found += [((*at, key.value), key.start_mark.line + 1), *_lines(value, (*at, key.value))[1:]]
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            found += _lines(value, (*at, number))
    return found
