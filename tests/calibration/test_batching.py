"""Batches of real rows, encoded by the embedded model's own processor."""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from builders import wav_bytes
from PIL import Image

from autoreap.calibration.batching import START, Batch, Position, batches, encode, order_rows
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded
from autoreap.models.loading import open_model

BUDGETS = (1, 60, 100, 150, 400, 100_000)


@pytest.fixture(scope="module")
def inputs() -> ChatInputs:
    model_info = open_model("tiny")
    return model_info.family.running.inputs(model_info.checkpoint.path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Rows of every kind in no order of length; two weights."""
    folder = tmp_path_factory.mktemp("media")
    for number, side in enumerate((64, 96)):
        Image.new("RGB", (side, side), "red").save(folder / f"{number}.png")
    seconds = (0.5, 3.0, 1.0, 2.5, 0.7, 1.5, 2.0, 0.9)
    for number, duration in enumerate(seconds):
        suffix = ("wav", "ogg", "flac")[number % 3]
        waveform, rate = soundfile.read(folder_file(folder, "sound.wav", wav_bytes(int(duration * 16_000))))
        soundfile.write(folder / f"{number}.{suffix}", waveform, rate)
    audio = sorted(path for path in folder.iterdir() if path.stem.isdigit() and path.suffix != ".png")
    heard = [
        Sample(id=f"a{n}", where=f"a:{n}", audio=path, question="transcribe", text="one two", weight=1 + n % 2)
        for n, path in enumerate(audio)
    ]
    picture = folder / "1.png"
    return [
        *heard,
        Sample(id="bytes", where="a:20", audio=wav_bytes(20_000), question="transcribe"),
        Sample(id="text", where="a:21", text="one two three"),
        Sample(id="image", where="v:1", modality="video", image=folder / "0.png", text="red"),
        Sample(id="frames", where="v:2", modality="video", video=(picture,) * 4, text="red"),
        Sample(id="both", where="m:1", modality="mixed", audio=audio[0], image=picture),
    ]


def folder_file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def padded(batch: Batch) -> int:
    return max(len(row.input_ids) for row in batch.encoded) * len(batch.encoded)


def token_ids(rows: Sequence[Encoded]) -> list[list[int]]:
    return [row.input_ids.tolist() for row in rows]


def assert_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.weight, one.position) == (other.weight, other.position)
        assert token_ids(one.encoded) == token_ids(other.encoded)
        for row, other_row in zip(one.encoded, other.encoded, strict=True):
            for tensor, other_tensor in ((row.mel, other_row.mel), (row.pixels, other_row.pixels)):
                assert (tensor is None) == (other_tensor is None)
                assert tensor is None or other_tensor is None or torch.equal(tensor, other_tensor)


@pytest.mark.parametrize("budget", BUDGETS)
def test_each_batch_keeps_to_the_budget_or_is_one_row(inputs: ChatInputs, samples: list[Sample], budget: int) -> None:
    found = list(batches(inputs, samples, budget))
    assert all(padded(batch) <= budget or len(batch.encoded) == 1 for batch in found)


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_row_is_there_once_with_the_weight_of_its_set(
    inputs: ChatInputs, samples: list[Sample], budget: int
) -> None:
    found = list(batches(inputs, samples, budget))
    for weight in (1, 2):
        of_weight = [row for batch in found if batch.weight == weight for row in batch.encoded]
        expected = [encode(inputs, sample, with_answer=True) for sample in samples if sample.weight == weight]
        assert sorted(token_ids(of_weight)) == sorted(token_ids(expected))
    assert found[-1].position == Position(len(samples))


def test_neighbours_are_of_similar_length_so_that_less_is_padding(inputs: ChatInputs, samples: list[Sample]) -> None:
    same_weight = [dataclasses.replace(sample, weight=1.0) for sample in samples]
    found = list(batches(inputs, same_weight, 150))
    real = sum(len(row.input_ids) for batch in found for row in batch.encoded)
    lengths = [len(encode(inputs, sample, with_answer=True).input_ids) for sample in same_weight]
    as_given, batch = 0, 0
    longest = 0
    for length in lengths:
        if max(longest, length) * (batch + 1) > 150:
            as_given, batch, longest = as_given + longest * batch, 0, 0
        batch, longest = batch + 1, max(longest, length)
    as_given += longest * batch
    assert real <= sum(map(padded, found)) < as_given
    assert padded(found[0]) / len(found[0].encoded) > 0.9 * max(lengths)  # the longest first, by estimate


def test_the_order_is_of_the_rows_and_their_headers_alone(inputs: ChatInputs, samples: list[Sample]) -> None:
    ordered = order_rows(inputs, samples)
    assert ordered == order_rows(inputs, samples)
    assert sorted(sample.id for sample in ordered) == sorted(sample.id for sample in samples)
    assert [sample.weight for sample in ordered] == sorted(sample.weight for sample in samples)
    equal = [dataclasses.replace(samples[0], id=str(number)) for number in range(5)]
    assert [sample.id for sample in order_rows(inputs, equal)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("budget", BUDGETS)
def test_from_any_position_the_same_batches_follow(inputs: ChatInputs, samples: list[Sample], budget: int) -> None:
    rows = [*samples, broken(b"no sound", 1), broken(wav_bytes()[:20], 2)]
    found = list(batches(inputs, rows, budget, max_unreadable=0.5))
    assert_same(list(batches(inputs, rows, budget, max_unreadable=0.5)), found)
    for number, batch in enumerate(found, start=1):
        stored = json.loads(json.dumps(dataclasses.asdict(batch.position)))
        start = Position(stored["num_rows"], tuple(stored["unreadable"]))
        assert_same(list(batches(inputs, rows, budget, max_unreadable=0.5, start=start)), found[number:])


def test_what_was_done_before_is_not_decoded_again(inputs: ChatInputs, samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, [0.5] * 80_000, 16_000, subtype="FLOAT")
    rows = [Sample(id="long", where="a:0", audio=path), *(sample for sample in samples if sample.weight == 1)]
    first, *others = batches(inputs, rows, 1)
    not_finite(path, 80_000)  # its header stays as it was; it can't be heard any more
    assert_same(list(batches(inputs, rows, 1, start=first.position)), others)


def test_without_answers_only_prompts_are_encoded(inputs: ChatInputs, samples: list[Sample]) -> None:
    heard = [sample for sample in samples if sample.audio is not None]
    found = list(batches(inputs, heard, 1, with_answer=False))
    assert all(len(row.input_ids) == row.num_prompt_tokens for batch in found for row in batch.encoded)
    assert [len(batch.encoded) for batch in found] == [1] * len(heard)


def broken(content: bytes, line: int, **media: Any) -> Sample:
    return Sample(id=f"broken {line}", where=f"rows.jsonl:{line}", **(media or {"audio": content}))


def cut_short(form: str, num_samples: int = 16_000) -> bytes:
    """The first half of a whole recording."""
    whole = io.BytesIO()
    soundfile.write(whole, np.sin(np.arange(num_samples) / 10), 16_000, format=form)
    return whole.getvalue()[: len(whole.getvalue()) // 2]


BROKEN = {
    "flac cut short, which its header does not tell": cut_short("FLAC"),
    "ogg cut short": cut_short("OGG"),
    "text": b"this is no recording",
    "empty": b"",
    "header alone": wav_bytes()[:44],
    "cut in the header": wav_bytes()[:20],
    "no samples": wav_bytes(0),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_a_row_whose_recording_is_broken_is_left_out_named_and_counted(
    inputs: ChatInputs,
    samples: list[Sample],
    content: bytes,
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = folder_file(tmp_path, f"broken.{suffix}", content)
    rows = [*samples[:5], broken(b"", 7, audio=path), *samples[5:]]
    found = list(batches(inputs, rows, 100, max_unreadable=0.1))
    (reason,) = found[-1].position.unreadable
    assert reason.startswith("rows.jsonl:7: audio ")
    assert f"left out: {reason}" in capsys.readouterr().err
    assert found[-1].position.num_rows == len(rows)
    kept = [row for batch in found for row in batch.encoded]
    expected = [row for batch in batches(inputs, samples, 100) for row in batch.encoded]
    assert token_ids(kept) == token_ids(expected)


def test_a_row_whose_image_or_frame_is_broken_is_left_out(inputs: ChatInputs, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    cut = folder_file(tmp_path, "cut.png", whole[: len(whole) // 2])
    text = folder_file(tmp_path, "text.png", b"no picture")
    fine = Sample(id="fine", where="v:1", modality="video", image=tmp_path / "whole.png")
    rows = [
        fine,
        broken(b"", 2, image=cut),
        broken(b"", 3, image=text),
        broken(b"", 4, video=(tmp_path / "whole.png", cut)),
        broken(b"", 5, image=whole[: len(whole) // 2]),
    ]
    (batch,) = batches(inputs, rows, 1000, max_unreadable=0.8)
    places = sorted(reason.partition(": ")[0] for reason in batch.position.unreadable)
    assert places == [f"rows.jsonl:{line}" for line in (2, 3, 4, 5)]
    assert token_ids(batch.encoded) == token_ids([encode(inputs, fine, with_answer=True)])


def test_a_broken_video_file_is_left_out_and_a_whole_one_is_not(inputs: ChatInputs, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from measured import encode_video as video

    fine = Sample(id="fine", where="v:1", modality="video", video=folder_file(tmp_path, "fine.mp4", video(12)))
    text = broken(b"", 2, video=folder_file(tmp_path, "text.mp4", b"no film"))
    (batch,) = batches(inputs, [fine, text], 1000, max_unreadable=0.5)
    assert [reason[:13] for reason in batch.position.unreadable] == ["rows.jsonl:2:"]
    (row,) = batch.encoded
    assert row.is_video
    assert row.grid is not None
    assert row.grid[0] == 2  # three frames, two by two


def test_the_frames_of_a_long_video_lie_as_far_apart_for_the_model_as_in_time(inputs: ChatInputs) -> None:
    pytest.importorskip("av")
    from measured import encode_video as video

    long, short = (Sample(id=str(n), where=f"v:{n}", modality="video", video=video(n)) for n in (400, 12))
    tensors = inputs.collate([encode(inputs, sample, with_answer=True) for sample in (long, short)])
    assert tensors["video_second_per_grid"].tolist() == pytest.approx([2 * 100 / 32, 2.0], rel=0.02)


@pytest.mark.parametrize(("share", "num_broken"), [(0.01, 1), (0.1, 3), (0.19, 4), (0.0, 1)])
def test_too_many_broken_rows_are_refused_before_the_first_batch_with_a_few_named(
    inputs: ChatInputs, samples: list[Sample], share: float, num_broken: int
) -> None:
    rows = [*samples[:7], *(broken(b"no sound", line) for line in range(num_broken)), *samples[7:]]
    with pytest.raises(InputError) as failure:
        next(batches(inputs, rows, 100, max_unreadable=share))
    message = str(failure.value)
    assert f"{num_broken if share < 0.1 else int(share * len(rows)) + 1} of {len(rows)} rows" in message
    assert "rows.jsonl:0: audio can't be decoded" in message
    assert "--max-unreadable 0." in message


@pytest.mark.parametrize("num_rows", [1, 7, 20, 29, 100])
def test_exactly_the_share_is_allowed(inputs: ChatInputs, num_rows: int) -> None:
    num_broken = num_rows // 2
    rows = [broken(b"no sound", line) for line in range(num_broken)]
    rows += [Sample(id=str(n), where=f"t:{n}", text="one two") for n in range(num_rows - num_broken)]
    (batch,) = batches(inputs, rows, 10**6, max_unreadable=num_broken / num_rows)
    assert (len(batch.encoded), len(batch.position.unreadable)) == (num_rows - num_broken, num_broken)


def test_what_was_unreadable_before_counts_after_going_on(inputs: ChatInputs, tmp_path: Path) -> None:
    """Two headers are whole, but what follows them is not: that shows only when their turn comes."""
    rows = [Sample(id=str(n), where=f"rows.jsonl:{n}", audio=wav_bytes(8000 - n)) for n in range(6)]
    for number in (1, 4):
        rows[number] = dataclasses.replace(rows[number], audio=not_finite(tmp_path / f"{number}.wav", 8000 - number))
    whole = list(batches(inputs, rows, 1, max_unreadable=0.4))
    assert [len(batch.position.unreadable) for batch in whole] == [1, 1, 2, 2]
    start = Position(whole[0].position.num_rows, whole[0].position.unreadable)
    with pytest.raises(InputError, match=r"2 of 6 rows so far .*rows\.jsonl:1: .*; rows\.jsonl:4: "):
        list(batches(inputs, rows, 1, max_unreadable=0.2, start=start))


def not_finite(path: Path, num_samples: int) -> Path:
    soundfile.write(path, [float("nan")] * num_samples, 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_rows_that_are_all_broken_are_refused_whatever_is_allowed(inputs: ChatInputs, share: float) -> None:
    rows = [broken(b"no sound", line) for line in range(3)]
    with pytest.raises(InputError, match=r"rows .*rows\.jsonl:0"):
        list(batches(inputs, rows, 100, max_unreadable=share))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Sample(id="empty", where="a.jsonl:3"), "row has neither media nor text"),
        (Sample(id="t", where="a.jsonl:3", text="<|im_end|>"), "special tokens"),
        (Sample(id="t", where="a.jsonl:3", audio=wav_bytes(), question="<|im_end|>"), "special tokens"),
        (Sample(id="t", where="a.jsonl:3", audio=wav_bytes(), text="<|im_end|>"), "special tokens"),
    ],
)
def test_a_fault_in_the_words_of_the_last_row_shows_before_the_first_batch(
    inputs: ChatInputs, samples: list[Sample], row: Sample, message: str
) -> None:
    with pytest.raises(InputError, match=rf"^a\.jsonl:3: .*{message}"):
        next(batches(inputs, [*samples, row], 100, max_unreadable=1.0, start=START))
