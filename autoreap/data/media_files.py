"""Media as files that C reads and writes by itself.

A decoder that is handed Python's bytes calls back into Python for each part of them. A signal that comes within such a
call is swallowed by it, and what is decoded or encoded ends there as if it were complete.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Media = Path | bytes  # a file, or its encoded bytes


@contextmanager
def opened_sound(media: Media) -> Iterator[Any]:
    """soundfile's `SoundFile` of a recording; raises as soundfile does, and `OSError`."""
    import soundfile

    # `closefd=False`, as the file closes its descriptor itself.
    with _opened(media) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
        yield sound


def encode_sound(waveform: Any, sampling_rate: int, kind: str) -> bytes:
    """The bytes of a file of this kind, such as `MP3`."""
    import soundfile

    with _scratch() as file:
        soundfile.write(file.fileno(), waveform, sampling_rate, format=kind, closefd=False)
        file.seek(0)
        return file.read()


@contextmanager
def named(media: Media) -> Iterator[str]:
    """The path of a file that holds `media`; of bytes there is one within the context."""
    if isinstance(media, Path):
        yield str(media)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(media)
        file.flush()
        yield file.name


def _opened(media: Media) -> IO[bytes]:
    if isinstance(media, Path):
        return media.open("rb")
    file = _scratch()
    file.write(media)
    file.seek(0)
    return file


def _scratch() -> IO[bytes]:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("media"), "w+b")
    return tempfile.TemporaryFile()
