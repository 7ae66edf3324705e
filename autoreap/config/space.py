"""A file of search_spaces/ -> what to search, and on what. All mistakes are reported at once, each with its line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoreap.candidate import CONTROLS, PRESETS
from autoreap.config import checks
from autoreap.config.calibration import CalibrationConfig, calibration_section
from autoreap.config.checks import Problems, read_yaml
from autoreap.config.parameters import Conditions, Parameter, parameters_section
from autoreap.constraints import Constraint, parse_constraint
from autoreap.errors import InputError

# Short names of Optuna's samplers; the full name of any other works too.
SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
}
DIRECTIONS = {"minimise": "minimize", "minimize": "minimize", "maximise": "maximize", "maximize": "maximize"}
SELECTION_RULES = ("knee",)  # the others need a number that only their user knows


@dataclass(frozen=True)
class SpaceConfig:
    """What to search, and on what: one file of search_spaces/.

    Attributes:
        parameters: by name, in the order in which they are sampled.
        conditions: of the parameters that are sampled only with certain values of others.
        objectives: metric -> minimize or maximize, in the order of a trial's values.
        constraints: what a candidate must keep to be on the front.
        sampler: name of a class of `optuna.samplers`; `sampler_arguments` go to it.
        presets, controls: names of candidates to score first.
        racing: stop candidates that can no longer reach the front.
        confirm: score the front on the report split when the search ends.
        screening: score in full only those that a screen does not tell from better ones.
        materialise: the rule that selects what ships at the end; None ships nothing.
    """

    path: Path
    name: str
    calibration: CalibrationConfig
    evals: Path
    parameters: Mapping[str, Parameter]
    objectives: Mapping[str, str]
    conditions: Conditions = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    trials: int = 100
    hours: float | None = None
    seed: int = 0
    sampler: str = SAMPLERS["tpe"]
    sampler_arguments: Mapping[str, Any] = field(default_factory=dict)
    presets: tuple[str, ...] = tuple(PRESETS)
    controls: tuple[str, ...] = ()
    materialise: str | None = None
    batch_size: int | None = None
    racing: bool = True
    confirm: bool = True
    screening: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The metrics that objectives and constraints are about."""
        return (*self.objectives, *(name for constraint in self.constraints for name in constraint.needs))


_SECTIONS = ("calibration", "evals", "parameters", "objectives", "constraints", "sampler")
_CHECKS = {
    "trials": checks.is_positive_integer,
    "hours": checks.is_positive_number,
    "seed": lambda value: None if type(value) is int and value >= 0 else "must be an integer of at least 0",
    "presets": checks.all_of(tuple(PRESETS)),
    "controls": checks.all_of(tuple(CONTROLS)),
    "materialise": checks.one_of(SELECTION_RULES),
    "batch_size": checks.is_positive_integer,
    "racing": checks.is_bool,
    "confirm": checks.is_bool,
    "screening": checks.is_bool,
}


def load_space(path: Path) -> SpaceConfig:
    """Read a file of search_spaces/. Paths in it are relative to it."""
    document, problems = read_yaml(path)
    problems.unknown_keys(document, [*_SECTIONS, *_CHECKS])
    for key in ("calibration", "evals", "parameters"):
        if document.get(key) in (None, ""):
            problems.add((), f"key {key} is missing")
    calibration = calibration_section(document.get("calibration", {}), ("calibration",), path.parent, problems)
    if isinstance(document.get("calibration"), dict) and "audio" not in document["calibration"]:
        problems.add(("calibration",), "key audio is missing")
    evals = problems.take(document, "evals", (), checks.is_string)
    parameters, conditions = parameters_section(document.get("parameters", {}), problems)
    sampler, sampler_arguments = _sampler(document.get("sampler", "tpe"), problems)
    plain = {key: problems.take(document, key, (), check) for key, check in _CHECKS.items()}
    space: dict[str, Any] = {
        "path": path,
        "name": path.stem,
        "calibration": calibration,
        "evals": path.parent / (evals or ""),
        "parameters": parameters,
        "conditions": conditions,
        "objectives": _objectives(document.get("objectives", {"size_bytes": "minimise", "wer": "minimise"}), problems),
        "constraints": _constraints(document.get("constraints", []), problems),
        "sampler": sampler,
        "sampler_arguments": sampler_arguments,
        **{key: tuple(v) if isinstance(v, list) else v for key, v in plain.items() if v is not None},
    }
    problems.finish()
    return SpaceConfig(**space)


def _objectives(section: Any, problems: Problems) -> dict[str, str]:
    if not isinstance(section, dict) or not section:
        problems.add(("objectives",), "must map metrics to minimise or maximise")
        return {}
    for metric, direction in section.items():
        if str(direction) not in DIRECTIONS:
            problems.add(("objectives", metric), f"must be minimise or maximise, got {direction!r}")
    return {metric: DIRECTIONS.get(str(direction), "minimize") for metric, direction in section.items()}


def _constraints(section: Any, problems: Problems) -> tuple[Constraint, ...]:
    if not isinstance(section, list):
        problems.add(("constraints",), "must be a list such as ['size <= 20 GB', 'wer <= baseline + 0.5 points']")
        return ()
    found: dict[str, Constraint] = {}
    for number, text in enumerate(section):
        try:
            constraint = parse_constraint(text if isinstance(text, str) else str(text))
        except InputError as error:
            problems.add(("constraints", number), error.problem)
            continue
        found[constraint.text] = constraint
    return tuple(found.values())


def _sampler(section: Any, problems: Problems) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of the sampler; whether they fit each other is judged by `samplers.sampler`."""
    arguments = dict(section) if isinstance(section, dict) else {"name": section}
    name = str(arguments.pop("name", None))
    if name not in SAMPLERS and not name.endswith("Sampler"):
        at = ("sampler", "name") if isinstance(section, dict) and "name" in section else ("sampler",)
        problems.add(at, f"must be one of {', '.join(SAMPLERS)}, or a class of optuna.samplers, got {section!r}")
    return SAMPLERS.get(name, name), {str(key): value for key, value in arguments.items()}
