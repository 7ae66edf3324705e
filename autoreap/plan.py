"""The exact edit of a model, as `plan.json` holds it: its form, and what makes it possible on a model.

All indices in a plan are of the original model. Renumbering happens once, in `materialise`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import StrictBool, StrictInt, StrictStr, TypeAdapter

from autoreap.errors import InputError
from autoreap.files import atomic_write
from autoreap.validation import NO_OTHER_KEYS, Count, PositiveInteger, PositiveNumber, read_json, validate

FORMAT = 1
COMPONENTS = ("thinker", "talker")
HealMethod = Literal["block", "stream", "cuts"]
Bits = Literal[16, 8, 4]
# Keys that plan.json has where they say something: readers of older plans do not know them.
_ADDED = ("drop_speech", "heal", "talker_heal", "polish", "bits", "active_experts")
FittedWeights = Mapping[tuple[str, int], Any]  # tensors of torch, by component and original layer
# The same by name within the thinker's decoder, with original layers.
PolishedWeights = Mapping[str, Any]


@dataclass(frozen=True)
class ComponentShape:
    """What a plan must know of a decoder.

    Attributes:
        num_layers: decoder layers.
        num_experts: experts in each layer; 0 in a dense decoder, whose layers alone can be cut.
        top_k: experts a token is routed to; fewer can't be kept.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    num_layers: Count
    num_experts: Count
    top_k: Count

    @property
    def is_dense(self) -> bool:
        """Whether it has no experts."""
        return self.num_experts == 0


@dataclass(frozen=True)
class ModelShape:
    """What a plan must know of a model.

    Attributes:
        components: decoder shapes by name; no `talker` in a model that has none.
        deepstack_layers: the first thinker layers, which receive vision features; they stay while vision stays.
        speech_tap: the talker reads the hidden states below this thinker layer; layers must remain on both sides.
        has_vision: there is a vision tower, which a plan may strip.
        is_packed: matrices are stored in few bits already, and can be neither healed nor quantised.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    components: Mapping[StrictStr, ComponentShape]
    deepstack_layers: Count = 0
    speech_tap: Count | None = None
    has_vision: StrictBool = True
    is_packed: StrictBool = False


@dataclass(frozen=True)
class ComponentPlan:
    """The edit of one decoder.

    Attributes:
        experts: for each original layer the sorted experts that are retained, equally many in all retained layers.
        layers: the sorted original layers that are retained.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    experts: tuple[tuple[StrictInt, ...], ...]
    layers: tuple[StrictInt, ...]

    @property
    def num_retained_experts(self) -> int:
        """K, the number of experts in each retained layer; 0 in a dense decoder."""
        # Of the first, as all retained layers keep equally many (see `check_plan`).
        return len(self.experts[self.layers[0]])

    @property
    def description(self) -> str:
        """What is kept, such as `64 experts in 40 of 48 layers`; `40 of 48 layers` of a dense decoder."""
        layers = f"{len(self.layers)} of {len(self.experts)} layers"
        if self.num_retained_experts == 0:
            return layers
        return f"{self.num_retained_experts} experts in {layers}"

    @classmethod
    def identity(cls, shape: ComponentShape) -> "ComponentPlan":
        """The edit that changes nothing."""
        experts = tuple(range(shape.num_experts))
        return cls(experts=(experts,) * shape.num_layers, layers=tuple(range(shape.num_layers)))


@dataclass(frozen=True)
class BaseModel:
    """The model a plan belongs to."""

    __pydantic_config__ = NO_OTHER_KEYS

    name: StrictStr
    fingerprint: StrictStr


@dataclass(frozen=True)
class Healing:
    """How the down projections that remain are fitted to what the unpruned model computes; see `healing.healer`.

    Attributes:
        method: to which output: `block`, what each layer's block adds to the stream; `stream`, the stream after each
            layer; `cuts`, the stream after a cut, and only by the layer right before it.
        ridge: strength of the penalty on changes, in units of the mean diagonal of the system.
        data: digests of the calibration rows that are fitted on, by modality.
        tokens: which of their tokens count.
        condition: how the pruned model hears them, while the unpruned one hears them as they are; "" is alike.
        weights: digest of the fitted weights; None before they are fitted.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    method: HealMethod
    ridge: PositiveNumber
    data: Mapping[StrictStr, StrictStr]
    tokens: StrictStr
    condition: StrictStr = ""
    weights: StrictStr | None = None

    @property
    def description(self) -> str:
        """Such as `healed (stream, ridge 0.001)`."""
        return f"healed ({self.method}, ridge {self.ridge:.3g})"


@dataclass(frozen=True)
class Polishing:
    """How routers and norms of the thinker's decoder were trained; see `healing.polish`.

    Attributes:
        data: digests of the calibration rows that were trained on, by modality.
        step: of the training, after which the weights were as they are.
        learning_rate, batch_tokens, seed: of the training.
        weights: digest of the trained weights.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    data: Mapping[StrictStr, StrictStr]
    step: Count
    learning_rate: PositiveNumber
    batch_tokens: Count
    seed: Count
    weights: StrictStr


@dataclass(frozen=True)
class Quantisation:
    """In how many bits matrices of decoder layers are stored; see `dimensions.bits`.

    Attributes:
        experts: bits of a weight of the experts of all decoders.
        rest: the same of the other matrices of the thinker's layers: attention, and MLPs where there are any.
        group_size: neighbouring weights of a row that share a scale.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    experts: Bits
    rest: Bits
    group_size: PositiveInteger

    @property
    def description(self) -> str:
        """Such as `experts at 4 bits, the rest at 8`."""
        if self.experts == self.rest:
            return f"{self.experts} bits"
        if self.experts == 16:
            return f"all but experts at {self.rest} bits"
        if self.rest == 16:
            return f"experts at {self.experts} bits"
        return f"experts at {self.experts} bits, the rest at {self.rest}"


@dataclass(frozen=True)
class PruningPlan:
    """The exact edit of a model.

    Attributes:
        base_model: the model it belongs to.
        strip_vision: the vision tower goes.
        thinker, talker: what is retained of each decoder; None where the talker is not edited.
        drop_speech: the talker and the waveform decoder go.
        heal: how the thinker's retained weights are fitted; None leaves them as they are.
        talker_heal: the same of the talker, on what it says. It is fitted where it is written, as no score hears it.
        fitted: the weights that healing stands for, rounded to the stored type: of each healed layer [K, H, I] for its
            retained experts, [H, I] for an MLP. A plan is read and written without them.
        polish: how routers and norms were trained after that; None leaves them as they are.
        polished: the trained weights, rounded to the stored type; a router has the rows of its retained experts. A plan
            is read and written without them.
        bits: how what then is there is quantised; None stores it as it was.
        active_experts: how many experts the thinker routes a token to; None: as many as the model does.
    """

    base_model: BaseModel
    strip_vision: bool
    thinker: ComponentPlan
    talker: ComponentPlan | None = None
    drop_speech: bool = False
    heal: Healing | None = None
    talker_heal: Healing | None = None
    fitted: FittedWeights | None = field(default=None, compare=False, repr=False)
    polish: Polishing | None = None
    polished: PolishedWeights | None = field(default=None, compare=False, repr=False)
    bits: Quantisation | None = None
    active_experts: int | None = None

    def component(self, name: str) -> ComponentPlan | None:
        """The edit of component `name`, or None where it stays as it is."""
        if name == "thinker":
            return self.thinker
        return self.talker

    def healing(self, name: str) -> Healing | None:
        """How component `name` is healed, or None where it is not."""
        if name == "thinker":
            return self.heal
        return self.talker_heal

    @property
    def heals(self) -> bool:
        """Whether weights are fitted again."""
        return any(self.healing(name) for name in COMPONENTS)

    def is_fitted(self, name: str) -> bool:
        """Whether all weights of component `name` are here that its healing stands for."""
        heal = self.healing(name)
        return heal is None or (heal.weights is not None and self.fitted is not None)

    def as_dict(self) -> dict[str, Any]:
        """The contents of plan.json."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "base_model": {"name": self.base_model.name, "fingerprint": self.base_model.fingerprint},
            "strip_vision": self.strip_vision,
        }
        for name in COMPONENTS:
            edit = self.component(name)
            document[name] = None
            if edit is not None:
                document[name] = {"experts": [list(kept) for kept in edit.experts], "layers": list(edit.layers)}
        for name in _ADDED:
            value = getattr(self, name)
            if not value:
                continue
            if not isinstance(value, bool | int):
                value = asdict(value)
            document[name] = value
        return document

    def with_fitted(self, fitted: FittedWeights, digests: Mapping[str, str]) -> "PruningPlan":
        """This plan with weights that its healing stands for, and their digests by component."""
        plan = replace(self, fitted=fitted)
        if self.heal is not None:
            plan = replace(plan, heal=replace(self.heal, weights=digests.get("thinker")))
        if self.talker_heal is not None:
            plan = replace(plan, talker_heal=replace(self.talker_heal, weights=digests.get("talker")))
        return plan

    def unhealed(self) -> "PruningPlan":
        """This plan, healing nothing."""
        return replace(self, heal=None, talker_heal=None, fitted=None)

    def summary(self) -> dict[str, Any]:
        """How much each component keeps, for people and JSON."""
        summary: dict[str, Any] = {"strip_vision": self.strip_vision, "drop_speech": self.drop_speech}
        if self.heal:
            summary["heal"] = {"method": self.heal.method, "ridge": self.heal.ridge}
        if self.talker_heal:
            summary["talker_heal"] = {"method": self.talker_heal.method, "ridge": self.talker_heal.ridge}
        if self.polish:
            summary["polish"] = {"step": self.polish.step, "learning_rate": self.polish.learning_rate}
        if self.bits:
            summary["bits"] = asdict(self.bits)
        if self.active_experts:
            summary["active_experts"] = self.active_experts
        for name in COMPONENTS:
            edit = self.component(name)
            if edit is not None:
                summary[name] = {
                    "experts": edit.num_retained_experts,
                    "layers": len(edit.layers),
                    "of_layers": len(edit.experts),
                }
        return summary

    @property
    def treatments(self) -> tuple[str, ...]:
        """What is done beside dropping parts, in words: how it is routed, healed and quantised."""
        treatments = []
        if self.active_experts:
            treatments.append(f"{self.active_experts} active experts")
        if self.heal:
            treatments.append(self.heal.description)
        if self.talker_heal:
            treatments.append(f"the talker {self.talker_heal.description}")
        if self.bits:
            treatments.append(self.bits.description)
        return tuple(treatments)

    def digest(self) -> str:
        """Sixteen hex digits of the edit that takes effect; computed once.

        The experts of a cut layer have no effect, so two candidates that differ only there share a digest and a score.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        effective = []
        for edit in (self.thinker, self.talker):
            retained = None
            if edit is not None:
                retained = [[layer, edit.experts[layer]] for layer in edit.layers]
            effective.append(retained)
        dropped = [self.strip_vision, self.drop_speech]
        identity: list[Any] = [self.base_model.fingerprint, dropped, effective]
        # What is not done adds nothing: a plan has the digest that it had before there was such a key.
        # Nor do fitted weights: before and after the fit it is the same edit.
        if self.heal:
            identity.append(asdict(replace(self.heal, weights=None)))
        if self.talker_heal:
            identity.append({"talker": asdict(replace(self.talker_heal, weights=None))})
        if self.polish:
            identity.append(asdict(self.polish))
        if self.bits:
            identity.append(asdict(self.bits))
        if self.active_experts:
            identity.append({"active_experts": self.active_experts})
        canonical = json.dumps(identity, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write plan.json whole or not at all."""
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(self.as_dict(), separators=(",", ":")) + "\n")


def check_plan(plan: PruningPlan, shape: ModelShape) -> None:
    """Raise `InputError` unless `plan` can be carried out on a model of `shape`."""
    if plan.strip_vision and not shape.has_vision:
        raise no_vision("plan: strip_vision")
    for name in COMPONENTS:
        edit, decoder = plan.component(name), shape.components.get(name)
        if edit is None:
            continue
        if decoder is None:
            raise InputError(f"edits the {name}, which this model does not have", where="plan")
        _check_component(edit, decoder, where=f"plan: {name}")
    if shape.is_packed and (plan.bits is not None or plan.heals):
        raise packed_already("plan")
    if plan.talker_heal is not None and plan.talker is None:
        raise InputError("heals a talker that it does not edit", where="plan: talker_heal", fix="plan again")
    if plan.bits is not None:
        _check_bits(plan.bits, shape)
    if plan.active_experts is not None:
        _check_active(plan.active_experts, plan, shape)
    missing = set(range(shape.deepstack_layers)) - set(plan.thinker.layers)
    if not plan.strip_vision and missing:
        raise InputError(
            f"thinker layer {min(missing)} receives vision features and can't be cut while vision is kept",
            where="plan",
            fix="keep the layer, or strip vision too",
        )
    if plan.drop_speech and plan.talker is not None:
        raise InputError("the talker is either pruned or dropped", where="plan", fix="leave one of them out")
    tap = shape.speech_tap
    if tap is not None and not plan.drop_speech and not (plan.thinker.layers[0] < tap <= plan.thinker.layers[-1]):
        raise InputError(
            f"the talker listens below thinker layer {tap}; layers must remain on both sides of it", where="plan"
        )


def _check_bits(bits: Quantisation, shape: ModelShape) -> None:
    """Raise `InputError` unless transformers can load what `bits` makes: it reads all experts alike, or none."""
    has_experts = not shape.components["thinker"].is_dense
    if bits.experts < 16 and not has_experts:
        raise InputError("this model has no experts", where="plan: bits.experts", fix="lower bits_rest instead")
    if bits.rest < 16 <= bits.experts and has_experts:
        problem = f"transformers can't load {bits.rest} bits beside experts that are not quantised"
        raise InputError(problem, where="plan: bits.rest", fix="lower bits, too, or leave bits_rest at 16")


def _check_active(active: int, plan: PruningPlan, shape: ModelShape) -> None:
    if shape.components["thinker"].is_dense:
        raise InputError("this model has no experts", where="plan: active_experts", fix="leave it out")
    if active > plan.thinker.num_retained_experts:
        problem = f"must be at most {plan.thinker.num_retained_experts}, the experts that are kept, got {active}"
        raise InputError(problem, where="plan: active_experts")


def packed_already(where: object) -> InputError:
    """The error for whoever asks to heal or quantise a model whose matrices are stored in few bits."""
    problem = "the model's weights are quantised already; they can be neither healed nor quantised"
    return InputError(problem, where=where, fix="take the model in bfloat16, or leave heal and bits out")


def no_vision(where: object) -> InputError:
    """The error for whoever asks to strip the vision of a model that has none."""
    return InputError("this model has no vision to strip", where=where, fix="leave it out")


def _check_component(edit: ComponentPlan, shape: ComponentShape, where: str) -> None:
    if not edit.layers:
        raise InputError("cuts all layers", where=f"{where}.layers", fix="keep at least one layer")
    if list(edit.layers) != sorted(set(edit.layers)) or edit.layers[0] < 0 or edit.layers[-1] >= shape.num_layers:
        raise InputError(
            f"must be distinct and rising, from 0 to {shape.num_layers - 1}, got {list(edit.layers)}",
            where=f"{where}.layers",
        )
    if len(edit.experts) != shape.num_layers:
        raise InputError(
            f"needs one list for each of the {shape.num_layers} original layers, got {len(edit.experts)}",
            where=f"{where}.experts",
        )
    num_kept = edit.num_retained_experts
    for layer in edit.layers:
        kept = edit.experts[layer]
        if list(kept) != sorted(set(kept)) or (kept and (kept[0] < 0 or kept[-1] >= shape.num_experts)):
            raise InputError(
                f"must be distinct and rising, from 0 to {shape.num_experts - 1}", where=f"{where}.experts[{layer}]"
            )
        if len(kept) != num_kept:
            raise InputError(
                f"keeps {len(kept)} experts, layer {edit.layers[0]} keeps {num_kept}; all must keep equally many",
                where=f"{where}.experts[{layer}]",
            )
    if num_kept < 1 and not shape.is_dense:
        raise InputError("keeps no expert", where=f"{where}.experts", fix="keep at least one expert in each layer")


@dataclass(frozen=True)
class _PlanFile:
    """What plan.json holds. `drop_speech` is not in those of before it existed."""

    __pydantic_config__ = NO_OTHER_KEYS

    format: StrictInt
    base_model: BaseModel
    strip_vision: StrictBool
    thinker: ComponentPlan
    talker: ComponentPlan | None
    drop_speech: StrictBool = False
    heal: Healing | None = None
    talker_heal: Healing | None = None
    polish: Polishing | None = None
    bits: Quantisation | None = None
    active_experts: PositiveInteger | None = None


_PLAN_FILE = TypeAdapter(_PlanFile)


def load_plan(path: str | Path) -> PruningPlan:
    """Read plan.json.

    Raises:
        InputError: the file is missing, is not JSON, or a key is missing or of the wrong form; the message names it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> thinker = ComponentPlan(experts=((0, 2), (1, 3)), layers=(0, 1))
        >>> plan = PruningPlan(BaseModel("tiny", fingerprint="0" * 16), strip_vision=True, thinker=thinker)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "plan.json"
        ...     plan.save(path)
        ...     load_plan(path) == plan
        True
    """
    path = Path(path)
    return plan_from_dict(read_json(path, missing="no such plan", fix="make one with `autoreap plan`"), where=path)


def plan_from_dict(document: Any, where: object) -> PruningPlan:
    """The plan that `PruningPlan.as_dict` wrote."""
    if isinstance(document, dict) and document.get("format", FORMAT) != FORMAT:
        raise InputError(f"plan format {document['format']!r} is not {FORMAT}", where=where, fix="plan again")
    file = validate(_PLAN_FILE, document, where)
    added = {name: getattr(file, name) for name in _ADDED}
    return PruningPlan(file.base_model, file.strip_vision, file.thinker, file.talker, **added)
