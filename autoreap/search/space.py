"""A file of search_spaces/ -> what to search, and on what. All mistakes are reported at once, each with its line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, StrictBool, StrictStr
from pydantic.dataclasses import dataclass as validated_dataclass

from autoreap.candidate import CONTROLS, NONE, PRESETS, Candidate
from autoreap.data.calibration_config import CalibrationConfig
from autoreap.data.yaml_file import read_yaml
from autoreap.errors import InputError
from autoreap.search.constraints import Constraint, parse_constraint
from autoreap.search.parameters import Conditions, Parameter, Parameters, Range, read_parameters
from autoreap.validation import (
    NO_OTHER_KEYS,
    Count,
    Mistake,
    PositiveInteger,
    PositiveNumber,
    Section,
    Text,
    error_of,
    one_of,
)

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
SELECTION_RULES = ("safe", "knee")  # the others need a number that only their user knows


@dataclass(frozen=True)
class SpaceConfig:
    """What to search, and on what: one file of search_spaces/.

    Attributes:
        model: what is searched, unless the command line says another; None leaves it to that.
        parameters: by name, in the order in which they are sampled.
        conditions: of the parameters that are sampled only with certain values of others.
        objectives: metric -> minimize or maximize, in the order of a trial's values.
        constraints: what a candidate must keep to be on the front.
        sampler: name of a class of `optuna.samplers`; `sampler_arguments` go to it.
        presets, controls: names of candidates to score first.
        racing: stop candidates that can no longer reach the front.
        confirm: score the front on the report split when the search ends.
        confirm_hours: after which no further member is begun there; the smallest come first.
        materialise: the rule that selects what ships at the end; None ships nothing.
        margins: by metric, the largest loss against the unpruned model that counts as none, as a fraction.
    """

    path: Path
    name: str
    calibration: CalibrationConfig
    evals: Path
    parameters: Mapping[str, Parameter]
    objectives: Mapping[str, str]
    model: str | None = None
    conditions: Conditions = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    trials: int = 100
    hours: float | None = None
    seed: int = 0
    sampler: str = SAMPLERS["tpe"]
    sampler_arguments: Mapping[str, Any] = field(default_factory=dict)
    presets: tuple[str, ...] = tuple(PRESETS)
    controls: tuple[str, ...] = ()
    materialise: str | None = SELECTION_RULES[0]
    margins: Mapping[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    racing: bool = True
    confirm: bool = True
    confirm_hours: float | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The metrics that objectives and constraints are about."""
        return (*self.objectives, *(constraint.metric for constraint in self.constraints))

    def spec(self, name: str) -> Any:
        """What parameter `name` may be; where the space leaves it out, a candidate's ordinary value."""
        if name in self.parameters:
            return self.parameters[name]
        return Candidate().parameters().get(name)

    def searches(self, name: str) -> bool:
        """Whether parameter `name` is sampled, from a range or from choices."""
        return isinstance(self.parameters.get(name), Range | tuple)

    def where(self, name: str) -> str:
        """The place of parameter `name`, for messages."""
        return f"{self.path}: parameters.{name}"

    @property
    def heal_choices(self) -> tuple[str, ...]:
        """How candidates may be healed, `none` among them where they may be left as they are."""
        heal = self.spec("heal")
        return heal if isinstance(heal, tuple) else (str(heal),)

    @property
    def heals(self) -> bool:
        """Whether a candidate or a control may be healed."""
        return set(self.heal_choices) != {NONE} or any(CONTROLS[name].heal != NONE for name in self.controls)


def _read_objectives(section: Any) -> dict[str, str]:
    if not isinstance(section, dict) or not section:
        raise error_of([((), "must map metrics to minimise or maximise")])
    objectives = {}
    mistakes: list[Mistake] = []
    for metric, direction in section.items():
        if str(direction) in DIRECTIONS:
            objectives[metric] = DIRECTIONS[direction]
        else:
            mistakes.append(((metric,), f"must be minimise or maximise, got {direction!r}"))
    if mistakes:
        raise error_of(mistakes)
    return objectives


def _read_constraints(section: Any) -> tuple[Constraint, ...]:
    if not isinstance(section, list):
        raise error_of([((), "must be a list such as ['size <= 20 GB', 'wer <= baseline + 0.5 points']")])
    constraints: dict[str, Constraint] = {}  # one that is there twice counts once
    mistakes: list[Mistake] = []
    for number, text in enumerate(section):
        try:
            constraint = parse_constraint(str(text))
        except InputError as error:
            mistakes.append(((number,), error.problem))
            continue
        constraints[constraint.text] = constraint
    if mistakes:
        raise error_of(mistakes)
    return tuple(constraints.values())


@dataclass(frozen=True)
class _Sampler:
    name: str
    arguments: Mapping[str, Any]


def _read_sampler(section: Any) -> _Sampler:
    """Class and arguments of the sampler; whether they fit each other is judged where it is made."""
    arguments = dict(section) if isinstance(section, dict) else {"name": section}
    name = str(arguments.pop("name", None))
    # The class itself is looked up when a search begins: to read a file of a space takes no Optuna.
    if name not in SAMPLERS and not name.endswith("Sampler"):
        message = f"must be one of {', '.join(SAMPLERS)}, or a class of optuna.samplers, got {section!r}"
        raise error_of([(("name",), message)])
    return _Sampler(SAMPLERS.get(name, name), arguments)


def _read_rule(written: Any) -> str | None:
    if written is False:  # None would be an absent key, which is the default
        return None
    if written not in SELECTION_RULES:
        raise ValueError(f"must be one of {', '.join(SELECTION_RULES)}, or false")
    return str(written)


@validated_dataclass(frozen=True, config=NO_OTHER_KEYS)
class _SpaceFile(Section):
    """A space as a file writes it."""

    calibration: CalibrationConfig
    evals: Text
    parameters: Annotated[Parameters, PlainValidator(read_parameters)]
    model: Text | None = None
    objectives: Annotated[dict[str, str], PlainValidator(_read_objectives)] = field(
        default_factory=lambda: {"size_bytes": "minimize", "wer": "minimize"}
    )
    constraints: Annotated[tuple[Constraint, ...], PlainValidator(_read_constraints)] = ()
    sampler: Annotated[_Sampler, PlainValidator(_read_sampler)] = _Sampler(SAMPLERS["tpe"], {})
    trials: PositiveInteger = 100
    hours: PositiveNumber | None = None
    seed: Count = 0
    presets: tuple[Annotated[StrictStr, one_of(PRESETS)], ...] = tuple(PRESETS)
    controls: tuple[Annotated[StrictStr, one_of(CONTROLS)], ...] = ()
    materialise: Annotated[str | None, PlainValidator(_read_rule)] = SELECTION_RULES[0]
    margins: dict[StrictStr, PositiveNumber] = field(default_factory=dict)
    batch_size: PositiveInteger | None = None
    racing: StrictBool = True
    confirm: StrictBool = True
    confirm_hours: PositiveNumber | None = None

    @classmethod
    def mistakes(cls, values: Mapping[str, Any], context: Any) -> Iterator[Mistake]:
        """A calibration without audio; a file of its own may leave that to the options of a command."""
        calibration = values.get("calibration")
        if isinstance(calibration, dict) and calibration.get("audio") is None:
            yield ("calibration",), "key audio is missing"


def load_space(path: Path) -> SpaceConfig:
    """Read a file of search_spaces/. Paths in it are relative to it."""
    file = read_yaml(path).parse(_SpaceFile)
    # Most keys are taken as the file writes them; these are not.
    values = vars(file) | {
        "path": path,
        "name": path.stem,
        "evals": path.parent / file.evals,
        "parameters": file.parameters.values,
        "conditions": file.parameters.conditions,
        "sampler": file.sampler.name,
        "sampler_arguments": file.sampler.arguments,
        # In points there, as fractions here.
        "margins": {metric: points / 100 for metric, points in file.margins.items()},
    }
    return SpaceConfig(**values)
