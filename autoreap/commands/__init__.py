"""The commands. To add one, write its file beside these and list it here.

Each file holds the command's SUMMARY, its EXAMPLE, `add_options` and `run`; the file's name is the command's. What a
command needs of torch and the like it imports in `run`, so that `--help` is instant. `options`, `planning` and
`writing` hold what several commands share.
"""

from typing import Protocol, cast

from autoreap.commands import (
    calibrate,
    compare,
    completion,
    doctor,
    evaluate,
    init,
    inspect,
    materialise,
    pareto,
    plan,
    prune,
    report,
    saliency,
    search,
    select,
    show,
    verify,
)
from autoreap.commands.options import Add, Arguments, Result


class Command(Protocol):
    """What a module in this folder provides."""

    SUMMARY: str
    EXAMPLE: str

    def add_options(self, add: Add) -> None:
        """Declare the command's options; `add` is argparse's add_argument."""
        ...

    def run(self, options: Arguments) -> Result:
        """Do the work: the JSON object, and the text for people."""
        ...


_MODULES = (
    *(search, pareto, show, report, select, compare, materialise, verify),
    *(calibrate, saliency, plan, evaluate, prune, inspect),
    *(init, doctor, completion),
)
COMMANDS = {module.__name__.rpartition(".")[2]: cast(Command, module) for module in _MODULES}
ALIASES = {"materialise": ("materialize",)}
