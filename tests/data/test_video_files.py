import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import encode_video

from autoreap.data.samples import Sample, load_frames
from autoreap.data.video_files import MAX_FRAMES, num_sampled, sampled_frames, size_from_header
from autoreap.errors import InputError, MediaError

IDENTITY = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000]  # an mp4's display matrix
QUARTER_TURN = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]  # clockwise
WHERE = "rows.jsonl:3"


def brightness(image: Any) -> float:
    return float(np.asarray(image)[24:, 24:].mean())


KINDS = [("mp4", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx"), ("matroska", "mpeg4"), ("avi", "mpeg4")]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_frames_lie_evenly_in_time_one_a_second(kind: str, codec: str) -> None:
    frames = sampled_frames(encode_video(40, kind=kind, codec=codec), WHERE)
    assert len(frames.images) == 10
    assert frames.seconds_apart == pytest.approx(1.0, abs=0.03)
    shown = [brightness(image) for image in frames.images]
    assert shown == pytest.approx([250 * (4 * second + 2) / 39 for second in range(10)], abs=8)
    assert {(image.mode, image.size) for image in frames.images} == {("RGB", (64, 48))}


def test_a_long_video_is_sampled_up_to_the_bound_all_the_way_through() -> None:
    frames = sampled_frames(encode_video(400), WHERE)
    assert len(frames.images) == MAX_FRAMES
    assert frames.seconds_apart == pytest.approx(100 / MAX_FRAMES, rel=0.01)
    shown = [brightness(image) for image in frames.images]
    assert shown == pytest.approx([250 * (number + 0.5) / MAX_FRAMES for number in range(MAX_FRAMES)], abs=8)


@pytest.mark.parametrize(("num_frames", "rate"), [(1, 4), (2, 10), (3, 10)])
def test_a_short_video_gives_one_frame(num_frames: int, rate: int) -> None:
    assert len(sampled_frames(encode_video(num_frames, rate=rate), WHERE).images) == 1


@pytest.mark.parametrize(("seconds", "expected"), [(0, 1), (0.4, 1), (1.6, 2), (10, 10), (32, 32), (3600, MAX_FRAMES)])
def test_how_many_frames_a_video_gives(seconds: float, expected: int) -> None:
    assert num_sampled(seconds) == expected


def test_a_file_and_its_bytes_give_the_same_frames_each_time(tmp_path: Path) -> None:
    video = encode_video(12)
    (tmp_path / "clip.mp4").write_bytes(video)
    results = [sampled_frames(media, WHERE) for media in (video, tmp_path / "clip.mp4", tmp_path / "clip.mp4")]
    pixels = [[image.tobytes() for image in frames.images] for frames in results]
    assert pixels[0] == pixels[1] == pixels[2]


def test_a_video_taken_with_the_phone_upright_is_upright() -> None:
    video = encode_video(4)
    as_bytes = [b"".join(value.to_bytes(4, "big", signed=True) for value in m) for m in (IDENTITY, QUARTER_TURN)]
    assert video.count(as_bytes[0]) == 2  # of the film and of its track
    start = video.rindex(as_bytes[0])
    turned = video[:start] + as_bytes[1] + video[start + 36 :]
    (image,) = sampled_frames(turned, WHERE).images
    assert image.size == (48, 64)
    red, green, _ = np.asarray(image)[4, 44].astype(int)  # the top left corner, turned clockwise
    assert red > 180
    assert green < 80


def test_the_header_tells_what_will_be_sampled() -> None:
    assert size_from_header(encode_video(12), WHERE) == (3, 64, 48)


@pytest.mark.parametrize("content", [b"", b"no film at all", None], ids=["empty", "text", "gone"])
def test_what_is_no_video_is_refused_with_its_row(content: bytes | None, tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (sampled_frames, size_from_header):
        with pytest.raises(MediaError, match=r"^rows\.jsonl:3: video can't be decoded: \w"):
            read(path, WHERE)


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_of_a_video_cut_short_what_is_left_counts_where_its_form_can_be_read_so_far(kind: str, codec: str) -> None:
    whole = encode_video(40, kind=kind, codec=codec)
    cut = whole[: len(whole) // 2]
    if kind in ("webm", "matroska"):
        assert 1 <= len(sampled_frames(cut, WHERE).images) < 10
    else:
        with pytest.raises(MediaError, match=r"^rows\.jsonl:3: video can't be decoded: \w"):
            sampled_frames(cut, WHERE)


def test_a_recording_named_as_a_video_is_refused() -> None:
    pytest.importorskip("av")
    from builders import wav_bytes

    with pytest.raises(MediaError, match=r"^rows\.jsonl:3: video can't be decoded: it is in no format of videos"):
        sampled_frames(wav_bytes(), WHERE)


def test_the_frames_of_a_row_are_those_of_its_video_file(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(encode_video(12))
    frames = load_frames(Sample(id="v", where=WHERE, modality="video", video=tmp_path / "clip.mp4"))
    assert frames is not None
    assert len(frames.images) == 3


@pytest.mark.skipif(importlib.util.find_spec("av") is not None, reason="PyAV is installed")
def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^rows\.jsonl:3: video files need PyAV.*autoreap\[video\]") as failure:
        sampled_frames(tmp_path / "clip.mp4", WHERE)
    assert not isinstance(failure.value, MediaError)  # no fault of the row, so it is never left out
