"""What came out for each utterance, and how it was judged: from a run, or from the file it was saved in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.errors import InputError
from autoreap.scores import Counts, Nats, Score, score


@dataclass(frozen=True)
class Outcome:
    """One utterance or question: what came out, and how it was judged.

    Attributes:
        reason: why it has failed: `not a number`, `runaway`, `empty` or `unparseable`.
    """

    id: str
    output: str
    reference: str
    counts: Counts
    failed: bool
    reason: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """All outcomes by metric name (`wer`, `accuracy`, `wer.noisy`, ...), and what it took.

    Attributes:
        num_unreadable: rows of each metric whose media could not be read; they have no outcome.
        nats: of the reference of each row, where likelihoods were asked for: for `wer` they make the metric `nll.wer`.
    """

    outcomes: Mapping[str, tuple[Outcome, ...]]
    seconds: float
    num_unreadable: Mapping[str, int] = field(default_factory=dict)
    nats: Mapping[str, Sequence[Nats]] = field(default_factory=dict)

    def scores(self) -> dict[str, Score]:
        """Each metric with its interval. Raises `ScoringError` where nothing was scored."""
        return {
            metric: score([o.counts for o in outcomes], num_failed=sum(o.failed for o in outcomes))
            for metric, outcomes in self.outcomes.items()
        } | {f"nll.{metric}": score(nats) for metric, nats in self.nats.items()}

    def metrics(self) -> dict[str, dict[str, Any]]:
        """The scores as plain values, for JSON."""
        return {
            metric: measured.as_dict() | {"num_unreadable": self.num_unreadable.get(metric, 0)}
            for metric, measured in self.scores().items()
        }

    def save_outcomes(self, path: Path) -> None:
        """One JSON line an utterance."""
        rows = [
            {"metric": metric, "id": o.id, "output": o.output, "reference": o.reference, "failed": o.failed}
            | {"numerator": o.counts.numerator, "denominator": o.counts.denominator}
            | ({"reason": o.reason} if o.reason else {})
            for metric, outcomes in self.outcomes.items()
            for o in outcomes
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def load_outcomes(path: Path) -> dict[str, tuple[Outcome, ...]]:
    """What `Evaluation.save_outcomes` wrote; `InputError` if it was damaged since."""
    outcomes: dict[str, list[Outcome]] = {}
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # splitlines would break at U+2028
            row = json.loads(line)
            counts = Counts(row["numerator"], row["denominator"])
            outcome = Outcome(row["id"], row["output"], row["reference"], counts, row["failed"], row.get("reason"))
            outcomes.setdefault(row["metric"], []).append(outcome)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"not of the form that autoreap writes: {error}", where=path) from None
    return {metric: tuple(listed) for metric, listed in outcomes.items()}
