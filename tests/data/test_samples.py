import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from builders import wav_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autoreap.data.samples import Sample, contents, digest, load_audio, load_frames, read_samples, spread
from autoreap.errors import InputError, MediaError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "media" / name).write_bytes(wav_bytes(1600 if name == "a.wav" else 800))
    for name in ("0.png", "1.png"):
        (tmp_path / "media" / name).write_bytes(name.encode())
    return tmp_path


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_are_read_with_their_media_beside_the_file(folder: Path) -> None:
    path = write(
        folder,
        {"id": "x", "audio": "media/a.wav", "text": "hello", "language": "en", "kind": "made", "ours": 1},
        "",
        {
            "id": 7,
            "modality": "mixed",
            "image": "media/0.png",
            "question": "what?",
            "answer": "B",
            "choices": ["A", "B"],
        },
        {"id": "v", "modality": "video", "video": ["media/0.png", "media/1.png"], "text": None},
        {"id": "f", "modality": "video", "video": "media/0.png"},
        {"id": "t", "text": "text alone"},
    )
    media = folder / "media"
    assert read_samples(path) == [
        Sample(id="x", where=f"{path}:1", audio=media / "a.wav", text="hello", language="en", kind="made"),
        Sample(
            id="7", where=f"{path}:3", modality="mixed", image=media / "0.png",
            question="what?", answer="B", choices=("A", "B"),
        ),
        Sample(id="v", where=f"{path}:4", modality="video", video=(media / "0.png", media / "1.png")),
        Sample(id="f", where=f"{path}:5", modality="video", video=media / "0.png"),
        Sample(id="t", where=f"{path}:6", text="text alone"),
    ]  # fmt: skip


def test_a_row_that_names_no_modality_is_of_the_one_that_is_asked_for(folder: Path) -> None:
    path = write(folder, {"id": "a", "image": "media/0.png"}, {"id": "b", "modality": "mixed", "audio": "media/a.wav"})
    assert [sample.modality for sample in read_samples(path, modality="video")] == ["video", "mixed"]
    assert [sample.modality for sample in read_samples(path)] == ["audio", "mixed"]


def test_a_row_may_hold_any_character_that_json_allows(folder: Path) -> None:
    text = "line\u2028next\u0085 你好"
    assert [sample.text for sample in read_samples(write(folder, {"id": 1, "text": text}, {"id": 2}))] == [text, None]


def test_a_blank_text_is_none_where_a_text_is_needed(folder: Path) -> None:
    path = write(folder, {"id": "a", "text": "x"}, {"id": "b", "text": "  "})
    assert len(read_samples(path)) == 2
    with pytest.raises(InputError, match=r"rows\.jsonl:2: key 'text' is blank"):
        read_samples(path, ("text",))


def test_a_file_may_begin_with_the_mark_that_windows_writes(folder: Path) -> None:
    path = write(folder, {"id": "a", "text": "x"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [sample.text for sample in read_samples(path)] == ["x"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "b", "text": "x"', r":2:\d+: not JSON"),
        ("[1, 2]", ":2: each line must be a JSON object"),
        ("7", ":2: each line must be a JSON object"),
        ({"id": "a"}, r":2: id 'a' was used before, at .*rows\.jsonl:1"),
        ({"text": "x"}, ":2: key 'id' is missing"),
        ({"id": "", "text": "x"}, ":2: key 'id' is empty"),
        ({"id": ["b"], "text": "x"}, ":2: id.*: must be a string"),
        ({"id": "b", "text": ["x"]}, ":2: text: must be a string"),
        ({"id": "b", "text": {"en": "x"}}, ":2: text: must be a string"),
        ('{"id": "b", "text": "x \\ud83d"}', ":2: a text holds half a character"),
        ('{"id": "b", "question": "x \\ude00"}', ":2: a text holds half a character"),
        ('{"id": "b", "answer": "x", "choices": ["x", "\\ud83d"]}', ":2: a text holds half a character"),
        ({"id": "b", "audio": "gone.wav"}, r":2: no such media file: .*gone\.wav .*relative to the JSONL"),
        ({"id": "b", "audio": "media"}, ":2: not a file: .*media"),
        (
            {"id": "b", "audio": "https://example.com/a.wav"},
            ":2: audio: addresses are not fetched: https://example.com/a.wav",
        ),
        ({"id": "b", "video": ["media/0.png", "https://x/1.png"]}, ":2: video: addresses are not fetched: https://x/1"),
        ('{"id": "b", "text": "red", "text": "blue"}', ":2: key 'text' is there twice"),
        ({"id": "b", "video": ["media/0.png", "2.png"]}, r":2: no such media file: .*2\.png"),
        ({"id": "b", "video": "clip.mp4"}, r":2: no such media file: .*clip\.mp4"),
        ({"id": "b", "video": 7}, ":2: video: must be a video file or a list of frames, got 7"),
        ({"id": "b", "video": ["media/0.png", 2]}, ":2: video: must be a video file or a list of frames"),
        ({"id": "b", "text": 7}, ":2: text: must be a string, got 7"),
        ({"id": "b", "choices": "cat, dog"}, ":2: choices: must be a list, got 'cat, dog'"),
        ({"id": "b", "choices": ["cat", 1]}, ":2: choices.1: must be a string, got 1"),
        ({"id": "b", "modality": "smell"}, ":2: modality: must be one of audio, video, mixed, got 'smell'"),
    ],
)
def test_a_broken_row_is_refused_with_file_and_line(row: Any, message: str, folder: Path) -> None:
    path = write(folder, {"id": "a", "text": "x"}, row)
    with pytest.raises(InputError, match=f"^{path}{message}"):
        read_samples(path)


@pytest.mark.parametrize(
    ("row", "problem"),
    [({"id": "b"}, "missing"), ({"id": "b", "text": ""}, "empty"), ({"id": "b", "text": None}, "missing")],
)
def test_a_row_without_a_required_key_is_refused_with_file_line_and_key(
    row: dict[str, Any], problem: str, folder: Path
) -> None:
    path = write(folder, {"id": "a", "text": "x"}, row)
    assert len(read_samples(path)) == 2
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: key 'text' is {problem}"):
        read_samples(path, required=("text",))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_rows_is_refused_by_name(content: bytes, folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    for place in (path, folder, folder / "none.jsonl"):
        with pytest.raises(InputError, match=f"^{place}:"):
            read_samples(place)


def test_the_digest_follows_contents_and_not_places(folder: Path) -> None:
    sample = Sample(id="a", where="here:1", audio=folder / "media" / "a.wav", text="hello")
    moved = replace(sample, where="there:9", audio=(folder / "media" / "a.wav").read_bytes())
    assert digest([sample]) == digest([moved])
    others = [
        [replace(sample, text="hullo")],
        [replace(sample, id="b")],
        [replace(sample, weight=2.0)],
        [replace(sample, audio=folder / "media" / "b.wav")],
        [sample, sample],
        [],
    ]
    assert len({digest(samples) for samples in ([sample], *others)}) == 7
    assert contents(sample) == contents(replace(sample, id="b", text=None))
    assert contents(sample) != contents(replace(sample, audio=folder / "media" / "b.wav"))


def test_a_recording_that_is_written_anew_has_another_digest_though_it_was_known_before(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sample = Sample(id="a", where="here", audio=path)
    path.write_bytes(wav_bytes())
    first = contents(sample)
    assert contents(sample) == first
    changed = bytearray(wav_bytes())
    changed[-1] ^= 1  # as long as before
    path.write_bytes(changed)
    os.utime(path, ns=(0, 1))  # clocks of file systems tick some times a second
    assert contents(sample) != first


def sine(frequency: float, num_samples: int, sampling_rate: int) -> Any:
    return np.sin(np.arange(num_samples) * 2 * np.pi * frequency / sampling_rate)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["file", "bytes"])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_audio_of_any_rate_and_layout_becomes_mono_at_16_khz(suffix: str, as_bytes: bool, tmp_path: Path) -> None:
    path = tmp_path / f"stereo.{suffix}"
    left = 0.5 * sine(440, 44_100, 44_100)
    soundfile.write(path, np.stack([left, 0 * left], axis=1), 44_100)
    waveform = load_audio(Sample(id="a", where="rows:1", audio=path.read_bytes() if as_bytes else path))
    assert (waveform.shape, waveform.dtype.name) == ((16_000,), "float32")
    middle, expected = waveform[2000:14_000], 0.25 * sine(440, 16_000, 16_000)[2000:14_000]
    assert np.abs(middle - expected).max() < 0.02


def test_mono_audio_at_16_khz_is_read_as_it_is(tmp_path: Path) -> None:
    samples = np.linspace(-1, 1, 500, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert np.array_equal(load_audio(Sample(id="a", where="rows:1", audio=tmp_path / "a.wav")), samples)


@pytest.mark.parametrize("content", [b"", b"RIFF nonsense", wav_bytes()[:20], wav_bytes(0), None])
@pytest.mark.parametrize("as_bytes", [False, True], ids=["file", "bytes"])
def test_audio_that_is_broken_empty_or_gone_is_refused_with_its_row(
    content: bytes | None, as_bytes: bool, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    sample = Sample(id="a", where="rows.jsonl:3", audio=content if as_bytes else tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"^rows\.jsonl:3: (audio|has no audio)") as failure:
        load_audio(sample)
    assert isinstance(failure.value, MediaError) == (sample.audio is not None)


@pytest.mark.parametrize(("channels", "sampling_rate"), [(1, 16_000), (2, 44_100)])
def test_audio_that_is_not_finite_is_refused_with_its_row(channels: int, sampling_rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((100, channels), np.nan), sampling_rate, subtype="FLOAT")
    with pytest.raises(InputError, match=r"rows\.jsonl:3: audio can't be decoded: .*not finite"):
        load_audio(Sample(id="a", where="rows.jsonl:3", audio=tmp_path / "a.wav"))


@pytest.mark.parametrize("channels", [1, 2])
def test_digital_silence_is_told_once_with_its_row(
    channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = sine(440, 8000, 16_000)
    waveform = np.stack([left, -left], axis=1) if channels == 2 else np.zeros(8000)
    soundfile.write(tmp_path / "a.wav", waveform, 16_000)
    sample = Sample(id="a", where=f"{tmp_path}/rows.jsonl:3", audio=tmp_path / "a.wav")
    for _ in range(2):
        load_audio(sample)
    (message,) = caplog.messages
    assert message.startswith(f"{sample.where}: the recording is digital silence")


def test_a_quiet_recording_is_no_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "a.wav", 0.001 * sine(440, 8000, 16_000), 16_000)
    load_audio(Sample(id="a", where="rows.jsonl:3", audio=tmp_path / "a.wav"))
    assert not caplog.messages


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures of one size and one of another."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, ((64, 48), (64, 48), (48, 64)), strict=True):
        Image.new("RGB", size, "red").save(path)
    return paths


def test_the_image_or_the_frames_of_a_row_are_opened_from_files_and_bytes(pictures: list[Path]) -> None:
    first, second, _ = pictures
    rows: list[dict[str, Any]] = [{"image": first}, {"image": first.read_bytes()}, {"video": (first, second)}]
    opened = [load_frames(Sample(id="v", where="rows:1", **row)) for row in rows]
    sizes = [[image.size for image in frames.images] for frames in opened if frames]
    assert sizes == [[(64, 48)], [(64, 48)], [(64, 48), (64, 48)]]
    assert load_frames(Sample(id="a", where="rows:1", text="none")) is None


def test_frames_that_differ_in_size_or_are_broken_are_refused_with_their_row(pictures: list[Path]) -> None:
    whole = pictures[0].read_bytes()
    rows: list[tuple[dict[str, Any], str]] = [
        ({"video": tuple(pictures)}, "the frames of a video must all have the same size"),
        ({"image": whole[: len(whole) // 2]}, "image can't be decoded: .*truncated"),
        ({"image": b""}, "image can't be decoded"),
        ({"video": (pictures[0], b"text")}, "image can't be decoded"),
    ]
    for row, message in rows:
        with pytest.raises(MediaError, match=rf"^rows\.jsonl:3: {message}"):
            load_frames(Sample(id="v", where="rows.jsonl:3", **row))


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=200), data=st.data())
def test_rows_spread_over_their_lengths_are_each_taken_once_and_from_short_to_long(
    lengths: list[int], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(lengths)))
    chosen = spread(lengths, number)
    assert len(set(chosen)) == len(chosen) == number
    assert [lengths[row] for row in chosen] == sorted(lengths[row] for row in chosen)


@pytest.mark.parametrize("number", [100, 250, 500])
def test_rows_spread_over_their_lengths_are_as_long_as_the_others(number: int) -> None:
    lengths = [(row * 7919) % 1000 for row in range(1000)]
    chosen = [lengths[row] for row in spread(lengths, number)]
    assert sum(chosen) / number == pytest.approx(sum(lengths) / 1000, rel=0.01)
    assert min(chosen) < 1000 / number
    assert max(chosen) >= 1000 - 1000 / number
