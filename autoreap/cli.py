"""Parse, run one command, map errors to exit codes."""

import errno
import inspect as code
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.main import get_command

from autoreap import __version__
from autoreap.commands.calibrate import calibrate
from autoreap.commands.compare import compare
from autoreap.commands.completion import VARIABLE, completion
from autoreap.commands.doctor import doctor
from autoreap.commands.evaluate import evaluate
from autoreap.commands.heal import heal
from autoreap.commands.init import init
from autoreap.commands.inspect import inspect
from autoreap.commands.make_plan import plan
from autoreap.commands.materialise import materialise
from autoreap.commands.options import flat
from autoreap.commands.pareto import pareto
from autoreap.commands.prune import prune
from autoreap.commands.report import report
from autoreap.commands.search import search
from autoreap.commands.select import select
from autoreap.commands.show import show
from autoreap.commands.show_saliency import saliency
from autoreap.commands.verify import verify
from autoreap.errors import AutoreapError, InputError, one_line, printable
from autoreap.progress import log_to_stderr
from autoreap.search.signals import Interrupted

# In the order of `--help`.
COMMANDS: tuple[Callable[..., None], ...] = (
    *(search, pareto, show, report, select, compare, materialise, verify, calibrate, saliency, plan),
    *(evaluate, prune, heal, inspect, init, doctor, completion),
)
_USERS_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# Of files: too long, or links in a circle.
_USERS_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)

# Without typer's own completion and tracebacks: `completion` is a command here, and `main` words every error.
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Find the smallest Qwen3-Omni that still hears well."""


def _add(command: Callable[..., None], *, alias: str | None = None) -> None:
    summary, _, example = code.cleandoc(command.__doc__ or "").partition("\n\nExample:\n")
    epilog = f"\b\nexample:\n{example}"  # \b: it is to be copied, no break within it
    app.command(alias or command.__name__, help=summary, epilog=epilog, hidden=alias is not None)(flat(command))


for _command in COMMANDS:
    _add(_command)
_add(materialise, alias="materialize")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 a failure in the work, 2 bad input, 130 interrupted."""
    program = get_command(app)
    # A shell asks what may follow. It reads all that is printed, so nothing is logged.
    if VARIABLE in os.environ:
        from typer._completion_classes import completion_init
        from typer.completion import shell_complete

        completion_init()
        return shell_complete(program, {}, "autoreap", VARIABLE, os.environ[VARIABLE])
    # Before a command imports a library, which reads its variables once and for all.
    quiet_libraries()
    log_to_stderr()
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        with program.make_context("autoreap", list(arguments)) as context:
            program.invoke(context)
    except typer.Exit as end:  # of --help and --version
        return end.exit_code
    except typer.TyperException as error:
        return _fail(one_line(_usage_text(error)), error.exit_code)
    except BrokenPipeError:  # the reader has left; the interpreter must not flush again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return AutoreapError.exit_code
    except AutoreapError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        exit_code = AutoreapError.exit_code
        if isinstance(error, _USERS_PATHS) or error.errno in _USERS_NAMES:
            exit_code = InputError.exit_code
        return _fail(one_line(f"{error.filename or 'input/output'}: {error.strerror or error}"), exit_code)
    except ImportError as error:
        reason = " ".join(str(error).split())
        text = f"a library can't be imported: {reason} (`autoreap doctor` shows how to fix it)"
        return _fail(text, AutoreapError.exit_code)
    except Interrupted as error:
        return _fail("interrupted", error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)  # as a shell says of a process that SIGINT has ended
    return 0


def _fail(text: str, exit_code: int) -> int:
    print(f"autoreap: {printable(text)}", file=sys.stderr)
    return exit_code


def _usage_text(error: typer.TyperException) -> str:
    """What is wrong with the command line; pydantic's words leave out what was given."""
    from pydantic import ValidationError

    # pydantic sets its own words before those of our checks.
    text = error.format_message().replace("Value error, ", "").rstrip(".")
    cause = error.__cause__
    if isinstance(cause, ValidationError) and cause.errors()[0]["type"] != "value_error":
        text += f", got {cause.errors()[0]['input']!r}"
    context = getattr(error, "ctx", None)
    if context:
        text += f" (`{context.command_path} --help` shows what is right)"
    return text


def quiet_libraries() -> None:
    """Loading bars and advice of libraries would drown the few lines that matter."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what goes wrong is told in our line
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
