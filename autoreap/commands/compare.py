"""autoreap compare: two sides that answered the same utterances."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from autoreap.commands.options import Json, Storage, load_study, print_result, terminal_width
from autoreap.errors import InputError, printable

if TYPE_CHECKING:
    from autoreap.evaluation.outcomes import Outcome

_SIDE = "outcomes (JSONL), STUDY/NUMBER, STUDY/baseline, or a checkpoint that carries utterances"


def compare(
    first: Annotated[str, Argument(metavar="A", help=_SIDE)],
    second: Annotated[str, Argument(metavar="B", help="the same; B is judged against A")],
    html: Annotated[
        Path | None, Option(metavar="FILE", help="write a page with every utterance, the worst first")
    ] = None,
    worst: Annotated[int, Option(metavar="N", min=0, help="show the N worst utterances of each metric")] = 5,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Compare two trials, checkpoints or outcome files.

    Example:
        autoreap compare tiny-tiny/baseline tiny-tiny/7 --html compare.html
    """
    from autoreap.evaluation.comparison import compare_outcomes
    from autoreap.report.comparison_page import write_comparison_page
    from autoreap.report.comparison_text import comparison_text

    comparison = compare_outcomes(_outcomes(first, storage), _outcomes(second, storage))
    if html:
        write_comparison_page(comparison, (first, second), html)
    document = {"a": first, "b": second, **comparison.as_dict(worst)}
    # Never in a file, and not where a user or a terminal wants none: https://no-color.org.
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    # Names come from the user and are made printable here: in the text between them escapes are colours.
    lines = [printable(f"A  {first}\nB  {second}\n")]
    lines.append(comparison_text(comparison, worst, width=terminal_width(), colour=colour))
    if html:
        lines.append(printable(f"\nwrote {html}"))
    print_result(document, "\n".join(lines), as_json=json, is_coloured=True)


def _outcomes(name: str, storage: str | None) -> "dict[str, tuple[Outcome, ...]]":
    from autoreap.evaluation.outcomes import load_outcomes

    path = _path(name, storage)
    if not path.is_file():
        raise InputError("no such outcomes", where=path, fix="they are kept by a search, and `evaluate --outcomes`")
    outcomes = load_outcomes(path)
    if not outcomes:
        raise InputError("holds no outcomes", where=path)
    return outcomes


def _path(name: str, storage: str | None) -> Path:
    # What lies on the disk comes first: a study is looked up only where nothing has that name.
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
    from autoreap.search.storage import DEFAULT_ROOT

    number = None  # of the unpruned model
    if trial[2] != "baseline":
        number = int(trial[2])
    return load_study(trial[1], storage).outcomes_path(number, DEFAULT_ROOT)
