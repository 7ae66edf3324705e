"""What `autoreap init` writes: it runs as it is, from a checkout and from a wheel."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pages import ROOT

from autoreap.cli import main
from autoreap.commands.starter import write_starter
from autoreap.data.eval_set import open_evals
from autoreap.data.evals_config import load_evals
from autoreap.errors import InputError
from autoreap.jobs import read_calibration
from autoreap.search.space import load_space

Capture = pytest.CaptureFixture[str]


def test_the_files_of_a_starter_are_valid_and_its_splits_are_apart(tmp_path: Path, capsys: Capture) -> None:
    assert main(["init", str(tmp_path / "my"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {Path(file).name for file in files} == {
        *("README.md", "space.yaml", "evals.yaml", "search.jsonl", "report.jsonl", "audio.jsonl"),
    }
    space = load_space(tmp_path / "my" / "space.yaml")
    open_evals(space.evals).check_splits_apart()
    assert len(read_calibration(space.calibration)["audio"]) == 4


@pytest.mark.parametrize(
    ("model", "prompt"),
    [("tiny", "transcribe"), ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "Transcribe the audio into text.")],
)
def test_a_starter_asks_and_names_its_model(tmp_path: Path, model: str, prompt: str) -> None:
    write_starter(tmp_path / "my", model)
    readme = (tmp_path / "my" / "README.md").read_text()
    assert f"autoreap search space.yaml --model {model} --trials 3" in readme
    assert f"autoreap pareto space-{Path(model).name}`" in readme
    assert {task.doc_to_text for task in load_evals(tmp_path / "my" / "evals.yaml").splits["search"]} == {prompt}


def test_a_directory_is_named_so_that_it_is_found_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    write_starter(Path("my"), "model")
    assert f"--model {tmp_path / 'model'} " in Path("my/README.md").read_text()


def test_a_directory_that_holds_something_is_refused_and_left_as_it_was(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.txt").touch()
    assert main(["init", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"autoreap: {tmp_path}: is not empty (name a new directory)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("model", ["", "a model", "a\nb", "$HOME"])
def test_a_name_that_would_break_the_files_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model: must be a directory or a name"):
        write_starter(tmp_path / "my", model)


@pytest.mark.slow
def test_a_starter_is_searched_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert main(["init", str(tmp_path / "my")]) == 0
    monkeypatch.chdir(tmp_path / "my")
    assert main(["search", "space.yaml", "--model", "tiny", "--trials", "3"]) == 0
    assert main(["show", "space-tiny"]) == 0
    assert len(re.findall(r"^trial \d", capsys.readouterr().out, re.MULTILINE)) == 3


@pytest.mark.slow
def test_a_wheel_carries_all_that_a_first_search_needs(tmp_path: Path) -> None:
    """Installed beside the same libraries, with nothing of the checkout in reach."""
    source, bare = tmp_path / "source", tmp_path / "bare"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "autoreap", source / "autoreap", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("autoreap-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    subprocess.run([*pip, f"--python={bare}", "install", "--no-deps", str(wheel)], check=True)
    (packages,) = bare.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(folder: Path, program: str, *arguments: str) -> str:
        command = [str(bare / "bin" / program), *arguments]
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        return subprocess.check_output(command, cwd=folder, env=environment, text=True)

    assert Path(run(tmp_path, "python", "-c", "import autoreap; print(autoreap.__file__)")).is_relative_to(bare)
    run(tmp_path, "autoreap", "init", "my")
    run(tmp_path / "my", "autoreap", "search", "space.yaml", "--model", "tiny", "--trials", "3")
    assert (tmp_path / "my/mlruns/trials/space-tiny/report.html").is_file()
