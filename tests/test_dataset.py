from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
from builders import wav_bytes

from autoreap.dataset import read_dataset
from autoreap.errors import InputError
from autoreap.evals_config import TaskConfig
from autoreap.samples import Sample, load_audio

REQUIRED = ("audio", "text")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The libraries read these settings once, when they are imported; so set what they read them into, too."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def recording(number: int) -> dict[str, Any]:
    return {"bytes": wav_bytes(1600 + number), "path": f"{number}.wav"}


def row(number: int, **values: Any) -> dict[str, Any]:
    return {"id": f"u{number}", "audio": recording(number), "text": f"word {number}", "language": "en", **values}


def write(folder: Path, rows: list[dict[str, Any]], audio_column: str | None = None) -> None:
    """`folder` as the hub stores a data set: parquet; with `audio_column` as an Audio feature."""
    table = datasets.Dataset.from_list(rows)
    if audio_column:
        table = table.cast_column(audio_column, datasets.Audio())
    folder.mkdir()
    table.to_parquet(str(folder / "test-00000-of-00001.parquet"))


def task(**values: Any) -> TaskConfig:
    return TaskConfig(**{"task": "asr", "label": "", "dataset_path": "set", **values})


@pytest.mark.parametrize("audio_column", [None, "audio"], ids=["bytes and path", "Audio feature"])
def test_a_folder_of_parquet_is_read_with_audio_left_encoded(audio_column: str | None, tmp_path: Path) -> None:
    write(tmp_path / "set", [row(number) for number in range(3)], audio_column)
    samples = read_dataset(task(), tmp_path, REQUIRED)
    assert samples == [
        Sample(
            id=f"u{number}", where=f"set [test] row {number}", audio=recording(number)["bytes"],
            text=f"word {number}", language="en",
        )
        for number in range(3)
    ]  # fmt: skip
    assert [len(load_audio(sample)) for sample in samples] == [1600, 1601, 1602]


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    rows = [{"speech": recording(0), "sentence": "hello", "text": "not this", "options": ["cat", "dog"], "key": 1}]
    write(tmp_path / "set", rows, "speech")
    columns = {"audio": "speech", "text": "sentence", "choices": "options", "answer": "key"}
    (sample,) = read_dataset(task(columns=columns), tmp_path, REQUIRED)
    assert (sample.id, sample.text, sample.choices, sample.answer) == ("0", "hello", ("cat", "dog"), "dog")
    assert sample.audio == recording(0)["bytes"]


def test_audio_stored_as_a_path_is_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(500))
    write(tmp_path / "set", [row(0, audio={"bytes": None, "path": str(tmp_path / "a.wav")})])
    (sample,) = read_dataset(task(), tmp_path, REQUIRED)
    assert len(load_audio(sample)) == 500


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_the_limit_takes_the_first_rows_of_either_form(limit: int | None, expected: int, tmp_path: Path) -> None:
    write(tmp_path / "set", [row(number) for number in range(3)])
    (tmp_path / "set.jsonl").write_text("".join(f'{{"id": "u{n}", "text": "x"}}\n' for n in range(3)))
    for path, required in (("set", REQUIRED), ("set.jsonl", ("text",))):
        samples = read_dataset(task(dataset_path=path, limit=limit), tmp_path, required)
        assert [sample.id for sample in samples] == [f"u{number}" for number in range(expected)]


def test_images_videos_and_frames_are_left_encoded(tmp_path: Path) -> None:
    picture = {"bytes": b"a picture", "path": "0.png"}
    table = datasets.Dataset.from_list([{"image": picture, "clip": {"bytes": b"a film", "path": "0.mp4"}}])
    (tmp_path / "set").mkdir()
    typed = table.cast_column("image", datasets.Image()).cast_column("clip", datasets.Video())
    typed.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    (sample,) = read_dataset(task(columns={"video": "clip"}), tmp_path, ())
    assert (sample.image, sample.video) == (b"a picture", b"a film")
    write(tmp_path / "frames", [{"video": [picture, {"bytes": b"another", "path": None}]}])
    (sample,) = read_dataset(task(dataset_path="frames", limit=1), tmp_path, ())
    assert sample.video == (b"a picture", b"another")


def test_media_stored_as_a_path_to_nothing_are_refused_with_their_row(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0), row(1, audio={"bytes": None, "path": str(tmp_path / "gone.wav")})])
    with pytest.raises(InputError, match=r"set \[test\] row 1: no such media file: .*gone\.wav"):
        read_dataset(task(), tmp_path, REQUIRED)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"language": "tongue"}, r"has no column 'tongue'; it has id, audio, text, language"),
        ({"sentence": "text"}, r"columns: unknown key 'sentence'; known: id, audio, .*our key comes first"),
    ],
)
def test_a_mapping_that_maps_nothing_is_refused(
    columns: dict[str, str], message: str, limit: int | None, tmp_path: Path
) -> None:
    write(tmp_path / "set", [row(0)])
    with pytest.raises(InputError, match=rf"^set \[test\]: {message}"):
        read_dataset(task(columns=columns, limit=limit), tmp_path, REQUIRED)


def test_a_required_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0)])
    with pytest.raises(InputError, match=r"set \[test\]: has no column 'sentence'; it has id, audio, text, language"):
        read_dataset(task(columns={"text": "sentence"}), tmp_path, REQUIRED)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"dataset_path": "org/name"}, r"org/name \[test\]"),
        ({"dataset_path": "org/name", "dataset_name": "en"}, r"org/name en\[test\]"),
        ({"test_split": "train"}, r"set \[train\]"),
        ({"dataset_name": "en"}, r"set en\[test\]"),
        ({"dataset_path": "nothing"}, r"nothing \[test\]"),
        ({"dataset_path": "script"}, r"script \[test\]"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name_and_split(values: dict[str, Any], place: str, tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0)])
    for name in ("nothing", "script"):
        (tmp_path / name).mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('this code must not run')\n")
    with pytest.raises(InputError, match=f"^{place}: data set can't be loaded: .*check name, split and network"):
        read_dataset(task(**values), tmp_path, REQUIRED)
