"""What came out for each utterance, and how it was judged: from a run, or from the file it was saved in."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import StrictBool, StrictStr, TypeAdapter

from autoreap.evaluation.alignment import align
from autoreap.evaluation.passes import Passes
from autoreap.files import atomic_write
from autoreap.scores import Counts, Metric, NllCounts, score
from autoreap.validation import NO_OTHER_KEYS, Count, read_lines

# Of the file of a trial, of the baseline, of what a checkpoint carries.
OUTCOMES_NAME = "outcomes.jsonl"


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
        passes: in which the model answered; None where no model did.
    """

    outcomes: Mapping[str, tuple[Outcome, ...]]
    seconds: float
    num_unreadable: Mapping[str, int] = field(default_factory=dict)
    nll: Mapping[str, Sequence[NllCounts]] = field(default_factory=dict)
    costs: Mapping[str, Metric] = field(default_factory=dict)
    passes: Passes | None = None

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

    def save(self, folder: Path) -> None:
        """The outcomes, and the passes that gave them."""
        if self.passes is not None:
            self.passes.save(folder)
        self.save_outcomes(folder / OUTCOMES_NAME)

    def save_outcomes(self, path: Path) -> None:
        """One JSON line an utterance; docs/files.md has its keys."""
        lines = []
        for metric, outcomes in self.outcomes.items():
            for outcome in outcomes:
                lines.append(_Line.of(metric, outcome).as_json() + "\n")
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
        by_language: dict[str, list[Outcome]] = {}
        for name in language_metrics(metric, [outcome.language for outcome in listed]):
            by_language[name] = []
        if not by_language:
            continue
        for outcome in listed:
            if outcome.language:
                by_language[_language_metric(metric, outcome.language)].append(outcome)
        for name, of_language in by_language.items():
            if any(outcome.counts.denominator for outcome in of_language):
                split[name] = of_language
    return split


def language_metrics(metric: str, languages: Sequence[str | None]) -> list[str]:
    """The names under which the languages of `metric` are reported, given those of its rows: `wer/en`, `wer/zh`."""
    # Rows of one language are the whole, which is reported already.
    if len(set(languages)) < 2:
        return []
    return sorted({_language_metric(metric, language) for language in languages if language})


def _language_metric(metric: str, language: str) -> str:
    return f"{metric}/{re.sub(r'[^A-Za-z0-9_-]', '-', language)}"  # what MLflow takes in a name


@dataclass(frozen=True)
class _Line:
    """A line of the file; these are its keys, in their order.

    Attributes:
        alignment: for other readers; it is not read, since it can be made of the texts.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    metric: StrictStr
    id: StrictStr
    output: StrictStr
    reference: StrictStr
    failed: StrictBool
    numerator: Count
    denominator: Count
    reason: StrictStr | None = None
    language: StrictStr | None = None
    alignment: list[list[StrictStr]] | None = None

    @classmethod
    def of(cls, metric: str, outcome: Outcome) -> "_Line":
        alignment = None
        edits = align(metric, outcome.reference, outcome.output, outcome.language)
        if edits is not None:
            alignment = [edit.as_list() for edit in edits]
        return cls(
            metric=metric,
            id=outcome.id,
            output=outcome.output,
            reference=outcome.reference,
            failed=outcome.failed,
            numerator=outcome.counts.numerator,
            denominator=outcome.counts.denominator,
            reason=outcome.reason or None,
            language=outcome.language or None,
            alignment=alignment,
        )

    def as_json(self) -> str:
        present = {key: value for key, value in vars(self).items() if value is not None}
        return json.dumps(present, ensure_ascii=False)

    def outcome(self) -> Outcome:
        counts = Counts(self.numerator, self.denominator)
        return Outcome(self.id, self.output, self.reference, counts, self.failed, self.reason, self.language)


_LINE = TypeAdapter(_Line)


def load_outcomes(path: Path) -> dict[str, tuple[Outcome, ...]]:
    """What `Evaluation.save_outcomes` wrote, now or before languages were kept.

    Raises:
        InputError: the file is not there, or a line is not of that form; the message names line and key.
    """
    outcomes: dict[str, list[Outcome]] = {}
    for line in read_lines(path, _LINE, fix="name a file of outcomes as autoreap wrote it, or score again"):
        outcomes.setdefault(line.metric, []).append(line.outcome())
    return {metric: tuple(listed) for metric, listed in outcomes.items()}
