"""autoreap completion: a script by which a shell completes commands, options, choices, files and studies.

The script asks the program, through argcomplete, at each press of the key.
"""

import argparse
import sqlite3
from pathlib import Path

from argcomplete import autocomplete
from argcomplete.completers import BaseCompleter, FilesCompleter
from argcomplete.shell_integration import shellcode

from autoreap.commands.options import Add, Arguments, Result

SUMMARY = "print a script that completes commands in your shell"
EXAMPLE = "autoreap completion bash > ~/.local/share/bash-completion/completions/autoreap"

_STUDY, _MODEL = ("study", "source"), ("model", "source")  # destinations that name a study, a model


def add_options(add: Add) -> None:
    """What the command takes."""
    add(
        "shell",
        choices=("bash", "zsh", "fish"),
        help="whose script; of zsh it goes into a file _autoreap in a folder of $fpath, of fish into "
        "~/.config/fish/completions/autoreap.fish",
    )


def run(options: Arguments) -> Result:
    """The script."""
    script = shellcode(["autoreap"], shell=options.shell)
    return {"shell": options.shell, "script": script}, script


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit, where a shell asks."""
    autocomplete(parser, always_complete_options=False, default_completer=_Values())


class _Values(BaseCompleter):
    """What may stand for an argument without choices: studies, `tiny`, files."""

    def __call__(
        self, *, prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, parsed_args: argparse.Namespace
    ) -> list[str]:
        values = []
        if action.dest in _STUDY:
            values += _study_names()
        if action.dest in _MODEL:
            values.append("tiny")
        # A word as it is, a path, or a set with its weight may be a file; what is parsed into a number is none.
        is_text = action.type in (None, str, Path) or getattr(action.type, "__name__", "") == "weighted_set"
        if is_text and action.dest != "study":
            values += FilesCompleter()(prefix)
        return values


def _study_names() -> list[str]:
    """As Optuna stores them: to ask it would take a second at each press of a key. None where they can't be read."""
    path = Path("mlruns/studies.db")
    if not path.is_file():
        return []
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)
        try:
            return [str(name) for (name,) in connection.execute("SELECT study_name FROM studies ORDER BY study_name")]
        finally:
            connection.close()
    except sqlite3.Error:
        return []
