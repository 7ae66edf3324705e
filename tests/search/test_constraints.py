"""What may be demanded of a candidate, in words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoreap.errors import InputError, ScoringError
from autoreap.search.constraints import FORMS, Constraint, check_measured, is_static, parse_constraint

BASELINE = {
    "wer": 0.04, "wer.noisy": 0.1, "wer/zh": 0.2, "accuracy": 0.8, "size_bytes": 70e9, "size_4bit_bytes": 18e9,
    "real_time_factor_ratio": 1.0, "first_token_seconds": 0.2, "active_parameters": 3.3e9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "metric", "kept", "broken"),
    [
        ("wer <= baseline + 0.5 points", "wer", 0.045, 0.0451),
        ("wer <= 5%", "wer", 0.05, 0.0501),
        ("wer <= 0.05", "wer", 0.05, 0.0501),
        ("wer <= baseline", "wer", 0.04, 0.0401),
        ("accuracy >= baseline - 1 point", "accuracy", 0.79, 0.7899),
        ("accuracy >= 75 %", "accuracy", 0.75, 0.7499),
        ("wer.noisy <= baseline * 1.1", "wer.noisy", 0.1099, 0.1101),
        ("wer/zh<=baseline*1.5", "wer/zh", 0.2999, 0.3001),
        ("size <= 20 GB", "size_bytes", 20e9, 20.1e9),
        ("size<=20000mb", "size_bytes", 20e9, 20.1e9),
        ("size_bytes <= 40% of baseline", "size_bytes", 28e9, 28.1e9),
        ("size <= baseline - 10 GB", "size_bytes", 60e9, 60.1e9),
        ("size at 4 bit <= 8 GB", "size_4bit_bytes", 8e9, 8.1e9),
        ("size at 4 bits <= 50% of baseline", "size_4bit_bytes", 9e9, 9.1e9),
        ("real_time_factor_ratio <= 0.8", "real_time_factor_ratio", 0.8, 0.81),
        ("real_time_factor_ratio <= 80%", "real_time_factor_ratio", 0.8, 0.81),
        ("first_token_seconds <= 300 ms", "first_token_seconds", 0.3, 0.31),
        ("first_token_seconds <= baseline + 0.1 s", "first_token_seconds", 0.3, 0.31),
        ("active_parameters <= 2 billion", "active_parameters", 2e9, 2.01e9),
        ("fits 8 GB with a 30 s clip", "memory_bytes.30s", 8e9, 8.1e9),
        ("fits 12.5 GB with a 40 min clip", "memory_bytes.2400s", 12.5e9, 12.6e9),
    ],
)
def test_a_bound_is_kept_up_to_its_value_and_not_beyond(text: str, metric: str, kept: float, broken: float) -> None:
    constraint = parse_constraint(text)
    assert constraint.metric == metric
    assert constraint.violation({metric: kept}, BASELINE) <= 1e-12
    assert constraint.violation({metric: broken}, BASELINE) > 1e-9


def test_every_form_that_a_message_offers_is_understood() -> None:
    for forms in FORMS.values():
        for text in forms.split(", "):
            assert parse_constraint(text).text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fits 8 with a 30 s clip", "'with' is not understood after 'fits 8'.*expected"),
        ("fits 8 GB with a 30 MB clip", "'MB' is not understood after 'fits 8 GB with a 30'.*expected s or"),
        ("fits 8 GB", "something is missing after 'fits 8 GB'.*expected with"),
        ("", "something is missing at the start of ''.*expected a metric"),
        ("<= 5%", "'<=' is not understood at the start.*expected a metric"),
        ("baseline <= 5%", "'baseline' is not understood at the start"),
        ("wer", "something is missing after 'wer'.*expected <= or >="),
        ("wer < 5%", "'<' is not understood after 'wer'.*expected <= or >="),
        ("wer <= lots", "'lots' is not understood after 'wer <='.*expected a number"),
        ("wer <= -5%", "'-' is not understood after 'wer <='"),
        ("wer <= baseline + 0.5 pints", "'pints' is not understood.*expected point or points.*for example: wer <= 5%"),
        ("wer <= baseline + 0.5%", "'%' is not understood.*expected point or points"),
        ("wer <= baseline + 0.5", "something is missing.*expected point or points"),
        ("wer <= 5", "something is missing after 'wer <= 5'.*expected %"),
        ("wer <= 5 GB", "'GB' is not understood.*expected % or point"),
        ("wer <= 5% please", "'please' is not understood.*expected nothing more"),
        ("size <= 20", "something is missing.*expected B or kB or MB or GB or TB.*for example: size <= 20 GB"),
        ("size <= 40%", "something is missing.*expected of baseline"),
        ("size <= 40% of", "something is missing.*expected baseline"),
        ("size at 3 bit <= 3 GB", "'3' is not understood after 'size at'.*expected 4 or 8"),
        ("size <= 20 GB and wer <= 5%", "'and' is not understood"),
    ],
)
def test_a_word_that_is_not_understood_is_named_with_what_may_stand_there(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_constraint(text)


@pytest.mark.parametrize("text", ["wer <= 5%", "size <= 20 GB", "accuracy >= 90%", "wer <= 0%"])
@given(excesses=st.tuples(*[st.floats(-0.5, 2.0)] * 2))
def test_a_larger_excess_is_a_larger_violation_whatever_the_unit(text: str, excesses: tuple[float, float]) -> None:
    constraint = parse_constraint(text)
    sign = 1 if constraint.is_upper else -1
    less, more = (
        constraint.violation({constraint.metric: constraint.offset + sign * excess * max(constraint.offset, 0.01)}, {})
        for excess in sorted(excesses)
    )
    assert less <= more
    assert more == pytest.approx(max(excesses), abs=1e-6)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_never_counts_as_kept(value: float | None) -> None:
    constraint = parse_constraint("wer <= baseline")
    broken = {} if value is None else {"wer": value}
    for values, baseline in ((broken, BASELINE), (BASELINE, broken)):
        with pytest.raises(ScoringError, match="metric wer"):
            constraint.violation(values, baseline)


def test_what_follows_from_a_plan_is_known_before_scoring() -> None:
    texts = ("size <= 1 GB", "size at 4 bit <= 1 GB", "wer <= 5%")
    assert [is_static(parse_constraint(text).metric) for text in texts] == [True, True, False]


def test_a_broken_constraint_is_told_with_the_value_that_breaks_it() -> None:
    values = {"size_bytes": 30.1e9, "wer": 0.0712}
    assert parse_constraint("size <= 20 GB").with_value(values) == "size <= 20 GB (it is 30.10 GB)"
    assert parse_constraint("wer <= 5%").with_value(values) == "wer <= 5% (it is 7.12%)"


DIRECTIONS = {"size_bytes": "minimize", "wer": "minimize", "wer/zh": "minimize", "accuracy": "maximize"}


def constraints(*texts: str) -> tuple[Constraint, ...]:
    return tuple(map(parse_constraint, texts))


def test_constraints_on_what_is_measured_pass() -> None:
    check_measured(constraints("size <= 1 GB", "wer <= 5%", "wer/zh <= 9%", "accuracy >= 80%"), DIRECTIONS, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wer/zz <= 5%", "here: unknown metric in 'wer/zz <= 5%'"),
        ("werr <= 5%", r"here: unknown metric in 'werr <= 5%' \(known: size_bytes, wer, wer/zh, accuracy\)"),
        ("wer.noisy <= 5%", "unknown metric in 'wer.noisy <= 5%'"),
        ("wer >= 5%", r"here: wer is better lower.*\(use <=\)"),
        ("accuracy <= 5%", r"accuracy is better higher.*\(use >=\)"),
    ],
)
def test_a_constraint_on_what_is_not_measured_or_on_the_good_side_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_measured(constraints(text), DIRECTIONS, "here")
