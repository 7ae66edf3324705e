"""candidate + saliency + model shape -> `PruningPlan`. Pure functions; NumPy alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from autoreap.candidate import NONE, Candidate
from autoreap.data.calibration_choices import DEFAULT_TOKENS
from autoreap.data.samples import MODALITIES
from autoreap.errors import InputError
from autoreap.plan import (
    BaseModel,
    Bits,
    ComponentPlan,
    ComponentShape,
    Healing,
    HealMethod,
    ModelShape,
    PruningPlan,
    Quantisation,
    check_plan,
    packed_already,
)
from autoreap.saliency import ComponentSaliency, FloatArray, LayerOrder, Saliency, random_scores


def make_plan(candidate: Candidate, saliency: Saliency | None, shape: ModelShape, base_model: BaseModel) -> PruningPlan:
    """The edit that `candidate` means on the measured model; None measured will do where nothing is ranked.

    Raises:
        InputError: the saliency is of another model or missing, or the candidate asks for what the model has not, or
            cuts more layers than may be cut.

    Example:
        Saliencies are needed only where experts or layers are ranked.

        >>> from autoreap.models.loading import open_model
        >>> model = open_model("tiny")
        >>> plan = make_plan(Candidate(strip_vision=True), None, model.shape, model.base_model)
        >>> plan.thinker.description
        '16 experts in 8 of 8 layers'
    """
    if saliency is not None and saliency.model_fingerprint != base_model.fingerprint:
        raise InputError(
            f"was measured on another model (fingerprint {saliency.model_fingerprint}, not {base_model.fingerprint})",
            where="saliency",
            fix="calibrate this model, or name the model that was measured",
        )
    check_candidate(candidate, shape)
    first, last = candidate.protect_first, candidate.protect_last
    pinned = pinned_layers(shape, strip_vision=candidate.strip_vision, first=first, last=last)
    thinker = _component_plan(candidate, "thinker", saliency, shape.components["thinker"], pinned)
    talker = None
    if candidate.talker_retention < 1 or candidate.talker_layers_cut:
        talker_shape = shape.components.get("talker")
        if talker_shape is None:
            raise InputError("this model has no talker", where="talker.retention", fix="leave the talker unpruned")
        # Without the contrast: the talker's experts are ranked by audio alone.
        as_talker = replace(
            candidate, retention=candidate.talker_retention, layers_cut=candidate.talker_layers_cut, lambda_=0.0
        )
        talker_pinned = edges(talker_shape.num_layers, first, last)
        talker = _component_plan(as_talker, "talker", saliency, talker_shape, talker_pinned)
    # Presets and spaces serve models that can't see too.
    strip_vision = candidate.strip_vision and shape.has_vision
    # What is as in the base model is None, so that a plan has one form and one digest.
    bits = None
    if min(candidate.bits, candidate.bits_rest) < 16:
        bits = Quantisation(cast(Bits, candidate.bits), cast(Bits, candidate.bits_rest), candidate.bits_group)
    active_experts = candidate.active_experts
    if active_experts == shape.components["thinker"].top_k:
        active_experts = None
    plan = PruningPlan(
        base_model,
        strip_vision,
        thinker,
        talker,
        drop_speech=candidate.drop_speech,
        bits=bits,
        active_experts=active_experts,
    )
    check_plan(plan, shape)
    return with_healing(plan, candidate, saliency, shape)


def with_healing(plan: PruningPlan, candidate: Candidate, saliency: Saliency | None, shape: ModelShape) -> PruningPlan:
    """`plan`, healed as `candidate` asks on the rows that the saliency was measured on; as it is where nothing can be.

    A plan that strips vision is healed on what is heard alone. So is the talker, where these rows were answered aloud.

    Raises:
        InputError: it is to be healed, and there is no measurement, or none that says on which rows.
    """
    plan = plan.unhealed()
    is_edited = plan.bits is not None or plan.active_experts is not None
    is_healed = _can_be_healed(plan.thinker, shape.components["thinker"], candidate.heal, is_edited=is_edited)
    is_talker_healed = plan.talker is not None and _can_be_healed(
        plan.talker, shape.components["talker"], candidate.heal
    )
    if not (is_healed or is_talker_healed):
        return plan
    if saliency is None:
        fix = "give calibration data with --audio, or leave --heal out"
        raise InputError("is fitted on calibration data", where="heal", fix=fix)
    facts = saliency.provenance
    sees = shape.has_vision and not plan.strip_vision
    data = {}
    for modality in MODALITIES:
        if f"data.{modality}" in facts and (sees or modality == "audio"):
            data[modality] = facts[f"data.{modality}"]
    if not data:
        raise InputError("does not say on which rows it was measured", where="saliency", fix="calibrate again")
    condition = candidate.heal_condition
    if condition == NONE:
        condition = ""
    heal = Healing(
        method=cast(HealMethod, candidate.heal),
        ridge=candidate.heal_ridge,
        data=data,
        tokens=facts.get("tokens", DEFAULT_TOKENS),
        condition=condition,
    )
    if is_healed:
        plan = replace(plan, heal=heal)
    if is_talker_healed and "talker" in saliency.components and "audio" in data:
        talker_heal = replace(heal, data={"audio": data["audio"]}, tokens="both", condition="")
        plan = replace(plan, talker_heal=talker_heal)
    return plan


def _can_be_healed(edit: ComponentPlan, shape: ComponentShape, heal: str, *, is_edited: bool = False) -> bool:
    """Whether `edit` took something that `heal` can give back, or something else did that `is_edited` says."""
    # Each retained layer and the next one: a gap is a cut. Before the first, no layer could be fitted to it.
    after_layers = zip(edit.layers, (*edit.layers[1:], len(edit.experts)), strict=True)
    has_cut = any(following > layer + 1 for layer, following in after_layers)
    if heal in (NONE, "cuts"):
        return has_cut and heal == "cuts"
    return has_cut or is_edited or edit.num_retained_experts < shape.num_experts


def check_candidate(candidate: Candidate, shape: ModelShape) -> None:
    """Raise `InputError` if `candidate` asks for what no measurement can tell.

    That is fewer experts of a decoder that has none, or the talker's layers by what its answers lose. Nor can weights
    be healed or quantised that are stored in few bits.
    """
    if shape.is_packed and (candidate.heal != NONE or min(candidate.bits, candidate.bits_rest) < 16):
        raise packed_already("candidate")
    if candidate.layer_selection == "loss" and candidate.talker_layers_cut:
        raise talker_has_no_loss("layer_selection")
    retentions = {
        "thinker": ("retention", candidate.retention),
        "talker": ("talker.retention", candidate.talker_retention),
    }
    for name, decoder in shape.components.items():
        parameter, retention = retentions[name]
        if decoder.is_dense and retention < 1:
            raise InputError(
                f"the {name} is dense, it has no experts to choose from",
                where=parameter,
                fix="cut layers alone, with a retention of 1 and --layers-cut or layers_cut",
            )


def needs_saliency(candidate: Candidate) -> bool:
    """Whether `make_plan` has something to rank: experts by a measured ranking, or layers."""
    ranks_experts = min(candidate.retention, candidate.talker_retention) < 1 and candidate.saliency != "random"
    ranks_layers = max(candidate.layers_cut, candidate.talker_layers_cut) > 0
    return ranks_experts or ranks_layers or candidate.heal != NONE


def _component_plan(
    candidate: Candidate, name: str, saliency: Saliency | None, shape: ComponentShape, pinned: frozenset[int]
) -> ComponentPlan:
    """The edit of one decoder; `pinned` layers are never cut."""
    edit = ComponentPlan.identity(shape)
    if candidate.retention < 1:
        if candidate.saliency == "random":  # the control needs no measurement
            scores = random_scores(shape.num_layers, shape.num_experts, candidate.seed)
        else:
            scores = _measured(saliency, name, shape, "which experts to keep").scores(
                candidate.saliency, lambda_=candidate.lambda_, beta=candidate.beta, seed=candidate.seed
            )
        edit = replace(edit, experts=retained_experts(scores, num_retained(candidate.retention, shape)))
    if candidate.layers_cut:
        measured = _measured(saliency, name, shape, "which layers to cut")
        if candidate.layer_selection == "loss":
            cut = first_of_order(measured.layer_order, candidate.layers_cut, pinned)
        else:
            cut = layers_to_cut(
                measured.layer_cosine,
                candidate.layers_cut,
                pinned,
                selection=candidate.layer_selection,
                threshold=candidate.similarity_threshold,
            )
        edit = replace(edit, layers=tuple(layer for layer in edit.layers if layer not in cut))
    return edit


def _measured(saliency: Saliency | None, component: str, shape: ComponentShape, what: str) -> ComponentSaliency:
    if saliency is None:
        raise InputError(
            f"{what} of the {component} is decided by measurement",
            where="plan",
            fix="give calibration data with --audio, or name layers with --layers, or rank with --saliency random",
        )
    measured = saliency.component(component)
    found, expected = (measured.num_layers, measured.num_experts), (shape.num_layers, shape.num_experts)
    if found != expected:
        raise InputError(
            f"of the {component} {found[0]} layers of {found[1]} experts were measured, the model has "
            f"{expected[0]} of {expected[1]}",
            where="saliency",
            fix="calibrate again",
        )
    return measured


def num_retained(retention: float, shape: ComponentShape) -> int:
    """K = round(retention * E), at least top-k; halves round up."""
    # `round` would take a half to the even number.
    return max(shape.top_k, int(retention * shape.num_experts + 0.5))


def retained_experts(scores: FloatArray, num_retained: int) -> tuple[tuple[int, ...], ...]:
    """In each layer the `num_retained` experts with the highest of `scores` [L, E]; ties go to the lower index."""
    # Stable, so that ties go to the lower index.
    best_first = np.argsort(-scores, axis=1, kind="stable")
    experts = []
    for row in best_first:
        experts.append(tuple(sorted(row[:num_retained].tolist())))
    return tuple(experts)


def edges(num_layers: int, first: int | None = None, last: int | None = None) -> frozenset[int]:
    """The first and last layers that ranking never cuts; by default a twelfth of the depth (4 of 48), at least one."""
    width = max(1, round(num_layers / 12))
    if first is None:
        first = width
    if last is None:
        last = width
    return frozenset([*range(min(first, num_layers)), *range(max(num_layers - last, 0), num_layers)])


def pinned_layers(
    shape: ModelShape, *, strip_vision: bool, first: int | None = None, last: int | None = None
) -> frozenset[int]:
    """Thinker layers that ranking must not cut: the edges, and those that vision feeds while it is kept."""
    pinned = edges(shape.components["thinker"].num_layers, first, last)
    if not strip_vision:
        pinned |= frozenset(range(shape.deepstack_layers))
    return pinned


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
    if num_cut == 0:
        return frozenset()
    num_spans, num_layers = layer_cosine.shape
    free = [layer for layer in range(num_layers) if layer not in pinned]
    if selection == "single":
        if num_cut > len(free):
            raise InputError(
                f"can cut at most {len(free)} of {num_layers} layers, got {num_cut}",
                where="layers_cut",
                fix=f"layers {sorted(pinned)} are protected; name layers with --layers to overrule",
            )
        cosine = layer_cosine[0]
        similar = [layer for layer in free if cosine[layer] >= threshold]
        # Sorting is stable, so that ties go to the lower index; below, `max` takes the first of equals.
        return frozenset(sorted(similar, key=lambda layer: -cosine[layer])[:num_cut])
    if num_cut > num_spans:
        raise InputError(f"blocks of at most {num_spans} layers were measured, got {num_cut}", where="layers_cut")
    cosine = np.nan_to_num(layer_cosine[num_cut - 1], nan=-np.inf)  # what was not measured is not cut
    free_blocks = []
    for start in free:
        block = range(start, start + num_cut)
        if block.stop <= num_layers and pinned.isdisjoint(block):
            free_blocks.append(block)
    if not free_blocks:
        raise InputError(f"no block of {num_cut} layers is free of protected ones", where="layers_cut")
    best = max(free_blocks, key=lambda block: cosine[block.start])
    if cosine[best.start] < threshold:
        return frozenset()
    return frozenset(best)


def first_of_order(order: LayerOrder, num_cut: int, pinned: frozenset[int]) -> frozenset[int]:
    """The first `num_cut` layers of `order` that are not `pinned`.

    A pinned layer is passed over. Those after it were chosen with it cut, so that without it another might have come.

    Raises:
        InputError: the order holds too few layers, or none was measured.
    """
    free = [layer for layer in order.layers if layer not in pinned]
    if not order.layers:
        raise InputError(
            "layers were not ranked by what the answers lose",
            where="layer_selection",
            fix=f"calibrate with --layer-losses {num_cut}, or select layers by their cosine",
        )
    if num_cut > len(free):
        raise InputError(
            f"{len(order.layers)} layers were ranked by what the answers lose, of which {len(free)} may be cut, "
            f"got {num_cut}",
            where="layers_cut",
            fix="calibrate with more --layer-losses, or cut or protect fewer",
        )
    return frozenset(free[:num_cut])


def num_to_order(num_cut: int, num_layers: int, pinned: frozenset[int], where: object) -> int:
    """How many of `num_layers` layers a `LayerOrder` must hold so that `num_cut` are left without those `pinned`.

    Each takes a forward pass for every layer that is left. So at most a quarter of the depth, or 3, may be asked for.

    Raises:
        InputError: `num_cut` is more, or fewer are free; it is named by `where`.
    """
    if num_cut == 0:
        return 0
    unmeasured = edges(num_layers)
    most = min(max(3, num_layers // 4), num_layers - len(unmeasured | pinned))
    if num_cut > most:
        problem = f"at most {most} of {num_layers} layers may be cut by what the answers lose, got {num_cut}"
        raise InputError(problem, where=where, fix="lower it, or select layers by their cosine")
    # An order holds no edge anyway; a pinned layer elsewhere takes a place in it, and is passed over.
    return num_cut + len(pinned - unmeasured)


def num_layers_to_order(candidate: Candidate, shape: ModelShape) -> int:
    """How many layers of the thinker a `LayerOrder` must hold for `candidate`; none unless loss selects them."""
    if candidate.layer_selection != "loss":
        return 0
    first, last = candidate.protect_first, candidate.protect_last
    pinned = pinned_layers(shape, strip_vision=candidate.strip_vision, first=first, last=last)
    return num_to_order(candidate.layers_cut, shape.components["thinker"].num_layers, pinned, where="layers_cut")


def talker_has_no_loss(where: object) -> InputError:
    """What to raise where the talker's layers are to be ranked by loss."""
    problem = "the talker's layers can't be ranked by what its answers lose: they are no text"
    return InputError(problem, where=where, fix="take single or block, or cut no layer of the talker")


def without_layers(plan: PruningPlan, component: str, cut: Sequence[int], shape: ModelShape) -> PruningPlan:
    """`plan` with exactly the layers `cut` missing from `component`: the user's own list, no ranking, no protection."""
    decoder = shape.components.get(component)
    if decoder is None:
        raise InputError(f"this model has no {component}", where="--component")
    for layer in cut:
        if not 0 <= layer < decoder.num_layers:
            fix = f"layers are 0 to {decoder.num_layers - 1}"
            raise InputError(f"there is no layer {layer}", where="--layers", fix=fix)
    edit = plan.component(component) or ComponentPlan.identity(decoder)
    edit = replace(edit, layers=tuple(sorted(set(range(decoder.num_layers)) - set(cut))))
    if component == "thinker":
        edited = replace(plan, thinker=edit)
    else:
        edited = replace(plan, talker=edit)
    check_plan(edited, shape)
    return edited
