"""Text and JSON are read within bounds: a small file must not become gigabytes, nor a deep one end the process.

Every reader of the package goes through here, and of YAML through `data.yaml_file`, which reads its text here.
"""

import codecs
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from autoreap.errors import InputError

# In memory it may take thirty times as much; the index of a 235B model has 5 MB.
MAX_JSON_BYTES = 25_000_000
MAX_LINE_BYTES = 10_000_000
MAX_DEPTH = 100
MAX_DIGITS = 300  # of an integer, which must still become a float


def open_file(path: Path, *, missing: str = "no such file", fix: str | None = None) -> BinaryIO:
    """`path` for reading; `InputError` where there is no such file, which is said with `missing` and `fix`."""
    try:
        # Without O_NONBLOCK a named pipe that nobody writes to would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise InputError(missing, where=path, fix=fix) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=path) from None
    except ValueError:  # a null byte
        raise InputError("is no name of a file", where=path) from None
    os.set_blocking(descriptor, True)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError("is a folder, not a file", where=path, fix=fix)
    return os.fdopen(descriptor, "rb")


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; a name that none can have, such as one of 300 characters, is none."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether `path` is there, and a file."""
    return is_there(path) and path.is_file()


def read_text(path: Path, kind: str, most_bytes: int, *, missing: str = "no such file", fix: str | None = None) -> str:
    """All of `path`, which is to be `kind`, such as JSON; `InputError` where it is longer, or not UTF-8."""
    with open_file(path, missing=missing, fix=fix) as file:
        # One byte more than there may be tells of a longer file, which is not read.
        encoded = file.read(most_bytes + 1)
    if len(encoded) > most_bytes:
        raise InputError(f"is longer than {most_bytes / 1e6:g} MB, too long for {kind}", where=path)
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not {kind}: {error}", where=path) from None


def lines_of(path: Path, *, fix: str | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a JSONL file with their numbers, read one by one; one ends at a line feed and nowhere else."""
    number = 0
    with open_file(path) as file:
        while encoded := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(encoded) > MAX_LINE_BYTES:
                raise InputError(f"the line is longer than {MAX_LINE_BYTES / 1e6:g} MB", where=where, fix=fix)
            if number == 1:
                encoded = encoded.removeprefix(codecs.BOM_UTF8)
            try:
                line = encoded.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"not a JSONL file: {error}", where=where, fix=fix) from None
            yield number, line.removesuffix("\n")


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The document in `text`; keys of an object differ, numbers are finite unless `allow_nan`, and depth is bounded.

    Raises:
        ValueError: it is no such document; a `json.JSONDecodeError` knows line and column.
    """
    parse_float: Callable[[str], float] = _finite
    parse_constant: Callable[[str], float] = _refuse_constant
    if allow_nan:
        parse_float = parse_constant = float
    try:
        document = json.loads(
            text,
            parse_int=_integer,
            parse_float=parse_float,
            parse_constant=parse_constant,
            object_pairs_hook=_without_repeats,
        )
        # Half a character can only come of an escape: as UTF-8 it can't be written.
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            _check_characters(document)
        # What nests deeper has as many brackets, and so is longer.
        if len(text) > MAX_DEPTH:
            _check_depth(document)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return document


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits is too large")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:MAX_DIGITS]} is too large")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; JSON would silently keep the last value of a key that is there twice."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"key {key!r} is there twice")
        seen.add(key)
    return found


def _check_characters(document: Any) -> None:
    """An escape may stand for half a character, which can be neither encoded nor printed."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None


def _check_depth(document: Any) -> None:
    """Level by level, since what is walked here may be too deep for a function that calls itself."""
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        level = [value for value in below if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
