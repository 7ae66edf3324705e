"""autoreap init: a project to start from."""

import shlex
from pathlib import Path
from typing import Annotated

from typer import Argument

from autoreap.commands.options import Json, ModelOption, print_result


def init(
    folder: Annotated[Path, Argument(metavar="DIR", help="directory to write; must be new or empty")],
    model: ModelOption = "tiny",
    json: Json = False,
) -> None:
    """Write a project of your own to start from.

    Example:
        autoreap init my --model Qwen/Qwen3-Omni-30B-A3B-Instruct
    """
    from autoreap.commands.starter import write_starter

    written = [str(path) for path in write_starter(folder, model)]
    lines = [f"wrote {path}" for path in written]
    lines.append(f"next: cd {shlex.quote(str(folder))} && less README.md")
    print_result({"folder": str(folder), "files": written}, "\n".join(lines), as_json=json)
