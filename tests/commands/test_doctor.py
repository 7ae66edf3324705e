"""What works here, what is broken, and what a model needs."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builders import write_sparse_checkpoint
from pages import ROOT
from random_models import real_config

from autoreap.cli import main
from autoreap.commands.machine import BROKEN, GOOD, NOTE, Accelerator, Finding, Machine, abilities, examine
from autoreap.commands.needs import PUBLISHED_NEED, need_of
from autoreap.models.families import family_of
from autoreap.models.loading import open_model

Capture = pytest.CaptureFixture[str]
MACHINE = Machine(
    python="3.11.7",
    errors={},
    accelerators=(),
    has_driver=False,
    memory_bytes=24 * 10**9,
    free_bytes={"mlruns": 80 * 10**9},
    num_cores=2,
    load=0.0,
    threads="",
    hub="",
)
GPU = Accelerator("H", 80 * 10**9, 79 * 10**9)
NONE = Path("no-such-file")
SPACE = ROOT / "search_spaces" / "tiny.yaml"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def found(machine: Machine, subject: str, requirements: tuple[str, ...] = ()) -> list[Finding]:
    return [finding for finding in examine(machine, requirements, NONE) if finding.subject == subject]


def able(machine: Machine, command: str) -> tuple[bool, str]:
    (ability,) = [a for a in abilities(machine, PUBLISHED_NEED, examine(machine, (), NONE)) if a.command == command]
    return ability.works, ability.text


def test_the_need_of_the_published_model_is_that_of_its_tensors(tmp_path: Path) -> None:
    config = real_config()
    shapes = family_of(config).layout.expected_tensors(config)
    need = need_of(open_model(str(write_sparse_checkpoint(tmp_path, config, shapes))))
    assert replace(need, model=PUBLISHED_NEED.model) == PUBLISHED_NEED
    assert "48 layers x 128 experts x 4,718,592 = 28.99 B parameters" in need.arithmetic()
    assert "31.72 B x 2 bytes = 63.44 GB" in need.arithmetic()


def test_a_30b_without_a_gpu_is_calibrated_layer_by_layer_and_not_searched() -> None:
    works, text = able(MACHINE, "calibrate")
    assert works
    assert "with --stream-layers" in text
    works, text = able(MACHINE, "search, evaluate")
    assert not works
    assert "69.78 GB needed, there is no accelerator; 139.56 GB on the CPU" in text
    card = Accelerator("small", 25_769_803_776, 25_200_000_000)  # 24 GiB, as one that runs nothing else
    works, text = able(replace(MACHINE, accelerators=(card,)), "search, evaluate")
    assert works
    assert text.startswith("search with --base-bits 4, on the first accelerator: 24.08 GB of")
    assert able(MACHINE, "materialise")[0]
    assert not able(replace(MACHINE, free_bytes={"mlruns": 70 * 10**9}), "materialise")[0]
    assert not able(replace(MACHINE, memory_bytes=10**9), "calibrate")[0]


@pytest.mark.parametrize(
    ("accelerators", "memory_bytes", "works", "how"),
    [
        ((GPU,), 10**9, True, "on the first accelerator"),
        ((replace(GPU, free_bytes=20 * 10**9),), 10**9, False, "20.00 GB of accelerator memory are free"),
        ((replace(GPU, free_bytes=40 * 10**9),) * 2, 10**9, True, "--device auto, over 2 accelerators"),
        ((replace(GPU, free_bytes=40 * 10**9),), 200 * 10**9, True, "with --device cpu"),
        ((), 200 * 10**9, True, "on the CPU, in float32"),
    ],
)
def test_where_a_30b_is_searched(
    accelerators: tuple[Accelerator, ...], memory_bytes: int, works: bool, how: str
) -> None:
    machine = replace(MACHINE, accelerators=accelerators, memory_bytes=memory_bytes)
    found_works, text = able(machine, "search, evaluate")
    assert found_works == works
    assert how in text


def test_packages_that_are_missing_or_too_old_are_broken_and_others_are_not() -> None:
    needed = ("numpy>=2", "numpy>=99", "no-such-package>=1", "pytest>=99; extra == 'dev'")
    findings = found(MACHINE, "packages", needed)
    assert [(finding.state, finding.fix) for finding in findings] == [
        (BROKEN, "pip install 'numpy>=99'"),
        (BROKEN, "pip install 'no-such-package>=1'"),
    ]


def test_versions_other_than_the_tested_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# tested\nnumpy==1.0\n")
    findings = examine(MACHINE, ["numpy>=2", "torch>=2"], tmp_path / "constraints.txt")
    (packages,) = [finding for finding in findings if finding.subject == "packages"]
    assert packages.state == NOTE
    assert "(1.0)" in packages.text


def test_a_library_that_can_not_be_imported_is_broken_and_nothing_works() -> None:
    machine = replace(MACHINE, errors={"torch": "OSError: libcudart"})
    (torch,) = found(machine, "torch")
    assert torch.state == BROKEN
    assert "OSError: libcudart" in torch.text
    assert able(machine, "calibrate") == (False, "fix first: torch")


@pytest.mark.parametrize(
    ("machine", "subject", "state", "fix"),
    [
        (replace(MACHINE, load=2.0), "threads", NOTE, "OMP_NUM_THREADS=1"),
        (replace(MACHINE, load=2.0, threads="1"), "threads", GOOD, ""),
        (replace(MACHINE, has_driver=True), "accelerator", NOTE, "pytorch.org"),
        (replace(MACHINE, accelerators=(GPU,), has_driver=True), "accelerator", GOOD, ""),
        (replace(MACHINE, errors={"av": ""}), "video files", NOTE, "autoreap[video]"),
        (replace(MACHINE, free_bytes={"mlruns": 10**9}), "disk", NOTE, "free some"),
        (replace(MACHINE, python="3.10.2"), "python", BROKEN, "use 3.11"),
    ],
)
def test_what_is_not_as_it_should_be_says_what_to_do(machine: Machine, subject: str, state: str, fix: str) -> None:
    (finding,) = found(machine, subject)
    assert finding.state == state
    assert fix in finding.fix


@pytest.mark.slow
def test_doctor_says_what_works_with_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torch.py").write_text("raise RuntimeError('a file of the user, not the library')")
    assert main(["doctor", "tiny", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"]
    assert {ability["works"] for ability in document["abilities"]} == {True}
    assert [path.name for path in tmp_path.iterdir()] == ["torch.py"]


@pytest.mark.slow
def test_a_torchvision_of_another_torch_is_found_before_it_breaks_a_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A stand-in that fails as the real one does; where it is broken, transformers can't be imported."""
    package, record = tmp_path / "torchvision", tmp_path / "torchvision-0.20.0.dist-info"
    package.mkdir()
    record.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.20.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "broken  transformers: " in captured.out
    assert "no      calibrate: fix first: transformers" in captured.out
    (line,) = captured.err.splitlines()
    assert "pip uninstall torchvision" in line
    assert "Traceback" not in captured.out
    command = [sys.executable, "-m", "autoreap.cli", "search", str(SPACE), "--study", "night"]
    searched = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert searched.returncode == 1
    assert re.fullmatch(r"autoreap: a library can't be imported: .*`autoreap doctor` shows how .*\n", searched.stderr)
    assert searched.stdout == ""


def test_a_model_of_the_hub_that_is_not_here_is_not_fetched(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["doctor", "owner/no-such-model"]) == 2
    assert "autoreap: owner/no-such-model: not on this machine" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_taken_for_no_name_of_the_hub(capsys: Capture) -> None:
    assert main(["doctor", "./gone"]) == 2
    assert capsys.readouterr().err.startswith("autoreap: ./gone: no such model directory (")
