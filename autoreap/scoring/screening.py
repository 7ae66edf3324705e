"""How likely a candidate finds the references, as a score.

One forward pass over prompt and reference gives it, so it costs no decoding; and it moves where a candidate gets
unsure, before its answers change.
"""

import math
from collections.abc import Mapping, Sequence

from autoreap.errors import ScoringError
from autoreap.scores import Nats, Score, score

DEFAULT_SHARE = 0.1
Row = tuple[str, int]  # metric, number among its rows


def surprises(
    log_likelihoods: Mapping[Row, float], references: Mapping[str, Sequence[Sequence[int]]], num_tokens: int
) -> dict[str, list[Nats]]:
    """By metric, nats over tokens for each row, in their order: those of the reference and of the end after it.

    What is no number counts as a guess among all `num_tokens` of the vocabulary.
    """
    counted: dict[str, list[Nats]] = {}
    for (metric, number), value in log_likelihoods.items():
        length = len(references[metric][number]) + 1
        nats = -value if math.isfinite(value) else length * math.log(num_tokens)
        counted.setdefault(metric, []).append(Nats(nats, length))
    return counted


def screened(
    log_likelihoods: Mapping[Row, float], references: Mapping[str, Sequence[Sequence[int]]], num_tokens: int
) -> dict[str, Score]:
    """The negative log-likelihood of a reference's token in nats, by metric, with the interval over rows.

    Raises:
        ScoringError: for no row of a metric it is a number.
    """
    scores = {}
    for metric, nats in surprises(log_likelihoods, references, num_tokens).items():
        values = [value for (of_metric, _), value in log_likelihoods.items() if of_metric == metric]
        num_failed = sum(not math.isfinite(value) for value in values)
        if num_failed == len(values):
            raise ScoringError(f"{metric}: the model's output is not a number for any of {num_failed} rows")
        scores[metric] = score(nats, num_failed=num_failed)
    return scores
