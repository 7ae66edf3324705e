"""Completion scripts: what a real shell offers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from pages import ROOT

from autoreap.cli import main
from autoreap.commands.completion import VARIABLE, completion_script
from autoreap.search.storage import default_storage


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


# Completes $2 in a terminal of its own; what is offered goes to the file $1, which ends in a line "done".
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "source $3"
zpty -w shell "$2"$'\\t'
for _ in {1..300}; do
  [[ -e $1 && "$(tail -n 1 $1)" == done ]] && break
  sleep 0.1
done
zpty -d shell
"""
ZSH_IN_TERMINAL = """
autoload -U compinit
fpath=(FOLDER $fpath)
compinit -u -D
bindkey '^I' complete-word
compadd() {
  if [[ " $* " != *" -"[OAD]" "* ]]; then # those that fit, of a call that adds
    local -a hits
    builtin compadd -A hits "$@"
    print -rl -- $hits >> FOLDER/offered
  fi
  builtin compadd "$@"
}
finish() { print done >> FOLDER/offered }
comppostfuncs=(finish)
"""


def in_bash(_folder: Path, script: str, words: Sequence[str]) -> list[str]:
    program = (
        f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '_autoreap_completion autoreap; printf "%s\\n" "${COMPREPLY[@]}"\n'
        # as `complete -o default` does where the program offers nothing
        '[[ -n $COMPREPLY ]] || compgen -f -- "${COMP_WORDS[COMP_CWORD]}" || true'
    )
    return output("bash", "-c", program, "bash", *words)


def in_zsh(folder: Path, script: str, words: Sequence[str]) -> list[str]:
    (folder / "_autoreap").write_text(script)
    (folder / "terminal").write_text(ZSH_IN_TERMINAL.replace("FOLDER", str(folder)))
    offered = folder / "offered"
    output("zsh", "-f", "-c", ZSH, "zsh", str(offered), " ".join(words), str(folder / "terminal"))
    *found, done = offered.read_text().splitlines()
    assert done == "done"
    return [line for line in found if line]


def in_fish(folder: Path, script: str, words: Sequence[str]) -> list[str]:
    (folder / "completions").write_text(script)
    program = f'source {folder}/completions; complete -C "$argv"'
    return [line.split("\t")[0] for line in output("fish", "--no-config", "-c", program, " ".join(words))]


SHELLS = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


def output(*command: str) -> list[str]:
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return [line for line in result.stdout.splitlines() if line]


@pytest.fixture(params=SHELLS)
def completed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What a shell offers in the place of the last of its arguments, in alphabetical order."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script, folder = completion_script(shell), tmp_path_factory.mktemp(shell)

    def offered(*words: str) -> list[str]:
        # zsh adds what it describes more than once
        return sorted({word.replace("\\", "").rstrip() for word in SHELLS[shell](folder, script, words)})

    return offered


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["se"], ["search", "select"]),
        (["search", "s"], ["space.yaml"]),
        (["search", "a"], ["a file.yaml"]),
        (["search", "space.yaml", "--dtype", "b"], ["bfloat16"]),
        (["search", "space.yaml", "--trials", "9"], []),
        (["search", "space.yaml", "--model", "t"], ["tiny"]),
        (["search", "space.yaml", "--model", "s"], ["space.yaml"]),
        (["search", "space.yaml", "--tr"], ["--tracking-uri", "--trials"]),
        (["search", "space.yaml", "--as"], []),
        (["select", "night-1", "--rule", ""], ["best", "knee", "safe", "smallest"]),
        (["pareto", ""], ["night-1"]),
        (["show", "night-1", "--t"], ["--trial"]),
        (["show", "night-1", "--storage", "search", "--tri"], ["--trial"]),
        (["materialize", "n"], ["night-1"]),
        (["completion", "f"], ["fish"]),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_a_shell_offers_what_fits(words: list[str], offered: list[str], completed: Callable[..., list[str]]) -> None:
    assert completed("autoreap", *words) == offered


def asked(line: str) -> str:
    """What the program answers a shell that asks how `line` may go on."""
    variables = {VARIABLE: "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return subprocess.check_output(["autoreap"], env={**os.environ, **variables}, text=True).strip()


@pytest.mark.usefixtures("folder")
def test_what_a_shell_asks_for_is_told_without_a_heavy_library() -> None:
    program = "import sys; from autoreap.commands.options import study_names; print(study_names(), *sys.modules)"
    names = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "['night-1']" in names
    assert set(names).isdisjoint({"torch", "transformers", "optuna", "mlflow"})
    assert asked("autoreap pareto ") == "night-1"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_a_script_that_its_shell_can_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("storage", [None, "no database"])
@pytest.mark.usefixtures("folder")
def test_a_broken_or_missing_storage_offers_no_study(storage: str | None) -> None:
    Path("mlruns/studies.db").unlink()
    if storage is not None:
        Path("mlruns/studies.db").write_text(storage)
    assert asked("autoreap pareto ") == ""
