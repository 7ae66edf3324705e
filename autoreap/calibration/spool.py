"""Tensors that wait on disk for their next use, in a folder that is gone at the end."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autoreap.errors import AutoreapError, InputError
from autoreap.files import exclusive, own_directory


def spool_beside(output: Path) -> Path:
    """The folder for the hidden states of a measurement for `output`."""
    return output.with_name(f".{output.name}.spool")


class Spool:
    """Hidden states, and what else the decoder was given, in files of a folder."""

    def __init__(self, folder: Path, free_bytes: int) -> None:
        self._folder = folder
        self._free_bytes = free_bytes  # when it was empty
        self.most_bytes = 0

    def reserve(self, num_bytes: int) -> None:
        """Count on `num_bytes` more; `InputError` if they are not free."""
        self.most_bytes += num_bytes
        self.check(self.most_bytes)

    def check(self, num_bytes: int) -> None:
        """`InputError` if the spool has no room for `num_bytes` in all."""
        if num_bytes > self._free_bytes:
            problem = (
                f"hidden states need {num_bytes / 1e9:.2f} GB on disk, but {self._free_bytes / 1e9:.2f} GB are free"
            )
            raise InputError(problem, where=self._folder.parent, fix="free some space, or calibrate on fewer rows")

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the file `name`; `AutoreapError` if it can't be."""
        # safetensors refuses views that are not contiguous.
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, self._folder / name)
        except (SafetensorError, OSError) as error:
            raise AutoreapError(f"{self._folder}: hidden states can't be written: {error}") from None

    def load(self, name: str, device: torch.device) -> dict[str, torch.Tensor]:
        """What `save` wrote as `name`."""
        return load_file(self._folder / name, device=str(device))

    def remove(self, name: str) -> None:
        """Delete the file `name`."""
        (self._folder / name).unlink()


@contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """An empty spool; what a killed process left there goes, and so does everything at the end."""
    # All that lies in it is deleted, and its name can be guessed: it must be this user's own.
    own_directory(folder)
    lock = folder.with_name(f"{folder.name}.lock")
    with exclusive(lock, "another calibration keeps its hidden states here", fix="wait for it, or use another -o"):
        try:
            for left in folder.iterdir():
                left.unlink()
            yield Spool(folder, shutil.disk_usage(folder).free)
        finally:
            shutil.rmtree(folder)
