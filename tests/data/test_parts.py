from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from autoreap.data.parts import check_whole
from autoreap.errors import InputError


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds and a half of two channels."""
    soundfile.write(tmp_path / "a.wav", np.zeros((40_000, 2)), 16_000)
    return tmp_path / "a.wav"


@pytest.mark.parametrize(
    "row",
    [
        *({"offset": 0.5}, {"offset": 0.5, "duration": 1.0}, {"duration": 1.0}, {"offset": 0, "duration": 1}),
        *({"start": 0.2, "end": 1.2}, {"start_time": "0.5", "end_time": "1.5"}, {"end": 1.5}, {"begin": 1}),
        *({"offset": -1}, {"channel": 1}, {"channel_selector": "0"}),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_row_that_means_a_part_of_its_recording_is_refused(
    row: dict[str, Any], as_bytes: bool, recording: Path
) -> None:
    key = next(iter(row))
    with pytest.raises(InputError, match=rf"^rows:3: names .*{key}.*cut the part out"):
        check_whole(row, recording.read_bytes() if as_bytes else recording, "rows:3")


@pytest.mark.parametrize(
    "row",
    [
        *({}, {"offset": 0}, {"offset": 0.0, "duration": 2.5}, {"duration": 2.46}, {"duration": 2}, {"duration": None}),
        *({"start": 5300.5, "end": 5303.0}, {"start": 5300.5}, {"start": "2020-01-01"}, {"end": [1]}, {"start": True}),
        *({"duration": 2500}, {"channel": "BBC"}, {"duration": ""}),
    ],
)
def test_a_row_that_means_all_of_its_recording_is_heard(row: dict[str, Any], recording: Path) -> None:
    check_whole(row, recording, "rows:3")


def test_a_recording_that_is_broken_or_not_there_is_told_of_later(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    for audio in (tmp_path / "a.wav", b"RIFF", None):
        check_whole({"offset": 1}, audio, "rows:3")
