"""The negative log-likelihood (NLL) of the references.

One forward pass over prompt and reference gives it, so it needs no decoding. It moves where a candidate gets unsure,
before its answers change.
"""

import math
from collections.abc import Mapping, Sequence

from autoreap.errors import ScoringError
from autoreap.scores import NllCounts

Row = tuple[str, int]  # metric, number among its rows


def reference_nll(
    log_likelihoods: Mapping[Row, float], references: Mapping[str, Sequence[Sequence[int]]], num_tokens: int
) -> dict[str, list[NllCounts]]:
    """For each metric, nats over tokens of each row in order: those of the reference and of the end after it.

    A row whose output is not a number counts as a uniform guess among all `num_tokens` of the vocabulary.

    Raises:
        ScoringError: the output is not a number for any row of a metric.
    """
    nll: dict[str, list[NllCounts]] = {}
    finite: set[str] = set()
    for (metric, number), value in log_likelihoods.items():
        num_reference_tokens = len(references[metric][number]) + 1
        if math.isfinite(value):
            finite.add(metric)
            nats = -value
        else:
            nats = num_reference_tokens * math.log(num_tokens)
        nll.setdefault(metric, []).append(NllCounts(nats, num_reference_tokens))
    for metric, rows in nll.items():
        if metric not in finite:
            raise ScoringError(f"{metric}: the model's output is not a number for any of {len(rows)} rows")
    return nll
