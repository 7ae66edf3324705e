"""What all candidates share: the same bits from memory and from disk, and nothing left behind."""

import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pages import ROOT

from autoreap.errors import InputError
from autoreap.evaluation.tensor_store import TensorStore


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def random_tensors(num_tensors: int, *, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((length % 7 + 1, 33), generator=generator).to(dtype) for length in range(num_tensors)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_bytes", [0, 1000, 2**30])
def test_tensors_have_the_bits_they_came_with(dtype: torch.dtype, memory_bytes: int, scratch: Path) -> None:
    tensors = random_tensors(50, dtype=dtype)
    tensors[3][0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    store = TensorStore(memory_bytes)
    kept = [store.keep(tensor) for tensor in tensors]
    for tensor, one in zip(tensors, kept, strict=True):
        assert (one.dtype, one.shape) == (tensor.dtype, tensor.shape)
        assert one.view(torch.uint8).equal(tensor.view(torch.uint8))


def test_a_part_of_a_tensor_is_kept_without_the_rest_of_it(scratch: Path) -> None:
    whole = torch.arange(10_000.0).view(100, 100)
    for store in (TensorStore(), TensorStore(0)):
        kept = store.keep(whole[:, 3:5])
        assert kept.equal(whole[:, 3:5])
    assert TensorStore().keep(whole[:, 3:5]).untyped_storage().nbytes() == 100 * 2 * 4


def test_tensors_outlive_the_store_and_many_segments_are_mapped(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoreap.evaluation.tensor_store._SEGMENT_BYTES", 2**16)
    tensors = [*random_tensors(400, dtype=torch.float32), torch.arange(50_000.0)]
    store = TensorStore(0)
    kept = [store.keep(tensor) for tensor in tensors]
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None
    assert all(one.equal(tensor) for one, tensor in zip(kept, tensors, strict=True))


def test_memory_that_is_used_does_not_grow_with_what_is_on_disk(scratch: Path) -> None:
    """Pages of the file count as shared, and can be taken back at any time; anonymous memory can't."""
    store = TensorStore(2**20)
    before = private_bytes()
    kept = [store.keep(torch.full((1 << 18,), float(number))) for number in range(200)]
    assert sum(tensor.nbytes for tensor in kept) == 200 * 2**20
    assert private_bytes() - before < 20 * 2**20
    assert [float(tensor[-1]) for tensor in kept] == list(range(200))


def private_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_no_file_has_a_name_and_a_kill_leaves_none(scratch: Path) -> None:
    store = TensorStore(0)
    store.keep(torch.ones(1000))
    assert list(scratch.iterdir()) == []
    program = (
        "import os, signal, torch\nfrom autoreap.evaluation.tensor_store import TensorStore\n"
        "TensorStore(0).keep(torch.ones(1000))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(scratch.iterdir()) == []


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_too_little_room_on_the_disk_is_said_with_the_folder_and_what_to_do(scratch: Path) -> None:
    with files_of_at_most(50_000), pytest.raises(InputError) as caught:
        TensorStore(0).keep(torch.ones(1000))
    assert str(caught.value).startswith(f"{scratch}: no room for the embeddings of media")
    assert "TMPDIR" in str(caught.value)
