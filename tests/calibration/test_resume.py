"""Calibration that is killed goes on where its last save left it, and ends with the bits it would have had."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import wav_bytes
from measured import assert_same_bits
from PIL import Image

from autoreap import jobs
from autoreap.calibration import resume
from autoreap.calibration.batching import batches
from autoreap.calibration.calibrator import Options, identity
from autoreap.calibration.resume import Part, ResumeFile, lock_resume_file
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.models.loading import Loaded, load, open_model
from autoreap.saliency import Saliency, load_saliency

OPTIONS = Options(batch_tokens=1, max_unreadable=0.3)  # a row a batch
NUM_BATCHES = 19
Data = Mapping[str, Sequence[Sample]]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(open_model("tiny"), speech=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Rows of every kind, two weights, and a recording that can't be read."""
    picture = tmp_path_factory.mktemp("images") / "red.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    spoken = [
        Sample(id=str(number), where=f"a.jsonl:{number}", audio=wav_bytes(6_000 + 900 * number), text="one two")
        for number in range(9)
    ]
    broken = Sample(id="broken", where="a.jsonl:9", audio=wav_bytes(9_000)[:60])
    text = Sample(id="text", where="a.jsonl:10", text="one two three")
    heavy = [replace(sample, id=f"heavy {sample.id}", weight=2.5) for sample in (*spoken[3:8], text)]
    seen = Sample(id="seen", where="v.jsonl:1", modality="video", image=picture, text="red")
    return {
        "audio": [*spoken, broken, text, *heavy],
        "video": [replace(seen, weight=weight) for weight in (1, 3)],
        "mixed": [Sample(id="m", where="m.jsonl:1", modality="mixed", audio=wav_bytes(17_000), image=picture)],
    }


@pytest.fixture(scope="module")
def uninterrupted(loaded: Loaded, data: Data) -> Saliency:
    return jobs.calibrated(loaded, data, options=OPTIONS)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is saved."""
    monkeypatch.setattr(resume, "SAVE_INTERVAL_SECONDS", 0.0)


@contextmanager
def passes(loaded: Loaded, component: str = "thinker", *, interrupt_at: int | None = None) -> Iterator[list[int]]:
    """Counts the forward passes of a decoder; at number `interrupt_at` the user presses Ctrl-C."""
    counted: list[int] = []

    def hook(*_arguments: Any) -> None:
        counted.append(1)
        if len(counted) == interrupt_at:
            raise KeyboardInterrupt

    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, component)
    handle = decoder.layers[0].register_forward_pre_hook(hook)
    try:
        yield counted
    finally:
        handle.remove()


def interrupted(loaded: Loaded, data: Data, output: Path, after: int, options: Options = OPTIONS) -> Path:
    """The resume file that a measurement leaves which ends in its forward pass number `after` + 1."""
    with passes(loaded, interrupt_at=after + 1), pytest.raises(KeyboardInterrupt):
        jobs.calibrated(loaded, data, options=options, output=output)
    return output.with_name(f".{output.name}.resume")


def saved_parts(loaded: Loaded, data: Data, path: Path) -> dict[str, Part]:
    known = identity(loaded, data, components=("thinker",), options=OPTIONS)
    file = ResumeFile(path, known)
    return {modality: file.part(f"thinker.{modality}") for modality in data}


def num_batches_left(loaded: Loaded, data: Data, parts: Mapping[str, Part]) -> int:
    left = 0
    for modality, samples in data.items():
        start = parts[modality].position
        left += len(list(batches(loaded.inputs, samples, 1, max_unreadable=0.3, start=start)))
    return left


def in_a_child(work: Callable[[], object]) -> int:
    """The id of a new process that does `work`, on a copy of all that is in memory."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def wait_for_a_save(path: Path, before: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits_and_computes_no_saved_batch_again(
    loaded: Loaded, data: Data, uninterrupted: Saliency, eager: None, tmp_path: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    output, path = tmp_path / "saliency.safetensors", tmp_path / ".saliency.safetensors.resume"
    for _ in range(3):
        before = path.stat().st_mtime_ns if path.exists() else 0
        child = in_a_child(lambda: jobs.calibrated(loaded, data, options=OPTIONS, output=output))
        wait_for_a_save(path, before)
        time.sleep(random.uniform(0, 0.03))
        kill(child)
        if output.exists():  # it was faster
            break
    expected = 0 if output.exists() else num_batches_left(loaded, data, saved_parts(loaded, data, path))
    with passes(loaded) as counted:
        saliency = jobs.calibrated(loaded, data, options=OPTIONS, output=output)
    assert len(counted) == expected < NUM_BATCHES
    assert_same_bits(saliency, uninterrupted)
    assert_same_bits(load_saliency(output), uninterrupted)


@pytest.mark.parametrize("after", range(1, NUM_BATCHES))
@pytest.mark.slow
def test_interrupted_after_any_batch_it_ends_with_the_same_bits(
    loaded: Loaded, data: Data, uninterrupted: Saliency, eager: None, tmp_path: Path, after: int
) -> None:
    """Within a weight, between two, between modalities."""
    output = tmp_path / "saliency.safetensors"
    interrupted(loaded, data, output, after)
    with passes(loaded) as counted:
        saliency = jobs.calibrated(loaded, data, options=OPTIONS, output=output)
    assert len(counted) == NUM_BATCHES - after
    assert_same_bits(saliency, uninterrupted)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_padded_batches_go_on_alike(loaded: Loaded, data: Data, eager: None, tmp_path: Path) -> None:
    options = replace(OPTIONS, batch_tokens=100, gates="raw", tokens="prompt")
    expected = jobs.calibrated(loaded, data, options=options)
    interrupted(loaded, data, tmp_path / "s.safetensors", 3, options)
    assert_same_bits(jobs.calibrated(loaded, data, options=options, output=tmp_path / "s.safetensors"), expected)


@pytest.mark.slow
def test_the_talker_goes_on_alike(loaded: Loaded, data: Data, eager: None, tmp_path: Path) -> None:
    """Interrupted while it says its second row, the shorter one."""
    shorter, longer = data["audio"][:2]
    output = tmp_path / "s.safetensors"
    with passes(loaded, "talker") as of_both:
        expected = jobs.calibrated(loaded, {"audio": [shorter, longer]}, ("talker",))
    with passes(loaded, "talker") as of_longer:
        jobs.calibrated(loaded, {"audio": [longer]}, ("talker",))
    with passes(loaded, "talker", interrupt_at=len(of_longer) + 2), pytest.raises(KeyboardInterrupt):
        jobs.calibrated(loaded, {"audio": [shorter, longer]}, ("talker",), output=output)
    torch.manual_seed(3)
    with passes(loaded, "talker") as of_shorter:
        resumed = jobs.calibrated(loaded, {"audio": [shorter, longer]}, ("talker",), output=output)
    assert_same_bits(resumed, expected)
    assert len(of_shorter) == len(of_both) - len(of_longer)


def test_nothing_is_saved_before_its_time(loaded: Loaded, data: Data, tmp_path: Path) -> None:
    assert not interrupted(loaded, data, tmp_path / "s.safetensors", 5).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_log_line_says_from_where_it_goes_on(
    loaded: Loaded, data: Data, eager: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted(loaded, data, tmp_path / "s.safetensors", 18)
    capsys.readouterr()
    jobs.calibrated(loaded, data, options=OPTIONS, output=tmp_path / "s.safetensors")
    assert f"resuming from {path}: thinker.audio after 17 rows, thinker.video after 2 rows\n" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["tokens", "data", "components"])
def test_what_another_measurement_left_is_not_gone_on_with(
    loaded: Loaded, data: Data, uninterrupted: Saliency, eager: None, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], change: str,
) -> None:  # fmt: skip
    output = tmp_path / "s.safetensors"
    options = replace(OPTIONS, tokens="prompt") if change == "tokens" else OPTIONS
    other = {**data, "video": data["video"][::-1]} if change == "data" else data
    components = ("thinker", "talker") if change == "components" else ("thinker",)
    with passes(loaded, interrupt_at=12), pytest.raises(KeyboardInterrupt):
        jobs.calibrated(loaded, other, components, options=options, output=output)
    capsys.readouterr()
    assert_same_bits(jobs.calibrated(loaded, data, options=OPTIONS, output=output), uninterrupted)
    differs = {"tokens": "tokens", "data": "data.video", "components": "components"}[change]
    assert f"is of another measurement ({differs} differ)" in capsys.readouterr().err


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "no header": lambda content: b"\xff" * 8 + content[8:],
    "metadata": lambda content: content.replace(b"num_rows", b"num_cows"),
    "a weight that is no number": lambda content: content.replace(b'weight\\": 1.0', b'weight\\": [ ]'),
    "of another format": lambda content: content.replace(b"autoreap.resume.1", b"autoreap.resume.0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.slow
def test_a_damaged_file_is_ignored_and_overwritten(
    loaded: Loaded, data: Data, uninterrupted: Saliency, eager: None, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], damage: str,
) -> None:  # fmt: skip
    output = tmp_path / "s.safetensors"
    path = interrupted(loaded, data, output, 5)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    capsys.readouterr()
    interrupted(loaded, data, output, 3)
    assert "starting anew: " in capsys.readouterr().err
    assert saved_parts(loaded, data, path)["audio"].position.num_rows == 3
    assert_same_bits(jobs.calibrated(loaded, data, options=OPTIONS, output=output), uninterrupted)


def test_two_measurements_for_one_file_at_once_are_refused(loaded: Loaded, data: Data, tmp_path: Path) -> None:
    output = tmp_path / "s.safetensors"
    with (
        lock_resume_file(output),
        pytest.raises(InputError, match=r"another process that writes .*s\.safetensors is"),
    ):
        jobs.calibrated(loaded, data, options=OPTIONS, output=output)
    jobs.calibrated(loaded, data, options=OPTIONS, output=output)


def test_two_measurements_for_one_cache_at_once_are_made_once(
    loaded: Loaded, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = jobs.calibrated(loaded, data, options=OPTIONS, cache=tmp_path / "first")
    (saved,) = (tmp_path / "first").iterdir()
    output = tmp_path / "second" / saved.name

    def measure() -> None:
        with lock_resume_file(output):
            (tmp_path / "begun").touch()
            time.sleep(1)
            shutil.copy(saved, output)

    child = in_a_child(measure)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert_same_bits(jobs.calibrated(loaded, data, options=OPTIONS, cache=output.parent), first)
    os.waitpid(child, 0)
    said = capsys.readouterr().err
    assert "another process measures the same; waiting for it" in said
    assert "saliency measured before" in said


def test_processes_that_come_and_go_never_write_one_file_together(tmp_path: Path) -> None:
    """The lock goes with each of them: who had opened it before must not hold one that is no longer there."""
    inside, counts = tmp_path / "inside", tmp_path / "counts"

    def work() -> None:
        alone, deadline = 0, time.monotonic() + 1
        while time.monotonic() < deadline:
            with suppress(InputError), lock_resume_file(tmp_path / "s.safetensors"):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                os.sched_yield()
                inside.unlink()
                alone += 1
        (counts / str(os.getpid())).write_text(str(alone))

    counts.mkdir()
    for child in [in_a_child(work) for _ in range(3)]:
        os.waitpid(child, 0)
    ended = [int(path.read_text()) for path in counts.iterdir()]
    assert len(ended) == 3  # another one inside, or a lock that is gone, would have ended it
    assert sum(ended) > 10


def test_a_killed_process_holds_up_nobody(loaded: Loaded, data: Data, eager: None, tmp_path: Path) -> None:
    output = tmp_path / "s.safetensors"
    child = in_a_child(lambda: jobs.calibrated(loaded, data, options=OPTIONS, output=output))
    wait_for_a_save(tmp_path / ".s.safetensors.resume", 0)
    with pytest.raises(InputError, match="another process that writes"):
        jobs.calibrated(loaded, data, options=OPTIONS, output=output)
    kill(child)
    assert (tmp_path / ".s.safetensors.lock").exists()
    jobs.calibrated(loaded, data, options=OPTIONS, output=output)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_the_cache_goes_on_too(
    loaded: Loaded, data: Data, uninterrupted: Saliency, eager: None, tmp_path: Path
) -> None:
    with passes(loaded, interrupt_at=8), pytest.raises(KeyboardInterrupt):
        jobs.calibrated(loaded, data, options=OPTIONS, cache=tmp_path)
    with passes(loaded) as counted:
        assert_same_bits(jobs.calibrated(loaded, data, options=OPTIONS, cache=tmp_path), uninterrupted)
    assert len(counted) == NUM_BATCHES - 7
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_holds_exactly_this_measurement_is_left_as_it_is(
    loaded: Loaded, data: Data, uninterrupted: Saliency, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.safetensors"
    uninterrupted.save(output)
    written = output.stat().st_mtime_ns
    with passes(loaded) as counted:
        assert_same_bits(jobs.calibrated(loaded, data, options=OPTIONS, output=output), uninterrupted)
    assert counted == []
    assert output.stat().st_mtime_ns == written
    assert f"saliency measured before: {output}\n" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["another measurement", "no measurement"])
def test_a_file_of_something_else_is_overwritten(
    loaded: Loaded, data: Data, uninterrupted: Saliency, tmp_path: Path, there: str
) -> None:
    output = tmp_path / "s.safetensors"
    output.write_bytes(b"something else")
    if there == "another measurement":
        jobs.calibrated(loaded, {"audio": data["audio"][:1]}, options=OPTIONS, output=output)
    jobs.calibrated(loaded, data, options=OPTIONS, output=output)
    assert_same_bits(load_saliency(output), uninterrupted)


def test_a_folder_as_the_output_is_refused_before_anything_is_measured(
    loaded: Loaded, data: Data, tmp_path: Path
) -> None:
    with passes(loaded) as counted, pytest.raises(InputError, match="is a directory"):
        jobs.calibrated(loaded, data, options=OPTIONS, output=tmp_path)
    assert counted == []


def test_the_cache_knows_a_measurement_whatever_the_order_of_its_modalities(
    loaded: Loaded, data: Data, tmp_path: Path
) -> None:
    few = {modality: samples[:1] for modality, samples in data.items()}
    for each in (few, dict(reversed(few.items()))):
        jobs.calibrated(loaded, each, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
