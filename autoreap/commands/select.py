"""autoreap select: the trial that a rule picks."""

import math
import re
from typing import Annotated, Literal

from typer import BadParameter, Option

from autoreap.commands.options import Json, Storage, Study, load_study, print_result
from autoreap.errors import InputError

_MAX_WER_INCREASE = "for smallest: percentage points over the baseline"


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise BadParameter(f"must be a finite number, got {value}")
    return value


def select(
    study: Study,
    storage: Storage = None,
    rule: Annotated[Literal["safe", "knee", "smallest", "best"], Option(help="how to pick")] = "safe",
    max_wer_increase: Annotated[
        float | None, Option(metavar="NUMBER", callback=_finite, help=_MAX_WER_INCREASE)
    ] = None,
    max_size: Annotated[str | None, Option(metavar="SIZE", help="for best: 20GB, 900MB")] = None,
    json: Json = False,
) -> None:
    """Pick one trial by a rule.

    Example:
        autoreap select tiny-tiny --rule smallest --max-wer-increase 0.5
    """
    from autoreap.formatting import scores_text
    from autoreap.report.trial_text import how_to_write
    from autoreap.search.held_out import points_as_dicts
    from autoreap.search.non_inferiority import quality_lines
    from autoreap.search.selection import check_bounds
    from autoreap.search.selection import select as select_point

    max_size_bytes = None
    if max_size:
        max_size_bytes = _bytes(max_size)
    bounds = {"max_wer_increase": max_wer_increase, "max_size_bytes": max_size_bytes}
    check_bounds(rule, **bounds)  # `select_point` checks, too, but only once the study is read
    recorded = load_study(study, storage)
    point, reason = select_point(recorded, rule, **bounds)
    (document,) = points_as_dicts(recorded, [point])
    document |= {"rule": rule, "reason": reason}
    scores = scores_text(point.metrics, point.size_bytes, recorded.objectives)
    lines = [f"trial {point.number}: {scores}", f"why: {reason}"]
    for line in quality_lines(recorded, point):
        lines.append(f"  {line}")
    lines.append(how_to_write(recorded, point))
    print_result(document, "\n".join(lines), as_json=json)


def _bytes(text: str) -> float:
    # Decimal units, as sizes are shown: 20GB are 20,000,000,000 bytes.
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InputError(f"must be a size such as 20GB, got {text!r}", where="--max-size")
    return float(match[1]) * 10.0 ** {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}[match[2].upper()]
