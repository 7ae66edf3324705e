"""candidate + saliency + model shape -> the exact edit. Pure functions; NumPy alone.

All indices in a plan are of the original model. Renumbering happens once, in `materialise`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoreap.candidate import Candidate
from autoreap.errors import InputError
from autoreap.saliency import ComponentSaliency, FloatArray, Saliency, random_scores

FORMAT = 1
COMPONENTS = ("thinker", "talker")


@dataclass(frozen=True)
class ComponentShape:
    """What a plan must know of a decoder.

    Attributes:
        num_layers: decoder layers.
        num_experts: experts in each layer; 0 in a dense decoder, whose layers alone can be cut.
        top_k: experts a token is routed to; fewer can't be kept.
    """

    num_layers: int
    num_experts: int
    top_k: int

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
    """

    components: Mapping[str, ComponentShape]
    deepstack_layers: int = 0
    speech_tap: int | None = None
    has_vision: bool = True


@dataclass(frozen=True)
class ComponentPlan:
    """The edit of one decoder.

    Attributes:
        experts: for each original layer the sorted experts that are retained, equally many in all retained layers.
        layers: the sorted original layers that are retained.
    """

    experts: tuple[tuple[int, ...], ...]
    layers: tuple[int, ...]

    @property
    def num_retained_experts(self) -> int:
        """K, the number of experts in each retained layer; 0 in a dense decoder."""
        return len(self.experts[self.layers[0]])

    @property
    def in_words(self) -> str:
        """What is kept, such as `64 experts in 40 of 48 layers`; `40 of 48 layers` of a dense decoder."""
        experts = f"{self.num_retained_experts} experts in " if self.num_retained_experts else ""
        return f"{experts}{len(self.layers)} of {len(self.experts)} layers"

    @classmethod
    def identity(cls, shape: ComponentShape) -> "ComponentPlan":
        """The edit that changes nothing."""
        experts = tuple(range(shape.num_experts))
        return cls(experts=(experts,) * shape.num_layers, layers=tuple(range(shape.num_layers)))


@dataclass(frozen=True)
class BaseModel:
    """The model a plan belongs to."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class PruningPlan:
    """The exact edit of a model.

    Attributes:
        base_model: the model it belongs to.
        strip_vision: the vision tower goes.
        thinker, talker: what is retained of each decoder; None where the talker is not edited.
        drop_speech: the talker and the waveform decoder go.
    """

    base_model: BaseModel
    strip_vision: bool
    thinker: ComponentPlan
    talker: ComponentPlan | None = None
    drop_speech: bool = False

    def component(self, name: str) -> ComponentPlan | None:
        """The edit of component `name`, or None where it stays as it is."""
        return self.thinker if name == "thinker" else self.talker

    def as_dict(self) -> dict[str, Any]:
        """The contents of plan.json."""
        components = {
            name: None if edit is None else {"experts": [list(kept) for kept in edit.experts], "layers": [*edit.layers]}
            for name, edit in ((name, self.component(name)) for name in COMPONENTS)
        }
        base = {"name": self.base_model.name, "fingerprint": self.base_model.fingerprint}
        dropped = {"drop_speech": True} if self.drop_speech else {}  # readers of older plans know no such key
        return {"format": FORMAT, "base_model": base, "strip_vision": self.strip_vision, **dropped, **components}

    def summary(self) -> dict[str, Any]:
        """How much each component keeps, for people and JSON."""
        return {
            "strip_vision": self.strip_vision,
            "drop_speech": self.drop_speech,
            **{
                name: {"experts": edit.num_retained_experts, "layers": len(edit.layers), "of_layers": len(edit.experts)}
                for name in COMPONENTS
                if (edit := self.component(name)) is not None
            },
        }

    def digest(self) -> str:
        """Sixteen hex digits of the edit that takes effect.

        The experts of a cut layer have no effect, so two candidates that differ only there share a digest and a score.
        """
        effective = [
            None if edit is None else [[layer, edit.experts[layer]] for layer in edit.layers]
            for edit in (self.thinker, self.talker)
        ]
        dropped = [self.strip_vision, self.drop_speech]
        canonical = json.dumps([self.base_model.fingerprint, dropped, effective], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write plan.json whole or not at all."""
        if path.is_dir():
            raise InputError("is a directory", where=path, fix="name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.as_dict(), separators=(",", ":")) + "\n")
        partial.replace(path)


def make_plan(candidate: Candidate, saliency: Saliency | None, shape: ModelShape, base_model: BaseModel) -> PruningPlan:
    """The edit that `candidate` means on the measured model; None measured will do where nothing is ranked.

    Raises:
        InputError: the saliency is of another model or missing, or the candidate asks for what the model has not, or
            cuts more layers than may be cut.
    """
    if saliency is not None and saliency.model_fingerprint != base_model.fingerprint:
        raise InputError(
            f"was measured on another model (fingerprint {saliency.model_fingerprint}, not {base_model.fingerprint})",
            where="saliency",
            fix="calibrate this model, or name the model that was measured",
        )
    check_candidate(candidate, shape)
    protect = {"first": candidate.protect_first, "last": candidate.protect_last}
    pinned = pinned_layers(shape, strip_vision=candidate.strip_vision, **protect)
    thinker = _component_plan(candidate, "thinker", saliency, shape.components["thinker"], pinned)
    talker = None
    if candidate.talker_retention < 1 or candidate.talker_layers_cut:
        talker_shape = shape.components.get("talker")
        if talker_shape is None:
            raise InputError("this model has no talker", where="talker.retention", fix="leave the talker unpruned")
        as_talker = replace(
            candidate, retention=candidate.talker_retention, layers_cut=candidate.talker_layers_cut, lambda_=0.0
        )
        talker = _component_plan(as_talker, "talker", saliency, talker_shape, edges(talker_shape.num_layers, **protect))
    strip_vision = candidate.strip_vision and shape.has_vision  # presets and spaces serve models that can't see too
    plan = PruningPlan(base_model, strip_vision, thinker, talker, drop_speech=candidate.drop_speech)
    check_plan(plan, shape)
    return plan


def check_candidate(candidate: Candidate, shape: ModelShape) -> None:
    """Raise `InputError` if `candidate` asks for fewer experts of a decoder that has none; no measurement is needed."""
    retentions = {"thinker": candidate.retention, "talker": candidate.talker_retention}
    for name, decoder in shape.components.items():
        if decoder.is_dense and retentions[name] < 1:
            raise InputError(
                f"the {name} is dense, it has no experts to choose from",
                where="retention" if name == "thinker" else f"{name}.retention",
                fix="cut layers alone, with a retention of 1 and --layers-cut or layers_cut",
            )


def needs_saliency(candidate: Candidate) -> bool:
    """Whether `make_plan` has something to rank: experts by a measured ranking, or layers."""
    fewer_experts = min(candidate.retention, candidate.talker_retention) < 1
    return (fewer_experts and candidate.saliency != "random") or max(
        candidate.layers_cut, candidate.talker_layers_cut
    ) > 0


def _component_plan(
    candidate: Candidate, name: str, saliency: Saliency | None, shape: ComponentShape, pinned: frozenset[int]
) -> ComponentPlan:
    """The edit of one decoder; `pinned` layers are never cut."""
    edit = ComponentPlan.identity(shape)
    if candidate.retention < 1:
        if candidate.saliency == "random":  # needs no measurement
            scores = random_scores(shape.num_layers, shape.num_experts, candidate.seed)
        else:
            scores = _measured(saliency, name, "which experts to keep").scores(
                candidate.saliency, lambda_=candidate.lambda_, beta=candidate.beta, seed=candidate.seed
            )
        edit = replace(edit, experts=retained_experts(scores, num_retained(candidate.retention, shape)))
    if candidate.layers_cut:
        cosine = _measured(saliency, name, "which layers to cut").layer_cosine
        cut = layers_to_cut(
            cosine,
            candidate.layers_cut,
            pinned,
            selection=candidate.layer_selection,
            threshold=candidate.similarity_threshold,
        )
        edit = replace(edit, layers=tuple(layer for layer in edit.layers if layer not in cut))
    return edit


def _measured(saliency: Saliency | None, component: str, what: str) -> ComponentSaliency:
    if saliency is None:
        raise InputError(
            f"{what} of the {component} is decided by measurement",
            where="plan",
            fix="give calibration data with --audio, or name layers with --layers, or rank with --saliency random",
        )
    return saliency.component(component)


def num_retained(retention: float, shape: ComponentShape) -> int:
    """K = round(retention * E), at least top-k; halves round up."""
    return max(shape.top_k, int(retention * shape.num_experts + 0.5))


def retained_experts(scores: FloatArray, num_retained: int) -> tuple[tuple[int, ...], ...]:
    """In each layer the `num_retained` experts with the highest of `scores` [L, E]; ties go to the lower index."""
    best_first = np.argsort(-scores, axis=1, kind="stable")
    return tuple(tuple(sorted(row[:num_retained].tolist())) for row in best_first)


def edges(num_layers: int, first: int | None = None, last: int | None = None) -> frozenset[int]:
    """The first and last layers that ranking never cuts; by default a twelfth of the depth (4 of 48), at least one."""
    width = max(1, round(num_layers / 12))
    first, last = (width if given is None else min(given, num_layers) for given in (first, last))
    return frozenset([*range(first), *range(num_layers - last, num_layers)])


def pinned_layers(
    shape: ModelShape, *, strip_vision: bool, first: int | None = None, last: int | None = None
) -> frozenset[int]:
    """Thinker layers that ranking must not cut: the edges, and those that vision feeds while it is kept."""
    fed_by_vision = frozenset() if strip_vision else frozenset(range(shape.deepstack_layers))
    return edges(shape.components["thinker"].num_layers, first, last) | fed_by_vision


def layers_to_cut(
    layer_cosine: FloatArray,
    num_cut: int,
    pinned: frozenset[int],
    *,
    selection: str = "single",
    threshold: float = -1.0,
) -> frozenset[int]:
    """The layers whose removal changes the hidden states least, judged by `layer_cosine` [S, L].

    `single` (the ranking of ShortGPT's block influence; Men et al., 2024) takes the `num_cut` layers with the highest
    cos(h_l, h_{l+1}); `block` (Gromov et al., 2024) the run of n = `num_cut` layers with the highest cos(h_l, h_{l+n}).
    Ties go to the lower index. What is not as similar as `threshold` stays, so that fewer layers may go.
    """
    num_spans, num_layers = layer_cosine.shape
    free = [layer for layer in range(num_layers) if layer not in pinned]
    if num_cut == 0:
        return frozenset()
    if selection == "single":
        if num_cut > len(free):
            raise InputError(
                f"can cut at most {len(free)} of {num_layers} layers, got {num_cut}",
                where="layers_cut",
                fix=f"layers {sorted(pinned)} are protected; name layers with --layers to overrule",
            )
        similar = [layer for layer in free if layer_cosine[0, layer] >= threshold]
        return frozenset(sorted(similar, key=lambda layer: -layer_cosine[0, layer])[:num_cut])
    if num_cut > num_spans:
        raise InputError(f"blocks of at most {num_spans} layers were measured, got {num_cut}", where="layers_cut")
    starts = [start for start in free if set(range(start, start + num_cut)) <= set(free)]
    if not starts:
        raise InputError(f"no block of {num_cut} layers is free of protected ones", where="layers_cut")
    start = max(starts, key=lambda first: layer_cosine[num_cut - 1, first])
    return frozenset(range(start, start + num_cut)) if layer_cosine[num_cut - 1, start] >= threshold else frozenset()


def without_layers(plan: PruningPlan, component: str, cut: Sequence[int], shape: ModelShape) -> PruningPlan:
    """`plan` with exactly the layers `cut` missing from `component`: the user's own list, no ranking, no protection."""
    decoder = shape.components.get(component)
    if decoder is None:
        raise InputError(f"this model has no {component}", where="--component")
    outside = [layer for layer in cut if not 0 <= layer < decoder.num_layers]
    if outside:
        raise InputError(
            f"there is no layer {outside[0]}", where="--layers", fix=f"layers are 0 to {decoder.num_layers - 1}"
        )
    edit = plan.component(component) or ComponentPlan.identity(decoder)
    edit = replace(edit, layers=tuple(layer for layer in range(decoder.num_layers) if layer not in set(cut)))
    edited = replace(plan, thinker=edit) if component == "thinker" else replace(plan, talker=edit)
    check_plan(edited, shape)
    return edited


def check_plan(plan: PruningPlan, shape: ModelShape, where: object = "plan") -> None:
    """Raise `InputError` unless `plan` can be carried out on a model of `shape`."""
    if plan.strip_vision and not shape.has_vision:
        raise no_vision(f"{where}: strip_vision")
    for name in COMPONENTS:
        edit, decoder = plan.component(name), shape.components.get(name)
        if edit is None:
            continue
        if decoder is None:
            raise InputError(f"edits the {name}, which this model does not have", where=where)
        _check_component(edit, decoder, where=f"{where}: {name}")
    missing = set(range(shape.deepstack_layers)) - set(plan.thinker.layers)
    if not plan.strip_vision and missing:
        raise InputError(
            f"thinker layer {min(missing)} receives vision features and can't be cut while vision is kept",
            where=where,
            fix="keep the layer, or strip vision too",
        )
    if plan.drop_speech and plan.talker is not None:
        raise InputError("the talker is either pruned or dropped", where=where, fix="leave one of them out")
    tap = shape.speech_tap
    if tap is not None and not plan.drop_speech and not (plan.thinker.layers[0] < tap <= plan.thinker.layers[-1]):
        raise InputError(
            f"the talker listens below thinker layer {tap}; layers must remain on both sides of it", where=where
        )


def no_vision(where: object) -> InputError:
    """The error for whoever asks to strip the vision of a model that has none."""
    return InputError("this model can't see: it has no vision to strip", where=where, fix="leave it out")


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


def load_plan(path: str | Path) -> PruningPlan:
    """Read plan.json.

    Raises:
        InputError: the file is missing, is not JSON, or a key is missing or of the wrong form; the message names it.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError("no such plan", where=path, fix="make one with `autoreap plan`") from None
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=path) from None
    return plan_from_dict(document, where=path)


def plan_from_dict(document: Any, where: object) -> PruningPlan:
    """The plan that `PruningPlan.as_dict` wrote."""
    keys = {"format", "base_model", "strip_vision", *COMPONENTS}
    if not isinstance(document, dict) or set(document) - {"drop_speech"} != keys:
        raise InputError(f"a plan has exactly the keys {', '.join(sorted(keys))}", where=where)
    if document["format"] != FORMAT:
        raise InputError(f"plan format {document['format']!r} is not {FORMAT}", where=where, fix="plan again")
    try:
        base_model = BaseModel(**{key: str(value) for key, value in document["base_model"].items()})
        thinker, talker = (_component_from_dict(document[name]) for name in COMPONENTS)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"not of the form that `autoreap plan` writes: {error}", where=where) from None
    strip_vision, drop_speech = document["strip_vision"], document.get("drop_speech", False)
    if thinker is None or not isinstance(strip_vision, bool) or not isinstance(drop_speech, bool):
        raise InputError("thinker must be an object, drop_speech and strip_vision true or false", where=where)
    return PruningPlan(base_model, strip_vision, thinker, talker, drop_speech=drop_speech)


def _component_from_dict(document: Mapping[str, Any] | None) -> ComponentPlan | None:
    if document is None:
        return None
    integers = [*document["layers"], *(expert for kept in document["experts"] for expert in kept)]
    if not all(type(index) is int for index in integers):
        raise TypeError("experts and layers must be lists of integers")
    return ComponentPlan(experts=tuple(tuple(kept) for kept in document["experts"]), layers=tuple(document["layers"]))
