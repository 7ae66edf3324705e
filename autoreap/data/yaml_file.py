"""Read a YAML file that a user writes. All its mistakes are reported together, each with its line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from autoreap.errors import InputError
from autoreap.validation import KeyPath, Mistake, dotted, mistakes_of

Value = TypeVar("Value")


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
            raise InputError("\n".join(message for _, message in located))
        return parsed

    def _locate(self, key: KeyPath, message: str) -> tuple[int, str]:
        """The line of a mistake and the whole message. What is not in the file has the line of what should hold it."""
        while key not in self.lines:
            key = key[:-1]
        line = self.lines[key]
        place = f"{dotted(key)}: " if key else ""
        return line, f"{self.path}:{line}: {place}{message}"


class _Loader(yaml.SafeLoader):
    """Keys are strings, as they are written: `no` and `1` too."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        found = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            found[key.value] = self.construct_object(value, deep=deep)
        return found


def read_yaml(path: Path) -> YamlFile:
    """Read `path`; `InputError` if it is not there or holds no mapping in YAML."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        lines: dict[KeyPath, int] = {(): 1}
        repeated: list[Mistake] = []
        if root is not None:
            _collect_lines(root, (), lines, repeated)
        document = loader.construct_document(root) if root is not None else None
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
    return YamlFile(path, document, lines, tuple(repeated))


def _collect_lines(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], repeated: list[Mistake]) -> None:
    """Note the line of every key and entry beneath `node`, and the keys that are there twice."""
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
