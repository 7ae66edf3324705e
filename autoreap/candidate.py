"""The values that a trial samples, under the names users write, and the presets."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, StrictBool, StrictInt, StrictStr, TypeAdapter

from autoreap.errors import InputError
from autoreap.validation import Count, Number, PositiveInteger, PositiveNumber, one_of, validate

Ranking = Literal["affinity", "reap", "frequency", "random"]
LayerSelection = Literal["single", "block", "loss"]
Heal = Literal["none", "block", "stream", "cuts"]
Preset = Literal["light", "medium", "aggressive"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
LAYER_SELECTIONS: tuple[LayerSelection, ...] = get_args(LayerSelection)
HEALS: tuple[Heal, ...] = get_args(Heal)
NONE = "none"  # of `heal` and `heal_condition`
BITS = (16, 8, 4)  # of a weight: as stored, or packed
DEFAULT_GROUP_SIZE = 32

# (retention, layers cut on the 48 layers of the 30B model); REAP-OMNI's recommended sets.
PRESETS = {"light": (0.75, 4), "medium": (0.5, 8), "aggressive": (0.25, 12)}
PRESET_DEPTH = 48
CONTROL_PRESET = "medium"
# A space may count experts; a model's shape makes the fraction of the count.
FRACTION_OF_COUNT = {"experts": "retention", "talker.experts": "talker.retention"}
INTEGERS = (
    "layers_cut",
    "talker.layers_cut",
    "protect_first",
    "protect_last",
    "seed",
    "active_experts",
    "bits",
    "bits_rest",
    "bits_group",
    *FRACTION_OF_COUNT,
)

# Python can't call a field `lambda`; everywhere a user looks, the parameter is.
_PARAMETER_OF_FIELD = {
    "lambda_": "lambda",
    "talker_retention": "talker.retention",
    "talker_layers_cut": "talker.layers_cut",
}

Fraction = Annotated[Number, Field(gt=0, le=1)]
Weight = Annotated[Number, Field(ge=0)]
Cosine = Annotated[Number, Field(ge=-1, le=1)]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point of the search space; `plan.make_plan` turns it into the exact edit.

    Attributes:
        retention: fraction of the thinker's experts kept in each layer, in (0, 1].
        lambda_: weight of the contrast term in the audio affinity, >= 0.
        beta: how much of the video saliency the contrast subtracts from the mixed one, >= 0.
        layers_cut: number of thinker layers cut.
        saliency: which ranking of experts, one of `RANKINGS`.
        layer_selection: cut the most similar single layers, or one block of consecutive layers, or those by whose cuts
            the answers to the calibration rows lose least (the thinker's alone).
        similarity_threshold: least cosine of a layer (or block) that is cut, so that fewer than `layers_cut` may be;
            -1 cuts them whatever their cosine. Layers that are cut by loss have no threshold.
        protect_first, protect_last: how many layers at either end are never cut; None: a twelfth of the depth.
        seed: seed of the `random` ranking; the other rankings have no randomness.
        strip_vision: drop the vision tower; nothing to drop in a model that can't see.
        drop_speech: drop the talker and the waveform decoder.
        heal: how the retained weights of each decoder that is pruned are fitted again, or `none`; see `plan.Healing`.
            The talker's are where it was measured.
        heal_ridge: strength of the penalty on what healing changes, above 0.
        heal_condition: what the pruned model hears while it is healed: the keys of a `data.conditions.Condition` in a
            line, such as `noise: brown, snr_db: 10`; `none` leaves the recordings as they are.
        active_experts: how many experts the thinker routes a token to; None: as many as the model does.
        bits: of a weight of an expert, the talker's too: 16 (as stored), 8 or 4.
        bits_rest: the same of the other matrices of the thinker's layers.
        bits_group: neighbouring weights of a row that share a scale, where they have fewer than 16 bits.
        talker_retention: as `retention`, for the talker.
        talker_layers_cut: as `layers_cut`, for the talker.

    Example:
        >>> candidate = Candidate.from_parameters({"retention": 0.5, "lambda": 2.0, "layers_cut": 1})
        >>> candidate.lambda_, candidate.parameters()["lambda"]
        (2.0, 2.0)
    """

    retention: Fraction = 1.0
    lambda_: Weight = 1.0
    beta: Weight = 1.0
    layers_cut: Count = 0
    saliency: Annotated[StrictStr, one_of(RANKINGS)] = "affinity"
    layer_selection: Annotated[StrictStr, one_of(LAYER_SELECTIONS)] = "single"
    similarity_threshold: Cosine = -1.0
    protect_first: Count | None = None
    protect_last: Count | None = None
    seed: Count = 0
    strip_vision: StrictBool = False
    drop_speech: StrictBool = False
    heal: Annotated[StrictStr, one_of(HEALS)] = NONE
    heal_ridge: PositiveNumber = 0.001
    heal_condition: StrictStr = NONE
    active_experts: PositiveInteger | None = None
    bits: Annotated[StrictInt, one_of(BITS)] = 16
    bits_rest: Annotated[StrictInt, one_of(BITS)] = 16
    bits_group: PositiveInteger = DEFAULT_GROUP_SIZE
    talker_retention: Fraction = 1.0
    talker_layers_cut: Count = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            validate(_type_of(field.name), getattr(self, field.name), parameter_name(field.name))
        if self.drop_speech and (self.talker_retention < 1 or self.talker_layers_cut):
            raise InputError("the talker is either pruned or dropped", where="drop_speech", fix="leave one of them out")
        if self.heal_condition != NONE:
            # Whoever plans without healing need not wait for the libraries that read recordings.
            from autoreap.data.conditions import read_condition

            # The pruned model hears rows under this condition, and the unpruned one without.
            if read_condition(self.heal_condition, where="heal_condition").speed != 1:
                problem = "the two models must hear recordings of the same length"
                raise InputError(problem, where="heal_condition", fix="leave speed out")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "Candidate":
        """Build from parameter names as users write them (`lambda`, `talker.retention`, ...)."""
        field_of = {parameter_name(field.name): field.name for field in fields(cls)}
        values = {}
        for name, value in sorted(parameters.items()):
            if name not in field_of:
                fix = f"known: {', '.join(sorted(field_of))}"
                raise InputError(f"unknown parameter {name!r}", where="candidate", fix=fix)
            values[field_of[name]] = value
        return cls(**values)

    def parameters(self) -> dict[str, Any]:
        """All values under the names users write; `from_parameters` inverts it."""
        return {parameter_name(field.name): getattr(self, field.name) for field in fields(self)}


# To make an adapter takes longer than to check a value by it, and a search makes thousands of candidates.
@cache
def _type_of(field_name: str) -> TypeAdapter[Any]:
    """What a field of `Candidate` may hold."""
    return TypeAdapter(get_type_hints(Candidate, include_extras=True)[field_name])


def parameter_name(field_name: str) -> str:
    """The name under which users and trials know a field of `Candidate`."""
    return _PARAMETER_OF_FIELD.get(field_name, field_name)


def preset(name: str, num_layers: int, *, dense: bool = False) -> Candidate:
    """The preset `name` for a thinker of `num_layers` layers; vision, where there is any, is always stripped."""
    retention, layers_cut = preset_values(name, num_layers, dense=dense)
    return Candidate(retention=retention, layers_cut=layers_cut, strip_vision=True)


# What a search is compared with: the medium preset with another ranking of experts, or with none and healed.
CONTROLS = {
    "random": Candidate(saliency="random"),
    "uniform-reap": Candidate(saliency="reap"),
    "random-healed": Candidate(saliency="random", heal="stream"),
}


def control(name: str, num_layers: int) -> Candidate:
    """The control `name` for a thinker of `num_layers` layers; its random experts are those of seed 0."""
    values = preset(CONTROL_PRESET, num_layers)
    return replace(values, saliency=CONTROLS[name].saliency, heal=CONTROLS[name].heal)


def preset_values(name: str, num_layers: int, *, dense: bool = False) -> tuple[float, int]:
    """Retention and layers cut of the preset `name` for a decoder of `num_layers` layers: cuts scale with depth.

    A `dense` decoder has no experts, so the retention is 1 there.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}", where="--preset", fix=f"one of {', '.join(PRESETS)}")
    retention, layers_cut = PRESETS[name]
    if dense:
        retention = 1.0
    return retention, round(layers_cut * num_layers / PRESET_DEPTH)
