"""autoreap init: a project to start from."""

import shlex
from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result

SUMMARY = "write a project of your own to start from"
EXAMPLE = "autoreap init my --model Qwen/Qwen3-Omni-30B-A3B-Instruct"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("folder", type=Path, metavar="DIR", help="directory to write; must be new or empty")
    add("--model", default="tiny", help="written into its README: a directory, a hub name, or tiny (default)")


def run(options: Arguments) -> Result:
    """Copy a space, evals and calibration data that run as they are."""
    from autoreap.commands.starter import write_starter

    written = [str(path) for path in write_starter(options.folder, options.model)]
    first_words = f"next: cd {shlex.quote(str(options.folder))} && less README.md"
    lines = [f"wrote {path}" for path in written]
    return {"folder": str(options.folder), "files": written}, "\n".join([*lines, first_words])
