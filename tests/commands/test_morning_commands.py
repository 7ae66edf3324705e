"""The commands of the morning on a study in a storage of its own: what they say, where they write, what they refuse."""

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from studies import add_ends, add_trial, new_study, rate

from autoreap.cli import main
from autoreap.scores import Metric

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is: relative paths start here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(study: optuna.Study, folder: Path) -> list[str]:
    """The study in a database, and the arguments that name it."""
    url = f"sqlite:///{folder}/studies.db"
    optuna.copy_study(from_study_name="night", from_storage=study._storage, to_storage=url)
    return ["night", "--storage", url]


def a_night(folder: Path) -> list[str]:
    study = new_study()
    for values in ((60, 0.1), (40, 0.104), (20, 0.9)):
        add_trial(study, values)
    add_ends(study)
    return stored(study, folder)


def json_of(arguments: list[str], capsys: Capture) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_select_says_sizes_in_bytes_and_how_to_write_the_trial(folder: Path, capsys: Capture) -> None:
    study = new_study({"size_4bit_bytes": "minimize", "wer": "minimize"})
    metrics = {
        "wer": rate(0.11),
        "size_4bit_bytes": Metric.static(12 * 10**9),
        "active_parameters": Metric.static(3 * 10**9),
    }
    add_trial(study, (12e9, 0.11), metrics=metrics)
    assert main(["select", *stored(study, folder), "--rule", "knee"]) == 0
    scores, why, quality, write = capsys.readouterr().out.splitlines()
    assert scores == "trial 0: 1.00 GB, wer 11.00% [10.00%, 12.00%], size_4bit_bytes 12.00 GB"
    assert quality.startswith("  wer 11.00% [10.00%, 12.00%] on the search split, +1.00 points [+0.50, +1.50] ")
    assert quality.endswith("against the unpruned model: worse (margin 0.5)")
    assert why.startswith("why: best trade-off of the 1 front point with wer <= ")
    assert write == "to write it: autoreap materialise night --trial 0 -o night-trial-0"


def test_the_report_says_what_it_is_of(folder: Path, capsys: Capture) -> None:
    study = a_night(folder)
    found = json_of(["report", *study, "-o", "new/report.html"], capsys)
    num_bytes = (folder / "new" / "report.html").stat().st_size
    told = {"study": "night", "num_trials": 7, "front": [2, 1, 0]}
    assert found == {"report": "new/report.html", "bytes": num_bytes, **told}
    assert main(["report", *study, "-o", "report.html"]) == 0
    said = f"wrote report.html ({num_bytes / 1e6:.2f} MB): 7 trials, 3 on the front; open it in a browser\n"
    assert capsys.readouterr().out == said


def test_a_night_of_failures_alone_has_a_report_too(folder: Path, capsys: Capture) -> None:
    study = new_study()
    add_ends(study)
    assert json_of(["report", *stored(study, folder)], capsys)["front"] == []
    assert "ScoringError: \\u003cb>nothing" in (folder / "report.html").read_text()


@pytest.mark.parametrize("begun", [False, True])
def test_without_an_ended_trial_there_is_no_report(begun: bool, folder: Path, capsys: Capture) -> None:
    study = new_study()
    if begun:
        study.ask()
    assert main(["report", *stored(study, folder)]) == 2
    assert "study night: has no finished trial yet (search longer)" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "option", "path", "problem"),
    [
        ("report", "-o", ".", "-o .: is a directory (name a file in it)"),
        ("report", "-o", "notes.txt/report.html", "/notes.txt is a file (name another folder)"),
        ("pareto", "--csv", ".", "--csv .: is a directory"),
        ("pareto", "--png", "front.unknown", "can be drawn: .unknown (end it in .png, .svg, .pdf, .jpg)"),
        ("pareto", "--png", "front", "can be drawn: no ending (end it in .png"),
    ],
)
def test_a_place_that_can_not_be_written_is_refused_before_any_work(
    command: str, option: str, path: str, problem: str, folder: Path, capsys: Capture
) -> None:
    (folder / "notes.txt").write_text("mine")
    # There is not even a study: what was wrong beforehand is said first.
    assert main([command, "night", option, path]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert [found.name for found in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_front_is_drawn_in_the_format_of_its_name(ending: str, start: bytes, folder: Path) -> None:
    assert main(["pareto", *a_night(folder), "--png", f"new/front.{ending}"]) == 0
    assert (folder / "new" / f"front.{ending}").read_bytes().startswith(start)


def test_the_table_as_a_file_has_every_point_with_its_intervals(folder: Path, capsys: Capture) -> None:
    points = json_of(["pareto", *a_night(folder), "--csv", "front.csv"], capsys)["points"]
    with (folder / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [*(str(point["trial"]) for point in points), "baseline"]
    for row, point in zip(rows, points, strict=False):
        measured = point["metrics"]["wer"]
        assert [float(row[name]) for name in ("wer", "wer.low", "wer.high")] == [
            measured["value"], measured["low"], measured["high"]
        ]  # fmt: skip
        assert int(row["size_bytes"]) == point["size_bytes"]
