"""autoreap select: the trial that a rule picks."""

import argparse
import math
import re

from autoreap.commands.options import Add, Arguments, Result, add_study_options
from autoreap.errors import InputError

SUMMARY = "pick one trial by a rule"
EXAMPLE = "autoreap select tiny-tiny --rule smallest --max-wer-increase 0.5"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("--rule", choices=("safe", "knee", "smallest", "best"), default="safe", help="default: safe")
    add("--max-wer-increase", type=points, metavar="POINTS", help="for smallest: percentage points over the baseline")
    add("--max-size", metavar="SIZE", help="for best: 20GB, 900MB")


def run(options: Arguments) -> Result:
    """The point, and why it is the one."""
    from autoreap.formatting import scores_text
    from autoreap.search.held_out import with_held_out
    from autoreap.search.non_inferiority import quality_lines
    from autoreap.search.records import read_study
    from autoreap.search.selection import check_bounds, select
    from autoreap.search.storage import open_study

    max_size_bytes = _bytes(options.max_size) if options.max_size else None
    check_bounds(options.rule, max_wer_increase=options.max_wer_increase, max_size_bytes=max_size_bytes)
    study = read_study(open_study(options.study, options.storage))
    point, reason = select(
        study, options.rule, max_wer_increase=options.max_wer_increase, max_size_bytes=max_size_bytes
    )
    (document,) = with_held_out([point.as_dict()], study.held_out)
    document |= {"rule": options.rule, "reason": reason}
    scores = scores_text(point.metrics, point.size_bytes, study.objectives)
    quality = "\n".join(f"  {line}" for line in quality_lines(study, point))
    name = f"{study.name}-trial-{point.number}"
    write = f"to write it: autoreap materialise {study.name} --trial {point.number} -o {name}"
    return document, f"trial {point.number}: {scores}\nwhy: {reason}\n{quality}\n{write}"


def points(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return number


def _bytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InputError(f"must be a size such as 20GB, got {text!r}", where="--max-size")
    return float(match[1]) * 10.0 ** {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}[match[2].upper()]
