"""Which candidates are tried: what a sampler draws from a space, and the presets before it."""

import logging
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import BaseTrial

from autoreap.calibration.calibrator import MAX_SPAN
from autoreap.candidate import DEFAULT_GROUP_SIZE, FRACTION_OF_COUNT, NONE, Candidate, preset
from autoreap.data.eval_set import EvalSet
from autoreap.errors import InputError
from autoreap.models.loading import ModelInfo
from autoreap.plan import COMPONENTS, ModelShape, no_vision, packed_already
from autoreap.planning import edges, make_plan, num_to_order, pinned_layers, talker_has_no_loss
from autoreap.search.parameters import Parameter, Range, can_be, highest, lowest
from autoreap.search.records import enqueue_preset
from autoreap.search.samplers import make_sampler
from autoreap.search.space import SpaceConfig
from autoreap.writing.footprint import Footprint

logger = logging.getLogger(__name__)

RANKING = ("saliency", "lambda", "beta", "seed")  # parameters that rank experts, and do nothing else
HEALING = ("heal", "heal_ridge", "heal_condition")  # those that say how to heal; neither changes a size
_BITS = ("bits", "bits_rest")


def check_space(space: SpaceConfig, shape: ModelShape) -> None:
    """Raise `InputError` if `space` can't be searched on a model of `shape`: each trial would fail, or one in many."""
    make_sampler(space, 0)
    if shape.components["thinker"].is_dense:
        _check_dense(space)
    if not shape.has_vision and isinstance(space.parameters.get("strip_vision"), tuple):
        raise no_vision(f"{space.path}: parameters.strip_vision")  # a choice that would only repeat plans
    _check_experts(space, shape)
    _check_cuts(space, shape)
    _check_effect(space)
    _check_healing(space)
    _check_bits(space, shape)
    _check_active(space, shape)


def _check_dense(space: SpaceConfig) -> None:
    """Nothing of `space` may be about the experts of a thinker that has none: what ranks them only repeats plans."""
    found = [f"parameters.{name}" for name, spec in space.parameters.items() if _is_about_experts(name, spec)]
    found += ["controls"] * bool(space.controls)
    if found:
        raise InputError(
            "the thinker is dense, it has no experts to choose from",
            where=f"{space.path}: {', '.join(found)}",
            fix=f"remove {'them' if len(found) > 1 else 'it'}, and search layers_cut alone",
        )


def _check_effect(space: SpaceConfig) -> None:
    """Raise `InputError` if a searched parameter of the ranking moves nothing: it would only repeat plans."""
    calibration = space.calibration
    rankings = space.parameters.get("saliency", Candidate().saliency)
    for name in RANKING[1:]:
        if not isinstance(space.parameters.get(name), Range | tuple):
            continue
        needed = "random" if name == "seed" else "affinity"
        if not can_be(rankings, needed):
            problem, fix = f"moves nothing without saliency: {needed}", "fix it, or leave it out"
        elif name != "seed" and not calibration.mixed:
            problem, fix = "moves nothing without mixed calibration rows", "add calibration.mixed, or leave it out"
        elif name == "beta" and not calibration.video:
            problem, fix = "moves nothing without video calibration rows", "add calibration.video, or leave it out"
        else:
            continue
        raise InputError(problem, where=f"{space.path}: parameters.{name}", fix=fix)


def _check_healing(space: SpaceConfig) -> None:
    """Raise `InputError` if how to heal is searched while no candidate is healed."""
    if set(space.heal_choices) != {NONE}:
        return
    for name in HEALING[1:]:
        if isinstance(space.parameters.get(name), Range | tuple):
            fix = "add heal: [none, block, stream, cuts], or leave it out"
            raise InputError("moves nothing without heal", where=f"{space.path}: parameters.{name}", fix=fix)


def _check_bits(space: SpaceConfig, shape: ModelShape) -> None:
    """Raise `InputError` if no candidate is quantised, or some are so that transformers can't load them."""
    where = f"{space.path}: parameters"
    least = {name: lowest(space.parameters.get(name, 16)) for name in _BITS}
    if shape.is_packed and (space.heals or min(least.values()) < 16):
        raise packed_already(where)
    has_experts = not shape.components["thinker"].is_dense
    if isinstance(space.parameters.get("bits_group"), Range | tuple) and min(least.values()) == 16:
        fix = "add bits: [16, 8, 4], or leave it out"
        raise InputError("moves nothing without bits", where=f"{where}.bits_group", fix=fix)
    if least["bits"] < 16 and not has_experts:
        raise InputError("the thinker is dense, it has no experts", where=f"{where}.bits", fix="search bits_rest alone")
    if least["bits_rest"] < 16 and has_experts and can_be(space.parameters.get("bits", 16), 16):
        held_to = space.conditions.get("bits_rest", {}).get("bits", (16,))
        if 16 in held_to:
            problem = "transformers can't load it where experts are not quantised"
            raise InputError(problem, where=f"{where}.bits_rest", fix="add when: {bits: [8, 4]}")


def check_groups(space: SpaceConfig, model_info: ModelInfo) -> None:
    """Raise `InputError` if rows of what is quantised don't divide into the groups of `space`: trials would fail."""
    bits, rest = (int(lowest(space.parameters.get(name, 16))) for name in _BITS)
    if min(bits, rest) == 16:
        return
    spec = space.parameters.get("bits_group", DEFAULT_GROUP_SIZE)
    groups = spec if isinstance(spec, tuple) else (int(lowest(spec)), int(highest(spec)))
    drops_speech = space.parameters.get("drop_speech") is True
    for group in groups:
        candidate = Candidate(bits=bits, bits_rest=rest, bits_group=group, drop_speech=drops_speech)
        plan = make_plan(candidate, None, model_info.shape, model_info.base_model)
        try:
            Footprint.of(model_info.checkpoint, plan)
        except InputError as error:
            where = f"{space.path}: parameters.bits_group"
            raise InputError(error.problem, where=where, fix="take one that divides them, such as 16") from None


def _check_active(space: SpaceConfig, shape: ModelShape) -> None:
    spec = space.parameters.get("active_experts")
    top_k = shape.components["thinker"].top_k
    if spec is not None and highest(spec) > top_k:
        raise InputError(
            f"the thinker routes a token to {top_k} experts, got {highest(spec):g}",
            where=f"{space.path}: parameters.active_experts",
            fix=f"stay within 1 and {top_k}" if top_k else "remove it, the thinker is dense",
        )


def _is_about_experts(name: str, spec: Any) -> bool:
    """Whether a parameter makes a candidate choose among experts of the thinker."""
    if name == "retention":
        return lowest(spec) < 1
    return name == "experts" or (name in RANKING and isinstance(spec, Range | tuple))


def _check_experts(space: SpaceConfig, shape: ModelShape) -> None:
    for name, spec in space.parameters.items():
        component = component_of(name)
        decoder = shape.components.get(component)
        if decoder is None:
            raise InputError(
                f"this model has no {component}", where=f"{space.path}: parameters.{name}", fix="remove it"
            )
        low, high = decoder.top_k, decoder.num_experts
        is_fraction = name in FRACTION_OF_COUNT.values()
        if decoder.is_dense and (name in FRACTION_OF_COUNT or (is_fraction and lowest(spec) < 1)):
            raise InputError(
                f"the {component} is dense, it has no experts to choose from",
                where=f"{space.path}: parameters.{name}",
                fix="remove it, and search layers_cut alone",
            )
        if name in FRACTION_OF_COUNT and not low <= lowest(spec) <= highest(spec) <= high:
            raise InputError(
                f"the {component} has {high} experts and routes to {low}, got {lowest(spec):g} to {highest(spec):g}",
                where=f"{space.path}: parameters.{name}",
                fix=f"stay within {low} and {high}",
            )


def num_layers_to_order(space: SpaceConfig, shape: ModelShape) -> int:
    """How many layers calibration must rank by loss for `space`, none unless loss may select them.

    Raises:
        InputError: it may cut more than are ranked, or layers of the talker, which are not.
    """
    if not can_be(space.parameters.get("layer_selection", "single"), "loss"):
        return 0
    if highest(space.parameters.get("talker.layers_cut", 0)):
        raise talker_has_no_loss(f"{space.path}: parameters.layer_selection")
    num_cut, thinker = int(highest(space.parameters.get("layers_cut", 0))), shape.components["thinker"]
    pinned = _protected(space, shape)["layers_cut"]
    return num_to_order(num_cut, thinker.num_layers, pinned, where=f"{space.path}: parameters.layers_cut")


def _protected(space: SpaceConfig, shape: ModelShape) -> dict[str, frozenset[int]]:
    """The layers that no candidate may cut by a ranking, by the parameter that cuts them."""
    protect = {
        end: int(highest(space.parameters[name])) if space.parameters.get(name) is not None else None
        for end, name in (("first", "protect_first"), ("last", "protect_last"))
    }
    strips = space.parameters.get("strip_vision") is True and "strip_vision" not in space.conditions
    pinned = {"layers_cut": pinned_layers(shape, strip_vision=strips, **protect)}
    if talker := shape.components.get("talker"):
        pinned["talker.layers_cut"] = edges(talker.num_layers, **protect)
    return pinned


def _check_cuts(space: SpaceConfig, shape: ModelShape) -> None:
    blocks = can_be(space.parameters.get("layer_selection", "single"), "block")
    for name, protected in _protected(space, shape).items():
        decoder, most = shape.components[component_of(name)], highest(space.parameters.get(name, 0))
        where, free = f"{space.path}: parameters.{name}", decoder.num_layers - len(protected)
        if most > free:
            raise InputError(
                f"at most {free} of {decoder.num_layers} layers may be cut, got {most:g}",
                where=where,
                fix="lower it, or protect fewer with protect_first and protect_last",
            )
        if blocks and most > MAX_SPAN:
            fix = "lower it, or take layer_selection: single"
            raise InputError(f"a block has at most {MAX_SPAN} layers, got {most:g}", where=where, fix=fix)
    num_layers_to_order(space, shape)


def check_vision(space: SpaceConfig, evals: EvalSet) -> None:
    """Raise `InputError` if `space` may strip vision while the search split shows pictures: no such trial scores."""
    seen = evals.visual_metrics()
    if not seen:
        return
    strips = can_be(space.parameters.get("strip_vision", False), True)
    if not strips and not space.controls:
        return
    (metric, row), *_ = seen.items()
    raise InputError(
        f"strips vision, but {metric} is scored on pictures, the first one at {row}",
        where=f"{space.path}: {'parameters.strip_vision' if strips else 'controls'}",
        fix=f"{'set it to false' if strips else 'leave controls out'}, or move the task to the report split",
    )


def check_known_parameters(study: optuna.Study, space: SpaceConfig) -> None:
    """Raise `InputError` if a parameter is another one than `study` has sampled so far, as Optuna judges it.

    The ends and the step of a range may change between two runs; choices, the kind of numbers and `log` may not: each
    trial would fail.
    """
    searched = {name: distribution(spec) for name, spec in space.parameters.items()}
    for trial in study.get_trials(deepcopy=False):
        for name, known in trial.distributions.items():
            wanted = searched.get(name)
            if wanted is None:  # fixed by now, or no longer there
                continue
            try:
                check_distribution_compatibility(known, wanted)
            except ValueError:
                raise InputError(
                    f"study {study.study_name} has sampled from {known}, now it is {wanted}; "
                    "of a range, low, high and step may change, all else may not",
                    where=f"{space.path}: parameters.{name}",
                    fix="undo the change, or start another study with --study",
                ) from None


def distribution(spec: Parameter) -> CategoricalDistribution | IntDistribution | FloatDistribution | None:
    """What `spec` is sampled from; None for a fixed value."""
    if isinstance(spec, tuple):
        return CategoricalDistribution(spec)
    if not isinstance(spec, Range):
        return None
    if all(isinstance(bound, int) for bound in (spec.low, spec.high, spec.step)):
        return IntDistribution(int(spec.low), int(spec.high), step=int(spec.step or 1), log=spec.log)
    return FloatDistribution(spec.low, spec.high, step=spec.step, log=spec.log)


def component_of(parameter: str) -> str:
    """The component that a parameter of a space is about."""
    return next((name for name in COMPONENTS if parameter.startswith(f"{name}.")), COMPONENTS[0])


def enqueue_presets(study: optuna.Study, space: SpaceConfig, shape: ModelShape) -> None:
    """Have the space's presets tried first, each once; those that lie outside the space are named and left out.

    A preset is a retention and a number of cuts; of a dense thinker, cuts alone. Where the space samples more, it takes
    a candidate's ordinary values; what the space fixes stays as it is. Where candidates may be healed or quantised,
    each preset is tried so, too.
    """
    counted = {name: fraction for name, fraction in FRACTION_OF_COUNT.items() if name in space.parameters}
    decisive = ("experts" if "experts" in counted else "retention", "layers_cut")
    offered: dict[str, Any] = {**Candidate().parameters(), **space.parameters}
    searched = [name for name, spec in offered.items() if isinstance(spec, Range | tuple)]
    thinker = shape.components["thinker"]
    gentlest = {name: _gentlest(name, offered[name]) for name in (*_BITS, "bits_group")}
    for preset_name, (suffix, treatment) in product(space.presets, _treatments_of_presets(space)):
        values = preset(preset_name, thinker.num_layers, dense=thinker.is_dense).parameters() | treatment
        values |= {"active_experts": thinker.top_k} | {name: treatment.get(name, gentlest[name]) for name in gentlest}
        for name, fraction in counted.items():
            values[name] = round(values[fraction] * shape.components[component_of(name)].num_experts)
        told = {name: values[name] if name in searched else spec for name, spec in offered.items()}
        drawn = [name for name in searched if _holds(space, name, told)]
        outside = [name for name in {*drawn, *decisive} if not can_be(offered[name], values[name])]
        if outside:
            name = min(outside)
            logger.info(f"preset {preset_name}{suffix} lies outside the space ({name} {values[name]}), not tried")
            continue
        enqueue_preset(study, preset_name + suffix, {name: values[name] for name in drawn})


def _gentlest(name: str, spec: Any) -> Any:
    """The ordinary value of a parameter of bits, or where the space has it not, the one that changes weights least."""
    ordinary = Candidate().parameters()[name]
    if not isinstance(spec, tuple) or ordinary in spec:
        return ordinary
    return max(spec) if name in _BITS else min(spec)


def _treatments_of_presets(space: SpaceConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is added to a preset's name, and its values.

    It is healed not at all, then by the best of the space's choices, then so with the fewest bits.
    """
    heals = space.heal_choices
    if NONE in heals:
        yield "", {"heal": NONE}
    healed = next((method for method in ("stream", "block", "cuts") if method in heals), NONE)
    suffix = " healed" if NONE in heals and healed != NONE else ""
    if healed != NONE:
        yield suffix, {"heal": healed}
    bits = space.parameters.get("bits")
    if isinstance(bits, tuple) and len(bits) > 1:
        fewest = {"heal": healed, "bits": min(bits)}
        rest = space.parameters.get("bits_rest")
        if isinstance(rest, tuple):
            fewest["bits_rest"] = min(rest)
        yield f"{suffix} {min(bits)} bits", fewest


def _holds(space: SpaceConfig, name: str, values: Mapping[str, Any]) -> bool:
    """Whether parameter `name` is drawn beside `values`."""
    return all(values.get(other) in allowed for other, allowed in space.conditions.get(name, {}).items())


def sample(trial: BaseTrial, space: SpaceConfig, shape: ModelShape) -> Candidate:
    """The candidate that `trial` stands for; values are drawn in the space's order, as conditions need."""
    values: dict[str, Any] = {}
    for name, spec in space.parameters.items():
        if _holds(space, name, values):
            values[name] = _suggest(trial, name, spec)
    for count, fraction in FRACTION_OF_COUNT.items():
        if count in values:
            values[fraction] = values.pop(count) / shape.components[component_of(count)].num_experts
    return Candidate.from_parameters(values)


def _suggest(trial: BaseTrial, name: str, spec: Any) -> Any:
    """The value of parameter `name`: sampled where `spec` is a range or a choice, else `spec` itself."""
    match distribution(spec):
        case IntDistribution() as known:
            return trial.suggest_int(name, known.low, known.high, step=known.step, log=known.log)
        case FloatDistribution() as known:
            return trial.suggest_float(name, known.low, known.high, step=known.step, log=known.log)
        case CategoricalDistribution() as known:
            return trial.suggest_categorical(name, known.choices)
    return spec
