"""Read a YAML file that a user writes. All its mistakes are reported together, each with its line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from autoreap.errors import InputError, shown
from autoreap.reading import MAX_DEPTH, read_text
from autoreap.validation import KeyPath, Mistake, dotted, mistakes_of

Value = TypeVar("Value")

_MAX_BYTES = 500_000  # PyYAML takes seconds for more; no file that a person writes comes near
_MAX_VALUES = 50_000
_TOO_LARGE = 2**63  # for a database


@dataclass(frozen=True)
class YamlFile:
    """A file that holds a mapping.

    Attributes:
        document: the mapping.
        lines: the line of each key and entry.
        repeated: keys that are there twice.
    """

    path: Path
    document: Mapping[str, Any]
    lines: Mapping[KeyPath, int]
    repeated: tuple[Mistake, ...]

    def parse(self, kind: type[Value], at: KeyPath = ()) -> Value:
        """The value at `at` as a `kind`. Validators find the file's folder in their context, to look for other files.

        Raises:
            InputError: there are mistakes; the message has a line for each, in the order of the file.
        """
        value: Any = self.document
        for part in at:
            value = value[part]
        mistakes = list(self.repeated)
        try:
            parsed = TypeAdapter(kind).validate_python(value, context=self.path.parent)
        except ValidationError as error:
            for key, message in mistakes_of(error):
                mistakes.append(((*at, *key), message))
        if mistakes:
            located = sorted(self._locate(key, message) for key, message in mistakes)
            raise InputError.of_lines(message for _, message in located)
        return parsed

    def _locate(self, key: KeyPath, message: str) -> tuple[int, str]:
        """The line of a mistake and the whole message. What is not in the file has the line of what should hold it."""
        while key not in self.lines:
            key = key[:-1]
        line = self.lines[key]
        if key:
            message = f"{dotted(key)}: {message}"
        return line, f"{self.path}:{line}: {message}"


class _Loader(yaml.SafeLoader):
    """Keys are strings, as they are written: `no` and `1` too. What a scalar can't be is an error with its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        found = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            found[key.value] = self.construct_object(value, deep=deep)
        return found

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep=deep)
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:  # PyYAML's own slips
            problem = f"can't be read as {node.tag.rpartition(':')[2]}: {shown(node.value)}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
        if type(value) is int and abs(value) >= _TOO_LARGE:
            problem = f"an integer of {len(node.value):,} digits is too large"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


def read_yaml(path: Path) -> YamlFile:
    """Read `path`; `InputError` if it is not there or holds no mapping in YAML."""
    return parse_yaml(read_text(path, "YAML", _MAX_BYTES), path)


def parse_yaml(text: str, path: Path) -> YamlFile:
    """The mapping that `text` of the file `path` holds; `InputError` if it holds none in YAML, or grows out of bounds.

    An alias stands for all that it names: a few lines of aliases of aliases are billions of values.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        lines: dict[KeyPath, int] = {(): 1}
        repeated: list[Mistake] = []
        document = None
        if root is not None:
            _collect_lines(root, (), lines, repeated)
            document = loader.construct_document(root)
    except RecursionError:
        raise InputError("a part of it contains itself, or it is nested too deeply", where=path) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where: object = path
        if mark:
            where = f"{path}:{mark.line + 1}"
        raise InputError(f"not YAML: {error.problem or error.context}", where=where) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", where=path) from None
    if not isinstance(document, dict):
        raise InputError("must be a mapping of keys to values", where=path)
    return YamlFile(path, document, lines, tuple(repeated))


def _collect_lines(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], repeated: list[Mistake]) -> None:
    """Note the line of every key and entry beneath `node`, and the keys that are there twice."""
    if len(at) > MAX_DEPTH:
        raise RecursionError
    if len(lines) > _MAX_VALUES:
        problem = f"with its aliases it holds more than {_MAX_VALUES:,} values"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # the loader refuses it
            place = (*at, key.value)
            if place in lines:  # YAML would silently keep the last value
                repeated.append((place, "is there twice; leave one out"))
            lines[place] = key.start_mark.line + 1
            _collect_lines(value, place, lines, repeated)
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[(*at, number)] = value.start_mark.line + 1
            _collect_lines(value, (*at, number), lines, repeated)
