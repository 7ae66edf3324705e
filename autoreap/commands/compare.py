"""autoreap compare: two sides that answered the same utterances."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autoreap.commands.options import Add, Arguments, Result, at_least_zero
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.evaluation.outcomes import Outcome

SUMMARY = "compare two trials, checkpoints or outcome files"
EXAMPLE = "autoreap compare tiny-tiny/baseline tiny-tiny/7 --html compare.html"

_SIDE = "outcomes (JSONL), STUDY/NUMBER, STUDY/baseline, or a checkpoint that carries utterances"
_WIDTH = 100  # where there is no terminal


def add_options(add: Add) -> None:
    """What the command takes."""
    add("first", metavar="A", help=_SIDE)
    add("second", metavar="B", help="the same; B is judged against A")
    add("--html", type=Path, metavar="FILE", help="write a page with every utterance, the worst first")
    add("--worst", type=at_least_zero, default=5, metavar="N", help="show the N worst of each metric (default: 5)")
    add("--storage", metavar="URL", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")


def run(options: Arguments) -> Result:
    """The figures with their verdicts, then the worst utterances."""
    from autoreap.evaluation.comparison import compare_outcomes
    from autoreap.report.comparison_text import comparison_text

    sides = [_outcomes(name, options.storage) for name in (options.first, options.second)]
    comparison = compare_outcomes(*sides)
    if options.html:
        from autoreap.report.comparison_page import write_comparison_page

        write_comparison_page(comparison, (options.first, options.second), options.html)
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    text = comparison_text(comparison, options.worst, width=width, colour=_has_colour())
    document = {"a": options.first, "b": options.second, **comparison.as_dict(options.worst)}
    wrote = [f"\nwrote {options.html}"] if options.html else []
    return document, "\n".join([f"A  {options.first}\nB  {options.second}\n", text, *wrote])


def _has_colour() -> bool:
    """Never in a file; https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _outcomes(name: str, storage: str | None) -> "dict[str, tuple[Outcome, ...]]":
    """What A or B names: a file, a checkpoint or a trial."""
    from autoreap.evaluation.outcomes import load_outcomes

    path = _path(name, storage)
    if not path.is_file():
        raise InputError("no such outcomes", where=path, fix="they are kept by a search, and `evaluate --outcomes`")
    outcomes = load_outcomes(path)
    if not outcomes:
        raise InputError("holds no outcomes", where=path)
    return outcomes


def _path(name: str, storage: str | None) -> Path:
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_dir():
        carried = Path(name) / "verification" / "outcomes.jsonl"
        if not carried.is_file():
            raise InputError("carries no utterances", where=name, fix="compare what `evaluate --outcomes` writes of it")
        return carried
    trial = re.fullmatch(r"([\w.-]+)/(\d+|baseline)", name)
    if trial is None:
        raise InputError("no such file", where=name, fix=f"give {_SIDE}")
    from autoreap.search.records import read_study
    from autoreap.search.storage import DEFAULT_ROOT, open_study

    study = read_study(open_study(trial[1], storage))
    return study.outcomes_path(None if trial[2] == "baseline" else int(trial[2]), DEFAULT_ROOT)
