"""Parse, run one command, map errors to exit codes."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from autoreap import __version__
from autoreap.commands import ALIASES, COMMANDS
from autoreap.commands.completion import complete
from autoreap.commands.options import Result
from autoreap.errors import AutoreapError, InputError, UnhealthyError
from autoreap.progress import log_to_stderr
from autoreap.search.signals import Interrupted

_USERS_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 a failure in the work, 2 bad input, 130 interrupted."""
    parser = command_parser()
    complete(parser)
    options = parser.parse_args(arguments)
    _quiet_libraries()
    log_to_stderr()
    try:
        _run(options)
    except BrokenPipeError:  # the reader has left; the interpreter must not flush again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return AutoreapError.exit_code
    except AutoreapError as error:
        print(f"autoreap: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"autoreap: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
        return InputError.exit_code if isinstance(error, _USERS_PATHS) else AutoreapError.exit_code
    except ImportError as error:
        reason = " ".join(str(error).split())
        print(
            f"autoreap: a library can't be imported: {reason} (`autoreap doctor` says how to mend it)", file=sys.stderr
        )
        return AutoreapError.exit_code
    except KeyboardInterrupt as error:
        print("autoreap: interrupted", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else 130
    return 0


def _run(options: argparse.Namespace) -> None:
    try:
        _show(options.run(options), as_json=options.json)
    except UnhealthyError as error:  # what was found is shown all the same
        _show(error.result, as_json=options.json)
        raise


def _show(result: Result, *, as_json: bool) -> None:
    document, text = result
    shown = json.dumps(document, ensure_ascii=False, allow_nan=False) if as_json else text
    if shown:
        print(shown, flush=True)


def _quiet_libraries() -> None:
    """Loading bars and advice of libraries would drown the few lines that matter."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def command_parser() -> argparse.ArgumentParser:
    """What the command line takes. PYTHON_ARGCOMPLETE_OK."""
    parser = argparse.ArgumentParser(
        prog="autoreap", description="Find the smallest Qwen3-Omni that still hears well.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            aliases=ALIASES.get(name, ()),
            help=command.SUMMARY,
            description=command.SUMMARY.capitalize() + ".",
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,  # an example is to be copied: no break within it
            allow_abbrev=False,
        )
        subparser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
        command.add_options(subparser.add_argument)
        subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
