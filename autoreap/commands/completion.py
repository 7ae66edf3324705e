"""autoreap completion: a script by which a shell completes commands, options, choices, files and studies.

The script asks the program, through typer, at each press of the key.
"""

from typing import Annotated, Literal

from typer import Argument
from typer._completion_shared import get_completion_script

from autoreap.commands.options import Json, print_result

_SHELL = (
    "the script of zsh goes into a file _autoreap in a folder of $fpath, of fish into "
    "~/.config/fish/completions/autoreap.fish"
)
VARIABLE = "_AUTOREAP_COMPLETE"  # set by a shell that asks
# The first key runs the file _autoreap, which only defines the function: without this it would offer nothing.
_ZSH_FIRST_TIME = '\n\n[[ $zsh_eval_context[-1] == loadautofunc ]] && _autoreap_completion "$@"'


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Argument(metavar="SHELL", help=_SHELL)], json: Json = False
) -> None:
    """Print a script that completes commands in your shell.

    Example:
        autoreap completion bash > ~/.local/share/bash-completion/completions/autoreap
    """
    script = completion_script(shell)
    print_result({"shell": shell, "script": script}, script, as_json=json)


def completion_script(shell: str) -> str:
    """What the shell is to read."""
    script = get_completion_script(prog_name="autoreap", complete_var=VARIABLE, shell=shell)
    if shell == "zsh":
        script += _ZSH_FIRST_TIME
    return script
