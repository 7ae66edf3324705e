"""A file is there whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreap.errors import InputError


def partial_of(path: Path) -> Path:
    """Where `path` is written until it is whole; what a killed process leaves."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, in a folder that is there; a rename makes it `path` at the end of the context.

    Raises:
        InputError: `path` is a directory.
    """
    if path.is_dir():
        raise InputError("is a directory", where=path, fix="name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    yield partial_of(path)
    partial_of(path).replace(path)
