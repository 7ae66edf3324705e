"""What came out for each utterance, and how it was judged: from a run, or from the file it was saved in."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.errors import InputError
from autoreap.evaluation.alignment import align
from autoreap.files import atomic_write
from autoreap.scores import Counts, Metric, NllCounts, score

OUTCOMES_NAME = "outcomes.jsonl"  # of the file of a trial, of the baseline, of what a checkpoint carries


@dataclass(frozen=True)
class Outcome:
    """One utterance or question: what came out, and how it was judged.

    Attributes:
        reason: why it has failed: `not a number`, `runaway`, `empty` or `unparseable`.
        language: of the row; None where it says none.

    Files written before `reason` and `language` were kept hold the same answers: the two are not compared.
    """

    id: str
    output: str
    reference: str
    counts: Counts
    failed: bool
    reason: str | None = field(default=None, compare=False)
    language: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """All outcomes by metric name (`wer`, `accuracy`, `wer.noisy`, ...), and what it took.

    Attributes:
        num_unreadable: rows of each metric whose media could not be read; they have no outcome.
        nll: of the reference of each row, where likelihoods were asked for: for `wer` they make the metric `nll.wer`.
        costs: metrics that are no rate over utterances, such as size and speed.
    """

    outcomes: Mapping[str, tuple[Outcome, ...]]
    seconds: float
    num_unreadable: Mapping[str, int] = field(default_factory=dict)
    nll: Mapping[str, Sequence[NllCounts]] = field(default_factory=dict)
    costs: Mapping[str, Metric] = field(default_factory=dict)

    def metrics(self) -> dict[str, Metric]:
        """Each metric with its interval, and each language's beside it where there are several (`wer`, `wer/zh`).

        Raises:
            ScoringError: nothing was scored.
        """
        metrics = {}
        for name, outcomes in with_languages(self.outcomes).items():
            metrics[name] = score_of(outcomes, num_unreadable=self.num_unreadable.get(name, 0))
        for name, counts in self.nll.items():
            metrics[f"nll.{name}"] = score(counts, num_unreadable=0)
        return {**metrics, **self.costs}

    def save_outcomes(self, path: Path) -> None:
        """One JSON line an utterance; docs/files.md has its keys."""
        lines = []
        for metric, outcomes in self.outcomes.items():
            for outcome in outcomes:
                lines.append(json.dumps(_row(metric, outcome), ensure_ascii=False) + "\n")
        with atomic_write(path) as partial:
            partial.write_text("".join(lines), encoding="utf-8")


def score_of(outcomes: Sequence[Outcome], *, num_unreadable: int | None = None) -> Metric:
    """The rate of `outcomes` with its interval. Raises `ScoringError` where nothing was scored."""
    counts = [outcome.counts for outcome in outcomes]
    num_failed = sum(outcome.failed for outcome in outcomes)
    return score(counts, num_failed=num_failed, num_unreadable=num_unreadable)


def with_languages(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Sequence[Outcome]]:
    """Each metric's outcomes, and behind it those of each language where rows differ in it.

    Rows that say no language are in the whole alone; so is a language without any reference word.
    """
    split: dict[str, Sequence[Outcome]] = {}
    for metric, listed in outcomes.items():
        split[metric] = listed
        for name in language_metrics(metric, [outcome.language for outcome in listed]):
            of_language = [o for o in listed if o.language and _language_metric(metric, o.language) == name]
            if any(outcome.counts.denominator for outcome in of_language):
                split[name] = of_language
    return split


def language_metrics(metric: str, languages: Sequence[str | None]) -> list[str]:
    """The names under which the languages of `metric` are reported, given those of its rows: `wer/en`, `wer/zh`."""
    if len(set(languages)) < 2:
        return []
    return sorted({_language_metric(metric, language) for language in languages if language})


def _language_metric(metric: str, language: str) -> str:
    return f"{metric}/{re.sub(r'[^A-Za-z0-9_-]', '-', language)}"  # what MLflow takes in a name


def _row(metric: str, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "metric": metric,
        "id": outcome.id,
        "output": outcome.output,
        "reference": outcome.reference,
        "failed": outcome.failed,
        "numerator": outcome.counts.numerator,
        "denominator": outcome.counts.denominator,
    }
    row |= {key: getattr(outcome, key) for key in ("reason", "language") if getattr(outcome, key)}
    edits = align(metric, outcome.reference, outcome.output, outcome.language)
    if edits is not None:
        row["alignment"] = [edit.as_list() for edit in edits]
    return row


def load_outcomes(path: Path) -> dict[str, tuple[Outcome, ...]]:
    """What `Evaluation.save_outcomes` wrote, now or before languages were kept.

    Raises:
        InputError: a line is not of that form; the message names it.
    """
    outcomes: dict[str, list[Outcome]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would break at U+2028
    except UnicodeDecodeError as error:
        raise InputError(f"not of the form that autoreap writes: {error}", where=path) from None
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:  # the end of the file
            break
        try:
            row = json.loads(line)
            outcomes.setdefault(_typed(row, "metric", str), []).append(_outcome(row))
        except (ValueError, TypeError) as error:
            raise InputError(f"not of the form that autoreap writes: {error}", where=f"{path}:{number}") from None
    return {metric: tuple(listed) for metric, listed in outcomes.items()}


def _outcome(row: Any) -> Outcome:
    """Raises `ValueError` or `TypeError` where it is none."""
    counts = Counts(_typed(row, "numerator", int), _typed(row, "denominator", int))
    if min(counts.numerator, counts.denominator) < 0:
        raise ValueError("counts are at least 0")
    texts = {key: _typed(row, key, str) for key in ("id", "output", "reference")}
    optional = {key: _typed(row, key, str) for key in ("reason", "language") if key in row}
    return Outcome(**texts, counts=counts, failed=_typed(row, "failed", bool), **optional)


def _typed(row: Any, key: str, kind: type) -> Any:
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {type(row).__name__}")
    if type(row.get(key)) is not kind:  # a bool is no count
        raise ValueError(f"key {key!r} must be a {kind.__name__}, got {row.get(key)!r}")
    return row[key]
