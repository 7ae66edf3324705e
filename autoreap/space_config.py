"""A file of search_spaces/ -> what to search, and on what. All mistakes are reported at once, each with its line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoreap import checks
from autoreap.calibration_config import CalibrationConfig, calibration_section
from autoreap.candidate import INTEGERS, PRESETS, Candidate
from autoreap.checks import Problems, read_yaml
from autoreap.errors import InputError

SAMPLERS = ("tpe", "random", "nsgaii", "gp")
DIRECTIONS = {"minimise": "minimize", "minimize": "minimize", "maximise": "maximize", "maximize": "maximize"}
SELECTION_RULES = ("knee",)  # the others need a number that only their user knows


@dataclass(frozen=True)
class Range:
    """A parameter to sample from `low` to `high`, in steps of `step` where given."""

    low: float
    high: float
    step: float | None = None


# Fixed value, range, or list of choices.


# Fixed value, range, or list of choices.
Parameter = float | int | str | bool | Range | tuple[Any, ...]


@dataclass(frozen=True)
class SpaceConfig:
    """What to search, and on what: one file of search_spaces/."""

    path: Path
    name: str
    calibration: CalibrationConfig
    evals: Path
    parameters: Mapping[str, Parameter]
    objectives: Mapping[str, str]
    trials: int = 100
    hours: float | None = None
    seed: int = 0
    sampler: str = "tpe"
    presets: tuple[str, ...] = tuple(PRESETS)
    materialise: str | None = None
    batch_size: int = 32
    racing: bool = True


def load_space(path: Path) -> SpaceConfig:
    """Read a file of search_spaces/. Paths in it are relative to it."""
    document, problems = read_yaml(path)
    known = ["calibration", "evals", "parameters", "objectives", "trials", "hours", "seed", "sampler", "presets"]
    problems.unknown_keys(document, [*known, "materialise", "batch_size", "racing"])
    for key in ("calibration", "evals", "parameters"):
        if document.get(key) in (None, ""):
            problems.add((), f"key {key} is missing")
    plain = {
        "trials": problems.take(document, "trials", (), checks.is_positive_integer),
        "batch_size": problems.take(document, "batch_size", (), checks.is_positive_integer),
        "racing": problems.take(document, "racing", (), lambda v: None if type(v) is bool else "must be true or false"),
        "hours": problems.take(document, "hours", (), checks.is_positive_number),
        "seed": problems.take(
            document, "seed", (), lambda v: None if type(v) is int and v >= 0 else "must be an integer of at least 0"
        ),
        "sampler": problems.take(document, "sampler", (), checks.one_of(SAMPLERS)),
        "materialise": problems.take(document, "materialise", (), checks.one_of(SELECTION_RULES)),
    }
    calibration = calibration_section(document.get("calibration", {}), ("calibration",), path.parent, problems)
    if isinstance(document.get("calibration"), dict) and "audio" not in document["calibration"]:
        problems.add(("calibration",), "key audio is missing")
    presets: list[str] | None = problems.take(document, "presets", (), checks.all_of(tuple(PRESETS)))
    evals = problems.take(document, "evals", (), checks.is_string)
    space: dict[str, Any] = {
        "path": path,
        "name": path.stem,
        "calibration": calibration,
        "evals": path.parent / (evals or ""),
        "presets": tuple(PRESETS) if presets is None else tuple(presets),
        "parameters": _parameters(document.get("parameters", {}), problems),
        "objectives": _objectives(document.get("objectives", {"size_bytes": "minimise", "wer": "minimise"}), problems),
        **{key: value for key, value in plain.items() if value is not None},
    }
    problems.finish()
    return SpaceConfig(**space)


def _parameters(section: Any, problems: Problems) -> dict[str, Parameter]:
    known = Candidate().parameters()
    if not isinstance(section, dict) or not section:
        problems.add(("parameters",), f"must name what to search: {', '.join(known)}")
        return {}
    problems.unknown_keys(section, list(known), ("parameters",))
    parameters = {}
    for name, value in section.items():
        if name in known:
            parameter, fault = _parameter(name, value, integer=name in INTEGERS)
            parameters[name] = parameter
            if fault:
                problems.add(("parameters", name), fault)
    return parameters


def _parameter(name: str, value: Any, *, integer: bool) -> tuple[Any, str | None]:
    """The parameter, and what is wrong with it. Single values are judged by `Candidate` itself."""
    if isinstance(value, list):
        faults = [_fault(name, choice) for choice in value] or ["needs at least one choice"]
        return tuple(value), next(filter(None, faults), None)
    if not isinstance(value, dict):
        return value, _fault(name, value)
    if not {"low", "high"} <= set(value) <= {"low", "high", "step"}:
        return None, f"a range has low, high and, if need be, step, got {value!r}"
    step = value.get("step", 1 if integer else None)
    parameter = Range(low=value["low"], high=value["high"], step=step)
    if fault := _fault(name, value["low"]) or _fault(name, value["high"]):
        return parameter, fault
    if value["low"] > value["high"]:
        return parameter, f"low must not exceed high, got {value!r}"
    if step is not None and ((integer and type(step) is not int) or checks.is_positive_number(step)):
        return parameter, f"step must be {'an integer' if integer else 'a number'} above 0, got {step!r}"
    return parameter, None


def _fault(name: str, value: Any) -> str | None:
    try:
        Candidate.from_parameters({name: value})
    except InputError as error:
        return error.problem
    return None


def _objectives(section: Any, problems: Problems) -> dict[str, str]:
    if not isinstance(section, dict) or not section:
        problems.add(("objectives",), "must map metrics to minimise or maximise")
        return {}
    for metric, direction in section.items():
        if str(direction) not in DIRECTIONS:
            problems.add(("objectives", metric), f"must be minimise or maximise, got {direction!r}")
    return {metric: DIRECTIONS.get(str(direction), "minimize") for metric, direction in section.items()}
