"""The `parameters` of a space: for each one what it may be, and when it is sampled at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoreap.candidate import FRACTION_OF_COUNT, INTEGERS, Candidate
from autoreap.config import checks
from autoreap.config.checks import KeyPath, Problems
from autoreap.errors import InputError


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

_AT = ("parameters",)
_FORMS = "a range has low, high and, if need be, step or log; choices and value work, too"


def parameters_section(section: Any, problems: Problems) -> tuple[dict[str, Parameter], Conditions]:
    """What the section asks for, in its order; its mistakes are added to `problems`."""
    known = [*Candidate().parameters(), *FRACTION_OF_COUNT]
    if not isinstance(section, dict) or not section:
        problems.add(_AT, f"must name what to search: {', '.join(known)}")
        return {}, {}
    problems.unknown_keys(section, known, _AT)
    parameters: dict[str, Parameter] = {}
    conditions: dict[str, Mapping[str, tuple[Any, ...]]] = {}
    for name, value in section.items():
        if name not in known:
            continue
        if FRACTION_OF_COUNT.get(name) in section:
            problems.add((*_AT, name), f"counts what {FRACTION_OF_COUNT[name]} gives as a fraction; give one of them")
        when = value.get("when") if isinstance(value, dict) else None
        if when is not None:
            conditions[name] = _condition(when, parameters, (*_AT, name, "when"), problems)
        parameters[name], fault = _parameter(name, value)
        if fault:
            problems.add((*_AT, name), fault)
    return parameters, conditions


def _parameter(name: str, value: Any) -> tuple[Any, str | None]:
    """The parameter, and what is wrong with it."""
    if isinstance(value, list):
        faults = [_fault(name, choice) for choice in value] or ["needs at least one choice"]
        return tuple(value), next(filter(None, faults), None)
    if not isinstance(value, dict):
        return value, _fault(name, value)
    spec = {key: part for key, part in value.items() if key != "when"}
    if set(spec) == {"value"}:
        return _parameter(name, spec["value"])
    if set(spec) == {"choices"} and isinstance(spec["choices"], list):
        return _parameter(name, spec["choices"])
    if not {"low", "high"} <= set(spec) <= {"low", "high", "step", "log"}:
        return None, f"{_FORMS}, got {value!r}"
    return _range(name, spec)


def _range(name: str, spec: Mapping[str, Any]) -> tuple[Range | None, str | None]:
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    integer = name in INTEGERS
    step = spec.get("step", 1 if integer else None)
    if fault := _fault(name, low) or _fault(name, high):
        return None, fault
    if type(low) not in (int, float):
        return None, f"has no order; list its choices instead, got {spec!r}"
    if low > high:
        return None, f"low must not exceed high, got {spec!r}"
    if step is not None and ((integer and type(step) is not int) or checks.is_positive_number(step)):
        return None, f"step must be {'an integer' if integer else 'a number'} above 0, got {step!r}"
    if not isinstance(log, bool):
        return None, f"log must be true or false, got {log!r}"
    if log and ("step" in spec or low <= 0):
        return None, f"on a log scale low must be above 0, and there is no step, got {spec!r}"
    return Range(low, high, step, log), None


def _condition(
    when: Any, above: Mapping[str, Parameter], at: KeyPath, problems: Problems
) -> Mapping[str, tuple[Any, ...]]:
    """The values that parameters listed `above` must have; each of them is one that they can have."""
    if not isinstance(when, dict) or not when:
        problems.add(at, f"must map a parameter to its value or a list of them, got {when!r}")
        return {}
    condition = {}
    for name, values in when.items():
        if name not in above:
            problems.add((*at, name), f"must be a parameter listed above; there are: {', '.join(above) or 'none'}")
            continue
        condition[name] = tuple(values) if isinstance(values, list) else (values,)
        impossible = [value for value in condition[name] if not can_be(above[name], value)]
        if impossible:
            problems.add((*at, name), f"{name} is never {impossible[0]!r} here")
    return condition


def can_be(parameter: Parameter, value: Any) -> bool:
    """Whether `value` is the fixed one, a choice, or within the range."""
    if isinstance(parameter, Range):
        return type(value) in (int, float) and parameter.low <= value <= parameter.high
    return value in parameter if isinstance(parameter, tuple) else value == parameter


def _fault(name: str, value: Any) -> str | None:
    """What is wrong with one value. `Candidate` judges those that it knows."""
    if name in FRACTION_OF_COUNT:
        fault = checks.is_positive_integer(value)
        return f"{fault}, got {value!r}" if fault else None
    try:
        Candidate.from_parameters({name: value})
    except InputError as error:
        return error.problem
    return None
