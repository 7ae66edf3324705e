"""The one command for the first day with a card, at a scale that a CPU has time for."""

import json
import runpy
import sys

import pytest
import torch
from pages import ROOT

from autoreap.healing.healer import Healer

BENCHMARKS = ROOT / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["gpu_night.py", "--device", "cpu", "--small", *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / "gpu_night.py"), run_name="__main__")
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.slow
def test_each_part_tells_what_it_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch) == 0
    found: dict[str, list[dict[str, object]]] = {}
    for line in map(json.loads, capsys.readouterr().out.splitlines()):
        found.setdefault(line.pop("part"), []).append(line)
    names = "model experts layers generate memory healing bits calibration drafts long shipping"
    assert list(found) == names.split()
    assert all(line["same_bits"] for line in (*found["experts"], *found["layers"], found["calibration"][-1]))
    assert all(line["restored"] for line in (found["healing"][-1], *found["bits"]))
    assert [line["edited"] for line in found["drafts"][1:]] == [0.0, 0.03, 0.1]
    assert found["shipping"][-1]["equal"] == 4


@pytest.mark.slow
def test_a_part_that_fails_ends_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Healer, "fit", refuse)
    assert run(monkeypatch, "--parts", "healing,bits") == 1
    _, healing, *bits = map(json.loads, capsys.readouterr().out.splitlines())
    assert healing == {"part": "healing", "error": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."}
    assert [line["part"] for line in bits] == ["bits", "bits"]


def test_an_unknown_part_is_named_with_those_that_are_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--parts", "experts,sound") == 2
    assert "no part is called sound; known: experts, layers" in capsys.readouterr().err
