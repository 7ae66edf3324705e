"""What a user demands of a candidate, in words: `wer <= baseline + 0.5 points`, `fits 8 GB with a 30 s clip`.

A constraint is METRIC <= BOUND or METRIC >= BOUND, or `fits AMOUNT with a LENGTH clip`. A metric is one that a trial
measures; `size`, `size at 8 bit` and `size at 4 bit` are words for three of them. A bound is an amount with its unit, a
share (`40% of baseline`), or the unpruned model's value, changed by an amount or multiplied (`baseline - 1 point`,
`baseline * 1.1`).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoreap.errors import InputError, ScoringError
from autoreap.formatting import unit_of, value_text

# Static metrics, known without inference: a candidate that violates such a bound is not scored.
STATIC = ("size_bytes", "size_8bit_bytes", "size_4bit_bytes", "active_parameters", "kv_bytes_per_minute")
MEMORY = "memory_bytes."  # and the length of a clip, such as 30s: what it takes to hear it
FORMS = {
    "rate": "wer <= 5%, wer <= baseline + 0.5 points, wer.noisy <= baseline * 1.1, accuracy >= baseline - 1 point",
    "bytes": "size <= 20 GB, size <= 40% of baseline, fits 8 GB with a 30 s clip, kv_bytes_per_minute <= 50 MB",
    "seconds": "first_token_seconds <= 300 ms, first_token_seconds <= 0.5 s",
    "ratio": "real_time_factor_ratio <= 0.8, first_token_ratio <= 80%",
    "nats": "nll.wer <= 0.5, nll.wer <= baseline * 1.1",
    "parameters": "active_parameters <= 2 billion",
}
_UNITS = {
    "rate": {"": 1.0, "%": 0.01, "point": 0.01, "points": 0.01},
    "bytes": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    "seconds": {"s": 1.0, "seconds": 1.0, "ms": 1e-3},
    "ratio": {"": 1.0, "%": 0.01},
    "nats": {"": 1.0},
    "parameters": {"": 1.0, "million": 1e6, "billion": 1e9},
}
_CLIP_UNITS = {"s": 1, "seconds": 1, "min": 60, "minutes": 60}
_NEVER_ABOVE_ONE = ("wer", "cer", "accuracy")  # as a bound; `wer <= 5` is meant to be 5%
_LEAST_SCALE = 0.01  # a bound of `wer <= 0%` can't be what a violation is measured by
_WORD = re.compile(r"<=|>=|\d+(?:\.\d+)?|[^\W\d][\w./]*(?:-[^\W\d]\w*)*|\S")
_NAME = re.compile(r"[^\W\d]")
_NUMBER = re.compile(r"\d")


@dataclass(frozen=True)
class Constraint:
    """`metric` is at most (or at least) `factor` times the baseline's value plus `offset`.

    Attributes:
        text: what the user wrote; the constraint's name in a study.
        is_upper: at most, else at least.
    """

    text: str
    metric: str
    is_upper: bool
    factor: float
    offset: float

    @property
    def clip_seconds(self) -> float | None:
        """The length of the clip with which it must fit; None of any other constraint."""
        if not self.metric.startswith(MEMORY):
            return None
        return float(self.metric.removeprefix(MEMORY).removesuffix("s"))

    def violation(self, values: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """How far `values` are beyond the bound, as a share of it; 0 or less where they keep it.

        As a share, so that a sampler can add up violations of sizes and of error rates; a bound under 0.01 counts as
        0.01.

        Raises:
            ScoringError: a value is missing or not finite; it must never count as kept.
        """
        value, bound = measured_value(self.metric, values), self.offset
        if self.factor:
            bound += self.factor * measured_value(self.metric, baseline)
        # Above 0 is broken, as Optuna's samplers read it.
        excess = value - bound if self.is_upper else bound - value
        return excess / max(abs(bound), _LEAST_SCALE)

    def with_value(self, values: Mapping[str, float]) -> str:
        """The constraint beside what it is about, for people: `size <= 20 GB (it is 30.10 GB)`."""
        return f"{self.text} (it is {value_text(self.metric, values[self.metric])})"


def is_static(metric: str) -> bool:
    """Whether `metric` is known without inference."""
    return metric in STATIC or metric.startswith(MEMORY)


def check_measured(constraints: tuple[Constraint, ...], directions: Mapping[str, str], where: object) -> None:
    """Raise `InputError` unless each constraint is on a known metric and bounds its bad side.

    Args:
        directions: metric -> minimize or maximize.
    """
    for constraint in constraints:
        # `fits` is of no metric of the evals, and always an upper bound.
        if constraint.clip_seconds is not None:
            continue
        direction = directions.get(constraint.metric)
        if direction is None:
            known = ", ".join(directions)
            raise InputError(f"unknown metric in {constraint.text!r}", where=where, fix=f"known: {known}")
        if constraint.is_upper != (direction == "minimize"):
            better, sense = "lower", "<="
            if direction == "maximize":
                better, sense = "higher", ">="
            problem = f"{constraint.metric} is better {better}, so {constraint.text!r} requires a worse one"
            raise InputError(problem, where=where, fix=f"use {sense}")


def parse_constraint(text: str) -> Constraint:
    """The constraint that `text` states; `InputError` names the word that is not understood, and what may be said."""
    words = _Words(text)
    if words.next == "fits":
        return _fitting(words, text)
    metric = _metric(words)
    words.kind = unit_of(metric)
    sense = words.take("<=", ">=")
    if words.may_take("baseline"):
        factor, offset = _changed_baseline(words)
    else:
        factor, offset = _absolute(words, metric)
    words.end()
    return Constraint(" ".join(text.split()), metric, sense == "<=", factor, offset)


def _fitting(words: "_Words", text: str) -> Constraint:
    """`fits 8 GB with a 30 s clip`: weights, cache and working memory together."""
    words.kind = "bytes"
    words.take("fits")
    bound = _amount(words, words.number(), set(_UNITS["bytes"]))
    for word in ("with", "a"):
        words.take(word)
    seconds = words.number() * _CLIP_UNITS[words.take(*_CLIP_UNITS)]
    words.take("clip")
    words.end()
    return Constraint(" ".join(text.split()), f"{MEMORY}{seconds:g}s", True, 0.0, bound)


class _Words:
    def __init__(self, text: str) -> None:
        self._text = text
        self._words: list[str] = _WORD.findall(text)
        self._at = 0
        self.kind = "rate"  # of metric, for the examples in a message

    @property
    def next(self) -> str:
        """The next word; empty at the end."""
        if self._at == len(self._words):
            return ""
        return self._words[self._at]

    def may_take(self, *allowed: str) -> str:
        """The next word if it is one of `allowed`, else an empty one."""
        return self.take(*allowed) if self.next in allowed else ""

    def take(self, *allowed: str) -> str:
        """The next word, which must be one of `allowed`."""
        if self.next not in allowed:
            raise self.misunderstood(" or ".join(allowed))
        self._at += 1
        return self._words[self._at - 1]

    def number(self) -> float:
        """The next word, which must be a number."""
        if not _NUMBER.match(self.next):
            raise self.misunderstood("a number")
        return float(self.take(self.next))

    def end(self) -> None:
        """Nothing may follow."""
        if self.next:
            raise self.misunderstood("nothing more")

    def misunderstood(self, expected: str) -> InputError:
        """The error that points at the next word."""
        what, place = "something is missing", "at the start"
        if self.next:
            what = f"{self.next!r} is not understood"
        before = " ".join(self._words[: self._at])
        if before:
            place = f"after {before!r}"
        problem = f"{what} {place} of {self._text!r}: expected {expected}; for example: {FORMS[self.kind]}"
        return InputError(problem, where="constraints")


def _metric(words: _Words) -> str:
    if not _NAME.match(words.next) or words.next == "baseline":
        raise words.misunderstood("a metric")
    name = words.take(words.next)
    if name != "size":
        return name
    if not words.may_take("at"):
        return "size_bytes"
    bits = words.take("4", "8")
    words.take("bit", "bits")
    return f"size_{bits}bit_bytes"


def _changed_baseline(words: _Words) -> tuple[float, float]:
    """Factor and offset of what follows `baseline`."""
    if words.may_take("*"):
        return words.number(), 0.0
    sign = words.may_take("+", "-")
    if not sign:
        return 1.0, 0.0
    # 0.5% more could be a share of the baseline or half a point, so a unit that says which is asked for.
    units = set(_UNITS[words.kind]) - {"", "%"}
    offset = _amount(words, words.number(), units or {""})
    if sign == "-":
        offset = -offset
    return 1.0, offset


def _absolute(words: _Words, metric: str) -> tuple[float, float]:
    """Factor and offset of an amount, or of a share of the baseline."""
    number = words.number()
    if words.next == "%":  # of the baseline, or a unit: the word after it tells
        words.take("%")
        if words.may_take("of"):
            words.take("baseline")
            return number / 100, 0.0
        if "%" not in _UNITS[words.kind]:
            raise words.misunderstood("of baseline")
        return 0.0, number / 100
    measure = metric.partition("/")[0].partition(".")[0]  # `wer` of `wer.noisy/zh`
    if measure in _NEVER_ABOVE_ONE and number > 1 and not words.next:
        raise words.misunderstood("%")
    return 0.0, _amount(words, number, set(_UNITS[words.kind]))


def _amount(words: _Words, number: float, allowed: set[str]) -> float:
    """`number` in the unit that follows it, which is one of `allowed`."""
    units = _UNITS[words.kind]
    for unit in units:
        if unit in allowed and unit.lower() == words.next.lower():
            if words.next:
                words.take(words.next)
            return number * units[unit]
    named = [unit for unit in units if unit and unit in allowed]
    raise words.misunderstood(" or ".join(named) or "nothing more")


def measured_value(metric: str, values: Mapping[str, float]) -> float:
    """The value of `metric`; `ScoringError` where it is missing or not finite: NaN compares as neither good nor bad."""
    if metric not in values:
        raise ScoringError(f"metric {metric} was not measured")
    if not math.isfinite(values[metric]):
        raise ScoringError(f"metric {metric} is {values[metric]}")
    return values[metric]
