"""A search whose rows all lie on a hub: calibration, the split that steers it and the one that it reports on."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from hub_server import Fault, Hub, serve, use_hub
from pages import ROOT

from autoreap.cli import main
from autoreap.data.draws import draw_in_blocks

pytestmark = pytest.mark.slow

EVALS = """\
search:
  - {task: asr, dataset_path: owner/heard, test_split: validation, doc_to_text: transcribe, limit: 8}
  - {task: asr, label: car, dataset_path: owner/heard, test_split: validation, doc_to_text: transcribe, limit: 8,
     condition: {noise: brown, snr_db: 5}}
report:
  - {task: asr, dataset_path: owner/heard, doc_to_text: transcribe, limit: 4}
"""
LIMITS = {"validation": 8, "test": 4}
FILES = {"train": "calibration/tiny/audio", "validation": "evals/tiny/asr_search", "test": "evals/tiny/asr_report"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The rows of the embedded model as a set of the hub, in row groups of 10."""
    folder = tmp_path / "root/owner/heard/data"
    folder.mkdir(parents=True)
    for split, source in FILES.items():
        table = pyarrow.parquet.read_table(ROOT / f"{source}.parquet").slice(0, 40).select(["id", "audio", "text"])
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=10)
    with serve(tmp_path / "root") as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def heard(project: Path) -> Path:
    """The project, with all of its rows on the hub."""
    space = (project / "space.yaml").read_text().replace("audio: audio.jsonl, mixed: mixed.jsonl", "audio: {SET}")
    space = space.replace("{SET}", "{dataset_path: owner/heard, limit: 8}").replace("trials: 6", "trials: 2")
    (project / "space.yaml").write_text(space.replace("lambda: {low: 0.0, high: 4.0}", "saliency: reap"))
    (project / "evals.yaml").write_text(EVALS)
    for path in project.glob("*.jsonl"):
        path.unlink()
    return project


def fetched(hub: Hub) -> Counter[str]:
    """How many requests each split's file took."""
    return Counter(request.rpartition("/")[2].partition("-")[0] for request in hub.requests(".parquet"))


def test_a_search_fetches_each_row_once_and_the_next_one_none(
    heard: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "space.yaml", "--study", "night", "--json"]) == 0
    shipped = json.loads(capsys.readouterr().out)["shipped"]
    assert Path(shipped["path"]).is_dir()
    # Of each file the footer, and the row groups of 10 rows that hold the first 8, or those that are drawn.
    groups = {split: len({n // 10 for n in draw_in_blocks(40, limit)}) for split, limit in LIMITS.items()}
    assert fetched(hub) == {"train": 1 + 1} | {split: 1 + number for split, number in groups.items()}
    hub.answers.clear()
    assert main(["search", "space.yaml", "--study", "night", "--trials", "3", "--json"]) == 0
    assert main(["verify", shipped["path"]]) == 0
    assert fetched(hub) == Counter()


def test_a_search_that_a_broken_connection_ended_goes_on_with_what_was_kept(
    heard: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.faults.append(Fault("test-00000", times=10_000, status=503))
    assert main(["search", "space.yaml", "--study", "night"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "owner/heard [test]: the connection broke after" in last
    assert "these are kept; run it again to continue from there" in last
    assert not Path("mlruns/studies.db").exists()
    before = fetched(hub)["validation"]
    hub.faults.clear()
    hub.answers.clear()
    assert main(["search", "space.yaml", "--study", "night"]) == 0
    assert before > 0
    assert fetched(hub)["validation"] == 0
