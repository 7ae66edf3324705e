import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
import typer
from builders import as_jsonl, parse, wav_bytes
from pages import ROOT

from autoreap.commands.options import Calibration, weighted_set
from autoreap.data.calibration_config import CalibrationConfig, CalibrationSet
from autoreap.data.calibration_data import read_calibration, read_set
from autoreap.data.samples import Sample, digest
from autoreap.errors import InputError

pytestmark = pytest.mark.usefixtures("offline")


def recording(number: int) -> dict[str, Any]:
    return {"bytes": wav_bytes(1600 + number), "path": f"{number}.wav"}


def hub_folder(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> str:
    """`folder` as the hub stores a data set."""
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return str(folder)


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_sets_of_a_modality_follow_one_another_each_with_its_weight(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes())
    own = jsonl(tmp_path / "own.jsonl", {"id": "x", "audio": "a.wav"}, {"id": "y", "text": "words alone"})
    hub = hub_folder(tmp_path / "hub", [{"speech": recording(n), "sentence": f"word {n}"} for n in range(3)])
    columns = {"audio": "speech", "text": "sentence"}
    sets = (CalibrationSet(own), CalibrationSet(hub, columns=columns, weight=2.5, limit=2))
    data = read_calibration(CalibrationConfig(audio=sets, mixed=(CalibrationSet(own, weight=3),)))
    where = [f"{hub} [train] row {number}" for number in range(2)]
    assert data == {
        "audio": [
            Sample(id="x", where=f"{own}:1", audio=tmp_path / "a.wav"),
            Sample(id="y", where=f"{own}:2", text="words alone"),
            Sample(id="0", where=where[0], audio=recording(0)["bytes"], text="word 0", weight=2.5),
            Sample(id="1", where=where[1], audio=recording(1)["bytes"], text="word 1", weight=2.5),
        ],
        "mixed": [
            Sample(id="x", where=f"{own}:1", modality="mixed", audio=tmp_path / "a.wav", weight=3),
            Sample(id="y", where=f"{own}:2", modality="mixed", text="words alone", weight=3),
        ],
    }


@pytest.mark.parametrize("modality", ["audio", "video", "mixed"])
def test_parquet_and_jsonl_of_the_same_rows_are_the_same_data(modality: str) -> None:
    packed = read_set(CalibrationSet(str(ROOT / f"calibration/tiny/{modality}.parquet")), modality)
    listed = read_set(CalibrationSet(str(as_jsonl("calibration/tiny") / f"{modality}.jsonl")), modality)
    assert [sample.id for sample in packed] == [sample.id for sample in listed]
    assert {sample.modality for sample in packed} == {modality}
    assert digest(packed) == digest(listed)


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_a_limit_takes_the_first_rows_of_either_form(limit: int | None, expected: int, tmp_path: Path) -> None:
    hub = hub_folder(tmp_path / "hub", [{"id": f"u{n}", "audio": recording(n)} for n in range(3)])
    own = jsonl(tmp_path / "own.jsonl", *({"id": f"u{n}", "text": "x"} for n in range(3)))
    for path in (hub, own):
        samples = read_set(CalibrationSet(path, limit=limit), "audio")
        assert [sample.id for sample in samples] == [f"u{number}" for number in range(expected)]


def test_split_and_configuration_of_a_hub_data_set_are_chosen(tmp_path: Path) -> None:
    hub = hub_folder(tmp_path / "hub", [{"audio": recording(7)}], split="validation")
    (sample,) = read_set(CalibrationSet(hub, split="validation"), "audio")
    assert sample.audio == recording(7)["bytes"]
    for source, problem in (
        (CalibrationSet(hub), r" \[train\]: has no split 'train'; it has validation"),
        (CalibrationSet(hub, dataset_name="en", split="validation"), r" en\[validation\]: data set can't be loaded"),
    ):
        with pytest.raises(InputError, match=rf"^{hub}{problem}"):
            read_set(source, "audio")


def test_a_limited_set_of_many_rows_reads_no_further_than_its_limit(tmp_path: Path) -> None:
    """The second file is no parquet at all; whoever reads all of the set stumbles over it."""
    hub = hub_folder(tmp_path / "hub", [{"audio": recording(n)} for n in range(2)])
    (tmp_path / "hub" / "train-00001-of-00002.parquet").write_bytes(b"not parquet")
    assert len(read_set(CalibrationSet(hub, limit=2), "audio")) == 2
    with pytest.raises(InputError, match="data set can't be loaded"):
        read_set(CalibrationSet(hub), "audio")


@pytest.mark.parametrize("modality", ["audio", "mixed"])
def test_a_hub_data_set_without_its_recordings_is_refused_with_the_columns_it_has(
    modality: str, tmp_path: Path
) -> None:
    hub = hub_folder(tmp_path / "hub", [{"speech": recording(0), "text": "hello"}])
    with pytest.raises(InputError, match=r"has no column 'audio'; it has speech, text .*map it in columns:"):
        read_set(CalibrationSet(hub), modality)


@pytest.mark.parametrize("modality", ["video", "mixed"])
def test_a_hub_data_set_without_pictures_is_refused(modality: str, tmp_path: Path) -> None:
    hub = hub_folder(tmp_path / "hub", [{"audio": recording(0), "text": "hello"}])
    with pytest.raises(InputError, match=r"hub \[train\] row 0: row has no image or video .*columns:"):
        read_set(CalibrationSet(hub), modality)


def test_pictures_of_a_hub_data_set_are_read_with_their_modality(tmp_path: Path) -> None:
    picture = {"bytes": b"a picture", "path": None}
    hub = hub_folder(tmp_path / "hub", [{"photo": picture, "text": "red"}])
    (sample,) = read_set(CalibrationSet(hub, columns={"image": "photo"}), "video")
    assert sample == Sample(id="0", where=f"{hub} [train] row 0", modality="video", image=b"a picture", text="red")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "b"}, ":2: row has neither media nor text"),
        ({"id": "b", "text": ""}, ":2: row has neither media nor text"),
        ({"id": "b", "audio": "gone.wav"}, ":2: no such media file"),
        ({"text": "x"}, ":2: key 'id' is missing"),
    ],
)
def test_a_row_with_a_fault_of_form_is_refused_with_file_and_line(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": "x"}, row)
    with pytest.raises(InputError, match=f"^{path}{message}"):
        read_set(CalibrationSet(path), "audio")


def test_rows_whose_media_are_broken_are_read_since_they_may_be_left_out_later(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_text("no recording")
    path = jsonl(tmp_path / "rows.jsonl", {"id": "a", "audio": "broken.wav"})
    assert len(read_set(CalibrationSet(path), "audio")) == 1


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"audio": []}, features=datasets.Features({"audio": datasets.Audio()}))
    (tmp_path / "hub").mkdir()
    table.to_parquet(str(tmp_path / "hub" / "train-00000-of-00001.parquet"))
    with pytest.raises(InputError, match=r"hub \[train\]: has no rows"):
        read_set(CalibrationSet(str(tmp_path / "hub")), "audio")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", ("a.jsonl", 1.0)),
        ("a.jsonl=2", ("a.jsonl", 2.0)),
        ("owner/name=0.5", ("owner/name", 0.5)),
        ("a=b.jsonl", ("a=b.jsonl", 1.0)),
        ("a=b.jsonl=1e1", ("a=b.jsonl", 10.0)),
        ("a.jsonl=", ("a.jsonl=", 1.0)),
        ("=2", ("=2", 1.0)),
    ],
)
def test_a_set_is_named_with_or_without_its_weight(text: str, expected: tuple[str, float]) -> None:
    assert weighted_set(text) == expected


@pytest.mark.parametrize("text", ["a.jsonl=0", "a.jsonl=-1", "a.jsonl=nan", "a.jsonl=inf"])
def test_a_weight_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="a weight must be a finite number above 0"):
        weighted_set(text)


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "5%", ""])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    for share in ("0", "0.05", "1"):
        assert parse(["calibrate", "tiny", "--max-unreadable", share])["max_unreadable"] == float(share)
    with pytest.raises(typer.BadParameter, match="Input should be"):
        parse(["calibrate", "tiny", "--max-unreadable", text])


def calibration_of_command(arguments: list[str]) -> CalibrationConfig:
    given = parse(["calibrate", "tiny", *arguments])
    return Calibration(**{field.name: given[field.name] for field in fields(Calibration)}).config()


def test_the_options_of_a_command_say_what_to_measure_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", {"id": "x", "text": "y"})
    (tmp_path / "sets.yaml").write_text("mixed: [{dataset_path: owner/name, split: dev}]\n")
    arguments = ["--audio", "a.jsonl", "--audio", "b.jsonl=3", "--video", "owner/name", "--calibration", "sets.yaml"]
    arguments += ["--calibration-samples", "7", "--max-unreadable", "0.05"]
    arguments += ["--tokens", "answer", "--gates", "raw"]
    assert calibration_of_command(arguments) == CalibrationConfig(
        mixed=(CalibrationSet("owner/name", split="dev", limit=7),),
        audio=(CalibrationSet("a.jsonl", limit=7), CalibrationSet("b.jsonl", weight=3, limit=7)),
        video=(CalibrationSet("owner/name", limit=7),),
        max_unreadable=0.05,
        tokens="answer",
        gates="raw",
    )
    assert calibration_of_command(arguments[:2]) == CalibrationConfig(audio=(CalibrationSet("a.jsonl"),))
