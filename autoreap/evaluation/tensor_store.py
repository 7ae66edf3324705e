"""What is computed once for all candidates: in memory, and from some size on in a mapped file.

The embeddings of 10,000 utterances of ten seconds take some 5 GB for the 30B model. The operating system keeps what is
used of the file in memory, and can take that back. The file has no name, so nothing of it is left, after a crash too.
"""

import os
import tempfile
from typing import IO

import numpy as np
import torch

from autoreap.errors import InputError

DEFAULT_MEMORY_BYTES = 2**30
# Mapped at a time, as a process may have only some 65,000 mappings. A multiple of every page size.
_SEGMENT_BYTES = 2**28
_ALIGNMENT = 64


class TensorStore:
    """Keeps tensors, each with the bits it came with.

    Args:
        memory_bytes: how much is held in memory. What does not fit goes to a file in the folder for temporary files
            (`TMPDIR`), and is mapped from there.
    """

    def __init__(self, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self._room = memory_bytes
        self._file: IO[bytes] | None = None
        self._segment = torch.empty(0, dtype=torch.uint8)
        self._start = 0  # of the segment, in the file
        self._used = 0  # of the segment

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor` on the CPU, not to be written to; `InputError` if the disk has too little room."""
        tensor = tensor.detach().cpu().contiguous()
        if tensor.nbytes <= self._room:
            self._room -= tensor.nbytes
            return tensor.clone()  # all that a view is a part of would stay with it
        try:
            return self._mapped(tensor)
        except OSError as error:
            raise InputError(
                f"no room for the embeddings of media: {error.strerror}",
                where=tempfile.gettempdir(),
                fix="set TMPDIR to a folder on a larger disk",
            ) from None

    def _mapped(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # open while the store is
        if self._used + tensor.nbytes > len(self._segment):
            # Begin another segment. The file is only made longer: it takes room on the disk as it is written to.
            self._start += len(self._segment)
            length = _rounded_up(tensor.nbytes, _SEGMENT_BYTES)
            os.truncate(self._file.fileno(), self._start + length)
            mapping = np.memmap(self._file, dtype=np.uint8, mode="r+", offset=self._start, shape=(length,))
            self._segment = torch.from_numpy(mapping)
            self._used = 0
        place = slice(self._used, self._used + tensor.nbytes)
        # As bytes, since NumPy has no bfloat16.
        unwritten = tensor.view(-1).view(torch.uint8).numpy().data
        # Through the file, as a full disk would end the process where it is written to through the mapping.
        while unwritten:
            written = os.pwrite(self._file.fileno(), unwritten, self._start + place.stop - len(unwritten))
            unwritten = unwritten[written:]
        self._used = _rounded_up(place.stop, _ALIGNMENT)
        return self._segment[place].view(tensor.dtype).view(tensor.shape)


def _rounded_up(number: int, multiple: int) -> int:
    # Floor division of a negative number rounds away from zero.
    return -(-number // multiple) * multiple
