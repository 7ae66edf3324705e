"""Rows of a hub: what is downloaded for them, what is kept, and what happens when the connection breaks."""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hub_server import Fault, Hub, serve, use_hub

from autoreap.data.calibration_config import CalibrationSet
from autoreap.data.calibration_data import read_set
from autoreap.data.dataset import STREAMED_FOR_ONE, read_dataset
from autoreap.data.draws import draw_in_blocks
from autoreap.data.evals_config import TaskConfig
from autoreap.data.samples import Sample, digest
from autoreap.errors import InputError
from autoreap.progress import log_to_stderr

REPO = "owner/speech"
ROWS = 1200  # of each split, in files of 600 and row groups of 100
REQUIRED = ("audio", "text")
NOWHERE = Path("/nowhere")  # where no data set lies
TASK = TaskConfig(task="asr", label="", dataset_path=REPO, dataset_name="other", test_split="validation")
ALL = draw_in_blocks(ROWS, ROWS)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# A data set\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with one set as LibriSpeech is stored there: two splits, each in two files; the rows hold noise."""
    root = tmp_path_factory.mktemp("hub")
    noise = np.random.default_rng(0)
    listed = []
    for split in ("validation", "train.500"):
        rows = [
            {"id": f"{split}-{n}", "audio": {"bytes": noise.bytes(2000), "path": f"{n}.flac"}, "text": f"WORD {n}"}
            for n in range(ROWS)
        ]
        table = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(16_000))
        folder = root / REPO / "other" / split
        folder.mkdir(parents=True)
        for number in range(2):
            table.shard(2, number, contiguous=True).to_parquet(str(folder / f"{number:04}.parquet"), batch_size=100)
        listed.append({"split": split, "path": f"other/{split}/*.parquet"})
    write_card(root / REPO, {"configs": [{"config_name": "other", "data_files": listed}]})
    return root


@pytest.fixture
def hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(root) as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty one."""
    with serve(tmp_path / "root") as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for, of which none passes."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def read(hub: Hub, **values: Any) -> list[Sample]:
    """The rows of a task; the hub's log then holds what they took."""
    hub.answers.clear()
    return read_dataset(replace(TASK, **values), NOWHERE, REQUIRED)


def numbers(samples: Sequence[Sample]) -> list[int]:
    return [int(sample.id.rpartition("-")[2]) for sample in samples]


def split_bytes(hub: Hub, split: str = "validation") -> int:
    return sum(path.stat().st_size for path in (hub.root / REPO / "other" / split).iterdir())


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_a_limit_fetches_no_more_than_the_row_groups_that_hold_its_rows(hub: Hub) -> None:
    samples = read(hub, limit=20)
    assert numbers(samples) == draw_in_blocks(ROWS, 20)
    assert len({number // 100 for number in numbers(samples)}) == 1
    num_footers, footer = 2, 65_536  # bytes of a file's end that are read to find its footer
    assert hub.num_bytes(".parquet") < split_bytes(hub) / 12 + num_footers * footer + 10_000
    assert hub.requests("train.500/0") == []


def test_what_was_fetched_is_not_fetched_again_and_a_higher_limit_fetches_the_rest(hub: Hub) -> None:
    few = read(hub, limit=20)
    assert read(hub, limit=20) == few
    assert hub.num_bytes() == 0
    more = read(hub, limit=150)
    assert set(numbers(few)) < set(numbers(more))
    assert len({number // 100 for number in numbers(more)}) == 6
    assert len(hub.requests(".parquet")) == 5
    assert hub.num_bytes() < split_bytes(hub) * 5 / 12 + 10_000
    assert {sample.id: sample for sample in more}[few[0].id] == few[0]


def test_all_rows_of_a_split_are_fetched_once_and_none_of_another_split(hub: Hub) -> None:
    samples = read(hub)
    assert numbers(samples) == ALL
    assert split_bytes(hub) * 0.95 < hub.num_bytes(".parquet") < split_bytes(hub) + 2 * 65_536
    assert hub.num_bytes("train.500/0") == 0
    read(hub)
    assert hub.num_bytes() == 0


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("validation[:10%]", ALL[:120]),
        ("validation[10%:]", ALL[120:]),
        ("validation[590:610]", ALL[590:610]),
        ("validation[-5:]", ALL[-5:]),
        ("validation[:5]+validation[599:601]", [*ALL[:5], 599, 600]),
    ],
)
def test_a_slice_fetches_its_row_groups_alone_and_is_that_of_datasets(
    split: str, expected: list[int], hub: Hub
) -> None:
    samples = read(hub, test_split=split)
    assert numbers(samples) == expected
    assert hub.num_bytes("other/validation") < split_bytes(hub) * (len(expected) + 300) / ROWS + 2 * 65_536
    theirs = datasets.load_dataset(str(hub.root / REPO), "other", split=split)
    assert [sample.id for sample in samples] == theirs["id"][:]
    assert [sample.where for sample in samples][:2] == [f"{REPO} other[{split}] row {n}" for n in range(2)]


def test_the_first_rows_need_the_first_file_alone(hub: Hub) -> None:
    source = CalibrationSet(REPO, dataset_name="other", split="train.500", limit=150)
    assert numbers(read_set(source, "audio")) == ALL[:150]
    assert hub.requests("train.500/0001") == hub.requests("other/validation") == []
    assert hub.num_bytes("train.500") < split_bytes(hub) / 6 + 65_536 + 10_000


@pytest.mark.parametrize("limit", [None, 20, 150])
@pytest.mark.parametrize("how", ["folder", "offline", "cache of datasets"])
@pytest.mark.slow
def test_the_rows_are_the_same_wherever_they_come_from(
    how: str, limit: int | None, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(hub, limit=limit)
    path = REPO
    if how == "folder":
        path = str(hub.root / REPO)
    elif how == "cache of datasets":
        datasets.load_dataset(REPO, "other", split="validation")
        shutil.rmtree(tmp_path / "cache" / "datasets" / "autoreap")
    go_offline(monkeypatch)
    samples = read(hub, dataset_path=path, limit=limit)
    assert [sample.id for sample in samples] == [sample.id for sample in expected]
    assert digest(samples) == digest(expected)
    assert hub.answers == []


def test_what_was_never_fetched_is_missed_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    read(hub, limit=20)
    go_offline(monkeypatch)
    with pytest.raises(InputError, match=r"^owner/speech other\[validation\]: data set can't be loaded: .*offline"):
        read(hub, limit=500)


def test_a_new_commit_is_read_anew(own_hub: Hub) -> None:
    folder = own_hub.root / "o/words"
    folder.mkdir(parents=True)
    for text in ("one", "three"):
        datasets.Dataset.from_list([{"text": text}]).to_parquet(str(folder / "test-00000-of-00001.parquet"))
        write_card(folder, {"configs": [{"config_name": "default", "data_files": "*.parquet"}], "text": text})
        (sample,) = read_dataset(
            replace(TASK, dataset_path="o/words", dataset_name=None, test_split="train"), folder, ()
        )
        assert sample.text == text


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more"])
def test_a_kept_file_that_was_damaged_is_fetched_again(damage: bytes, hub: Hub, tmp_path: Path) -> None:
    expected = read(hub, limit=20)
    for path in (tmp_path / "cache/datasets/autoreap").glob("*.parquet"):
        path.write_bytes(damage)
    assert read(hub, limit=20) == expected
    assert hub.num_bytes(".parquet") > 0


@pytest.mark.parametrize("breaks", [False, True], ids=["ended", "reset"])
def test_what_a_cut_connection_did_not_bring_is_asked_for_again(
    breaks: bool, hub: Hub, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    read(hub, limit=20)  # so all footers are there
    hub.faults.append(Fault("other/validation", cut=70_000, breaks=breaks))
    assert numbers(read(hub, limit=150)) == draw_in_blocks(ROWS, 150)
    assert waits == [1.0]
    assert len(hub.requests(".parquet")) == 5 + 1
    assert hub.num_bytes(".parquet") < 5 * split_bytes(hub) / 12 + 70_000
    assert [record for record in caplog.records if "autoreap" in record.name and record.levelno > logging.INFO] == []


def test_a_hub_that_is_busy_for_a_while_is_waited_for(
    hub: Hub, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    read(hub, limit=20)  # so all footers are there
    hub.faults.append(Fault("other/validation", times=8, status=503))
    read(hub, limit=150)
    assert waits == [1, 2, 4, 8, 8, 10, 1, 2]  # six times by the library, which then begins anew
    assert len(hub.requests(".parquet")) == 8 + 5
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    file = rf"hf://datasets/owner/speech@{hub.commit_of(REPO)}/other/validation/000\d.parquet"
    assert re.search(rf"warning: {file}: the connection broke: Server error '503.*; trying again in 10 s$", line)


@pytest.mark.parametrize(("status", "cut"), [(503, None), (None, 1000)], ids=["busy", "cut"])
@pytest.mark.slow
def test_a_connection_that_breaks_for_good_keeps_what_came_and_goes_on_from_there(
    status: int | None, cut: int | None, hub: Hub, waits: list[float]
) -> None:
    hub.faults.append(Fault("validation/0001.parquet", times=10_000, status=status, cut=cut))
    message = (
        r"^owner/speech other\[validation\]: the connection broke after the footers of 1 of 2 files: .*\(these are"
    )
    with pytest.raises(InputError, match=message):
        read(hub)
    hub.faults.clear()
    read(hub, limit=1)  # the footers are there from now on
    hub.faults.append(Fault("validation/0001.parquet", times=10_000, status=status, cut=cut))
    message = r"the connection broke after 6 of 12 row groups: .* \(these are kept; run it again to continue"
    with pytest.raises(InputError, match=message) as failed:
        read(hub)
    assert failed.value.exit_code == 2
    assert sum(waits) < 600
    hub.faults.clear()
    assert numbers(read(hub)) == ALL
    assert hub.num_bytes("validation/0000") == 0
    assert len(hub.requests("validation/0001")) == 6


@pytest.mark.parametrize("part", ["README.md", "/tree/"])
def test_a_hub_that_is_busy_before_it_has_said_anything_is_refused_in_a_line_unless_the_rows_are_here(
    part: str, hub: Hub, waits: list[float], tmp_path: Path
) -> None:
    faults = [Fault(part, times=10_000, status=503, method=method) for method in ("GET", "HEAD")]
    hub.faults += faults
    with pytest.raises(
        InputError, match=r"^owner/speech other\[validation\]: data set can't be loaded: .*(503|located?)"
    ):
        read(hub)
    hub.faults.clear()
    expected = read(hub, limit=20)
    shutil.rmtree(tmp_path / "cache" / "hub")
    huggingface_hub.HfFileSystem.clear_instance_cache()
    hub.faults += faults
    assert read(hub, limit=20) == expected


def test_a_set_that_is_not_on_the_hub_is_refused_by_its_name(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"^owner/nothing other\[validation\]: data set can't be loaded: .*nothing"):
        read(hub, dataset_path="owner/nothing")


def test_a_set_of_lines_is_streamed_no_further_than_its_limit_needs(own_hub: Hub) -> None:
    folder = own_hub.root / "o/lines"
    folder.mkdir(parents=True)
    for number in range(5):
        lines = [json.dumps({"id": f"u{100 * number + row}", "text": "x"}) for row in range(100)]
        (folder / f"test-{number}.jsonl").write_text("\n".join(lines) + "\n")
    config = replace(TASK, dataset_path="o/lines", dataset_name=None, test_split="test", limit=3)
    samples = read_dataset(config, NOWHERE, ("text",))
    assert len(samples) == 3
    assert max(int(sample.id[1:]) for sample in samples) < 3 * STREAMED_FOR_ONE
    assert own_hub.num_bytes("test-0.jsonl") > 0
    assert [own_hub.num_bytes(f"test-{number}.jsonl") for number in range(1, 5)] == [0] * 4


FEATURES: list[dict[str, Any]] = [
    {"name": "audio", "dtype": {"audio": {"sampling_rate": 16000}}},
    {"name": "text", "dtype": "string"},
]


def write_set(hub: Hub, rows: list[dict[str, Any]], features: list[dict[str, Any]]) -> TaskConfig:
    """A set whose card names `features`, and whose file holds `rows`."""
    folder = hub.root / "o/set"
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test.parquet")
    write_card(
        folder,
        {
            "dataset_info": {
                "features": features,
                "splits": [{"name": "test", "num_bytes": 1, "num_examples": len(rows)}],
            }
        },
    )
    return replace(TASK, dataset_path="o/set", dataset_name=None, test_split="test")


def test_a_column_that_is_stored_as_another_type_than_the_card_says_is_named_with_its_file(own_hub: Hub) -> None:
    rows = [{"audio": {"bytes": b"x", "path": None}, "text": ["a", "b"]}]
    message = (
        r"^o/set \[test\]: hf://datasets/o/set@\w{40}/test.parquet: column 'text' is stored as list<\w+: string>, and "
        r"the card of the data set says Value\('string'\): .* \(tell its owner; or download the file"
    )
    with pytest.raises(InputError, match=message):
        read_dataset(write_set(own_hub, rows, FEATURES), NOWHERE, REQUIRED)


def test_a_type_that_can_be_read_as_the_one_of_the_card_is_read(own_hub: Hub) -> None:
    config = write_set(own_hub, [{"audio": b"x", "text": 7, "other": 1}], FEATURES)
    (sample,) = read_dataset(config, NOWHERE, REQUIRED)
    assert (sample.audio, sample.text) == (b"x", "7")


def test_a_column_that_the_card_names_and_the_file_lacks_is_empty(own_hub: Hub) -> None:
    rows = [{"audio": b"x", "text": "a"}]
    config = write_set(own_hub, rows, [*FEATURES, {"name": "speaker", "dtype": "string"}])
    assert [sample.speaker for sample in read_dataset(config, NOWHERE, REQUIRED)] == [None]
    (own_hub.root / "o/set/test.parquet").unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"audio": b"x"}]), own_hub.root / "o/set/test.parquet")
    with pytest.raises(InputError, match=r"^o/set \[test\] row 0: text is empty"):
        read_dataset(config, NOWHERE, REQUIRED)


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"id": "b", "words": "x"}, r"its files must have the same columns, and there are 1 new columns .*words"),
        ({"id": "b", "text": [1, 2]}, r"Couldn't cast array of type list<.*a column must have one type in all files"),
    ],
)
def test_lines_of_two_forms_are_refused_with_what_differs(
    second: dict[str, Any], message: str, limit: int | None, own_hub: Hub
) -> None:
    folder = own_hub.root / "o/lines"
    folder.mkdir(parents=True)
    for name, row in (("a", {"id": "a", "text": "x"}), ("b", second)):
        (folder / f"test-{name}.jsonl").write_text(json.dumps(row) + "\n")
    config = replace(TASK, dataset_path="o/lines", dataset_name=None, test_split="test", limit=limit)
    with pytest.raises(InputError, match=r"^o/lines \[test\]: data set can't be loaded: .*" + message):
        read_dataset(config, NOWHERE, ("text",))
