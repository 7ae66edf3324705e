"""The `parameters` of a space: for each one what it may be, and when it is sampled at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoreap.candidate import FRACTION_OF_COUNT, INTEGERS, Candidate
from autoreap.errors import InputError
from autoreap.validation import KeyPath, Mistake, error_of


@dataclass(frozen=True)
class Range:
    """A parameter to sample from `low` to `high`, in steps of `step` where given, on a log scale if `log`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


# Fixed value, range, or choices.
Parameter = float | int | str | bool | Range | tuple[Any, ...]

# parameter -> (another one -> the values of it with which the parameter is sampled)
Conditions = Mapping[str, Mapping[str, tuple[Any, ...]]]

_FORMS = "a range has low, high and, if need be, step or log; choices and value work, too"


@dataclass(frozen=True)
class Parameters:
    """What a space samples.

    Attributes:
        values: by name, in the order in which they are sampled.
        conditions: of those that are sampled only with certain values of others.
    """

    values: Mapping[str, Parameter]
    conditions: Conditions


def read_parameters(section: Any) -> Parameters:
    """The parameters that a file asks for, in its order; `ValidationError` with all its mistakes."""
    known = [*Candidate().parameters(), *FRACTION_OF_COUNT]
    if not isinstance(section, dict) or not section:
        raise error_of([((), f"must name what to search: {', '.join(known)}")])
    mistakes: list[Mistake] = []
    values: dict[str, Parameter] = {}
    conditions: dict[str, Mapping[str, tuple[Any, ...]]] = {}
    for name, written in section.items():
        if name not in known:
            mistakes.append(((name,), f"unknown key; known: {', '.join(known)}"))
            continue
        fraction = FRACTION_OF_COUNT.get(name)  # None of most, and no key of a section
        if fraction in section:
            mistakes.append(((name,), f"counts what {fraction} gives as a fraction; give one of them"))
        when = written.get("when") if isinstance(written, dict) else None
        if when is not None:
            conditions[name] = _read_condition(when, values, (name, "when"), mistakes)
        try:
            values[name] = _read_parameter(name, written)
        except ValueError as error:
            mistakes.append(((name,), str(error)))
            values[name] = written  # so that conditions on it are judged, too
    if mistakes:
        raise error_of(mistakes)
    return Parameters(values, conditions)


def _read_parameter(name: str, written: Any) -> Parameter:
    """The parameter; `ValueError` says what is wrong with it."""
    if isinstance(written, list):
        if not written:
            raise ValueError("needs at least one choice")
        for choice in written:
            _check_value(name, choice)
        return tuple(written)
    if not isinstance(written, dict):
        _check_value(name, written)
        fixed: Parameter = written
        return fixed
    spec = {key: part for key, part in written.items() if key != "when"}
    if set(spec) == {"value"}:
        return _read_parameter(name, spec["value"])
    if set(spec) == {"choices"} and isinstance(spec["choices"], list):
        return _read_parameter(name, spec["choices"])
    if not {"low", "high"} <= set(spec) <= {"low", "high", "step", "log"}:
        raise ValueError(f"{_FORMS}, got {written!r}")
    return _read_range(name, spec)


def _read_range(name: str, spec: Mapping[str, Any]) -> Range:
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    is_integer = name in INTEGERS
    usual_step = 1 if is_integer else None
    step = spec.get("step", usual_step)
    _check_value(name, low)
    _check_value(name, high)
    if type(low) not in (int, float):  # `isinstance` would take true and false for integers
        raise ValueError(f"has no order; list its choices instead, got {spec!r}")
    # Optuna would raise at the first draw, when the model is loaded.
    if low > high:
        raise ValueError(f"low must not exceed high, got {spec!r}")
    # `type`, not `isinstance`: in Python true is an integer, in a file it is a mistake.
    if is_integer and (type(step) is not int or step <= 0):
        raise ValueError(f"step must be an integer above 0, got {step!r}")
    if step is not None and (type(step) not in (int, float) or not step > 0):
        raise ValueError(f"step must be a number above 0, got {step!r}")
    if not isinstance(log, bool):
        raise ValueError(f"log must be true or false, got {log!r}")
    if log and ("step" in spec or low <= 0):
        raise ValueError(f"on a log scale low must be above 0, and there is no step, got {spec!r}")
    return Range(low, high, step, log)


def _read_condition(
    when: Any, above: Mapping[str, Parameter], at: KeyPath, mistakes: list[Mistake]
) -> Mapping[str, tuple[Any, ...]]:
    """The values that parameters listed `above` must have; each of them is one that they can have."""
    if not isinstance(when, dict) or not when:
        mistakes.append((at, f"must map a parameter to its value or a list of them, got {when!r}"))
        return {}
    condition = {}
    for name, written in when.items():
        if name not in above:
            there = ", ".join(above) or "none"
            mistakes.append(((*at, name), f"must be a parameter listed above; there are: {there}"))
            continue
        values = tuple(written) if isinstance(written, list) else (written,)
        for value in values:
            if not can_be(above[name], value):
                mistakes.append(((*at, name), f"{name} is never {value!r} here"))
                break
        condition[name] = values
    return condition


def lowest(spec: Any) -> float:
    """The lowest value that a parameter can take."""
    return float(_ends(spec)[0])


def highest(spec: Any) -> float:
    """The highest value that a parameter can take."""
    return float(_ends(spec)[1])


def _ends(spec: Any) -> tuple[Any, Any]:
    if isinstance(spec, Range):
        return spec.low, spec.high
    if isinstance(spec, tuple):
        return min(spec), max(spec)
    return spec, spec


def can_be(parameter: Parameter, value: Any) -> bool:
    """Whether `value` is the fixed one, a choice, or within the range."""
    if isinstance(parameter, Range):
        return type(value) in (int, float) and parameter.low <= value <= parameter.high
    if isinstance(parameter, tuple):
        return value in parameter
    return bool(value == parameter)


def _check_value(name: str, value: Any) -> None:
    """Raise `ValueError` if the parameter can't have `value`. `Candidate` judges those that it knows."""
    if name in FRACTION_OF_COUNT:
        if type(value) is not int or value <= 0:
            raise ValueError(f"must be an integer above 0, got {value!r}")
        return
    # Alone, with ordinary values for the rest: rules between parameters are judged for each trial.
    try:
        Candidate.from_parameters({name: value})
    except InputError as error:
        raise ValueError(error.problem) from None
