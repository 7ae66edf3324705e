"""autoreap completion: a script by which a shell completes commands, options, choices, files and studies."""

import sqlite3
from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result

SUMMARY = "print a script that completes commands in your shell"
EXAMPLE = "autoreap completion bash > ~/.local/share/bash-completion/completions/autoreap"

_STUDIES = "studies"


def add_options(add: Add) -> None:
    """What the command takes."""
    choices = ("bash", "zsh", "fish", _STUDIES)
    add(
        "shell",
        choices=choices,
        help="whose script; of zsh it goes into a file _autoreap in a folder of $fpath, of fish into "
        f"~/.config/fish/completions/autoreap.fish; {_STUDIES}: names of studies, which the scripts ask for",
    )


def run(options: Arguments) -> Result:
    """The script, made of what every command takes."""
    if options.shell == _STUDIES:
        names = _study_names()
        return {"studies": names}, "\n".join(names)
    from autoreap.cli import command_parser
    from autoreap.terminal.completion import SCRIPTS, grammar

    script = SCRIPTS[options.shell](grammar(command_parser()))
    return {"shell": options.shell, "script": script}, script


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
