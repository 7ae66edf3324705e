"""A signal that comes while media are decoded or encoded is raised, and never cuts them instead."""

import io
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from autoreap.data.media_files import encode_sound
from autoreap.data.samples import SAMPLING_RATE, Sample, load_audio

SECONDS = 40
NUM_SIGNALS = 60
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, SECONDS * SAMPLING_RATE).astype(np.float32)


@pytest.fixture
def interrupting() -> Iterator[None]:
    """SIGALRM raises as Ctrl-C does."""

    def interrupt(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def results_under_signals(work: Callable[[], Any]) -> tuple[list[Any], int]:
    """What `work` gave while a signal came at every moment of it, and how many were raised."""
    work()  # imports
    started = time.perf_counter()
    work()
    span = time.perf_counter() - started
    results, num_raised = [], 0
    for number in range(NUM_SIGNALS):
        try:
            signal.setitimer(signal.ITIMER_REAL, max(span * number / NUM_SIGNALS, 1e-6))
            result = work()
            signal.setitimer(signal.ITIMER_REAL, 0)
            results.append(result)
        except KeyboardInterrupt:
            num_raised += 1
    return results, num_raised


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.slow
def test_a_recording_is_read_whole_or_not_at_all(kind: str, as_bytes: bool, interrupting: None, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, NOISE, SAMPLING_RATE, format=kind)
    sample = Sample(id="a", where="rows:1", audio=path.read_bytes() if as_bytes else path)
    whole = load_audio(sample)
    results, num_raised = results_under_signals(lambda: load_audio(sample))
    assert num_raised > 0
    assert all(np.array_equal(result, whole) for result in results)


@pytest.mark.slow
def test_a_recording_is_encoded_whole_or_not_at_all(interrupting: None) -> None:
    whole = encode_sound(NOISE, SAMPLING_RATE, "MP3")
    waveform, _ = soundfile.read(io.BytesIO(whole))
    assert abs(len(waveform) - len(NOISE)) < SAMPLING_RATE / 10
    results, num_raised = results_under_signals(lambda: encode_sound(NOISE, SAMPLING_RATE, "MP3"))
    assert num_raised > 0
    assert all(result == whole for result in results)
