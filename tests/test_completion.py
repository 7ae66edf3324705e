"""Completion scripts: what a real shell offers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from autoreap.cli import command_parser, main
from autoreap.commands import COMMANDS
from autoreap.shell_completion import SCRIPTS, grammar
from autoreap.study import default_storage

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a study, files, and an `autoreap` on the PATH."""
    monkeypatch.chdir(tmp_path)
    Path("mlruns").mkdir()
    optuna.create_study(storage=default_storage(), study_name="night-1")
    for name in ("space.yaml", "a file.yaml"):
        Path(name).touch()
    program = tmp_path / "bin" / "autoreap"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m autoreap.cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def completed(*words: str) -> list[str]:
    """What bash offers in the place of the last of `words`."""
    script = SCRIPTS["bash"](grammar(command_parser()))
    program = f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _autoreap; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "-c", program, "bash", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return [line for line in result.stdout.splitlines() if line]


@pytest.mark.usefixtures("folder")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["se"], ["search", "select"]),
        (["search", "s"], ["space.yaml"]),
        (["search", "a"], ["a file.yaml"]),
        (["search", "space.yaml", "--dtype", "b"], ["bfloat16"]),
        (["search", "space.yaml", "--trials", ""], []),
        (["search", "space.yaml", "--model", "t"], ["tiny"]),
        (["search", "space.yaml", "--tr"], ["--trials", "--tracking-uri"]),
        (["pareto", ""], ["night-1"]),
        (["show", "night-1", "--t"], ["--trial"]),
        (["materialize", "n"], ["night-1"]),
        (["completion", "f"], ["fish"]),
    ],
    ids=" ".join,
)
def test_bash_offers_what_fits(words: list[str], offered: list[str]) -> None:
    assert completed("autoreap", *words) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_program_that_is_typed_is_asked_for_studies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert completed(str(folder / "bin" / "autoreap"), "pareto", "") == ["night-1"]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_names_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    known = grammar(command_parser())
    assert COMMANDS.keys() <= known.commands.keys()
    for command, arguments in known.commands.items():
        assert command in script
        for argument in arguments:
            assert all(flag.lstrip("-") in script for flag in argument.flags)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_is_one_that_its_shell_can_read(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = SCRIPTS[shell](grammar(command_parser()))
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_a_broken_or_missing_storage_offers_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["completion", "studies"]) == 0
    Path("mlruns").mkdir()
    Path("mlruns/studies.db").write_text("no database")
    assert main(["completion", "studies"]) == 0
    assert capsys.readouterr() == ("", "")
