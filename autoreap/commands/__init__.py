"""The commands. To add one, write its file beside these and list it here.

Each file holds the command's SUMMARY, its EXAMPLE, `add_options` and `run`. What a
command needs of torch and the like it imports in `run`, so that `--help` is instant. `options`, `planning` and
`writing` hold what several commands share.
"""

from typing import Protocol

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
    prune,
    report,
    search,
    select,
    show,
    verify,
)
from autoreap.commands import make_plan as plan
from autoreap.commands import show_saliency as saliency
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


COMMANDS: dict[str, Command] = {
    "search": search,
    "pareto": pareto,
    "show": show,
    "report": report,
    "select": select,
    "compare": compare,
    "materialise": materialise,
    "verify": verify,
    "calibrate": calibrate,
    "saliency": saliency,
    "plan": plan,
    "evaluate": evaluate,
    "prune": prune,
    "inspect": inspect,
    "init": init,
    "doctor": doctor,
    "completion": completion,
}
ALIASES = {"materialise": ("materialize",)}
