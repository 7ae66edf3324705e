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
from autoreap.candidate import FRACTION_OF_COUNT, NONE, Candidate, preset
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
    make_sampler(space, 0)  # raises where the sampler can't do what the space needs
    if shape.components["thinker"].is_dense:
        _check_dense(space)
    if not shape.has_vision and space.searches("strip_vision"):
        raise no_vision(space.where("strip_vision"))  # a choice that would only repeat plans
    _check_experts(space, shape)
    _check_cuts(space, shape)
    _check_effect(space)
    _check_healing(space)
    _check_bits(space, shape)
    _check_active(space, shape)


def _check_dense(space: SpaceConfig) -> None:
    """Nothing of `space` may be about the experts of a thinker that has none: what ranks them only repeats plans."""
    found = []
    for name, spec in space.parameters.items():
        cuts_experts = name == "experts" or (name == "retention" and lowest(spec) < 1)
        if cuts_experts or (name in RANKING and space.searches(name)):
            found.append(f"parameters.{name}")
    if space.controls:
        found.append("controls")
    if found:
        pronoun = "them" if len(found) > 1 else "it"
        raise InputError(
            "the thinker is dense, it has no experts to choose from",
            where=f"{space.path}: {', '.join(found)}",
            fix=f"remove {pronoun}, and search layers_cut alone",
        )


def _check_effect(space: SpaceConfig) -> None:
    """Raise `InputError` if a searched parameter of the ranking moves nothing: it would only repeat plans."""
    calibration = space.calibration
    for name in ("lambda", "beta", "seed"):
        if not space.searches(name):
            continue
        needed = "random" if name == "seed" else "affinity"
        if not can_be(space.spec("saliency"), needed):
            problem, fix = f"has no effect without saliency: {needed}", "fix it, or leave it out"
        elif name != "seed" and not calibration.mixed:
            problem, fix = "has no effect without mixed calibration rows", "add calibration.mixed, or leave it out"
        elif name == "beta" and not calibration.video:
            problem, fix = "has no effect without video calibration rows", "add calibration.video, or leave it out"
        else:
            continue
        raise InputError(problem, where=space.where(name), fix=fix)


def _check_healing(space: SpaceConfig) -> None:
    """Raise `InputError` if how to heal is searched while no candidate is healed."""
    if set(space.heal_choices) != {NONE}:
        return
    for name in ("heal_ridge", "heal_condition"):
        if space.searches(name):
            fix = "add heal: [none, block, stream, cuts], or leave it out"
            raise InputError("has no effect without heal", where=space.where(name), fix=fix)


def _check_bits(space: SpaceConfig, shape: ModelShape) -> None:
    """Raise `InputError` if no candidate is quantised, or some are so that transformers can't load them."""
    bits, rest = lowest(space.spec("bits")), lowest(space.spec("bits_rest"))
    if shape.is_packed and (space.heals or min(bits, rest) < 16):
        raise packed_already(f"{space.path}: parameters")
    has_experts = not shape.components["thinker"].is_dense
    if space.searches("bits_group") and min(bits, rest) == 16:
        fix = "add bits: [16, 8, 4], or leave it out"
        raise InputError("has no effect without bits", where=space.where("bits_group"), fix=fix)
    if bits < 16 and not has_experts:
        problem = "the thinker is dense, it has no experts"
        raise InputError(problem, where=space.where("bits"), fix="search bits_rest alone")
    if rest < 16 and has_experts and can_be(space.spec("bits"), 16):
        held_to = space.conditions.get("bits_rest", {}).get("bits", (16,))
        if 16 in held_to:
            problem = "transformers can't load it where experts are not quantised"
            raise InputError(problem, where=space.where("bits_rest"), fix="add when: {bits: [8, 4]}")


def check_groups(space: SpaceConfig, model_info: ModelInfo) -> None:
    """Raise `InputError` if rows of what is quantised don't divide into the groups of `space`: trials would fail."""
    bits, rest = int(lowest(space.spec("bits"))), int(lowest(space.spec("bits_rest")))
    if min(bits, rest) == 16:
        return
    groups = space.spec("bits_group")
    if not isinstance(groups, tuple):
        groups = (int(lowest(groups)), int(highest(groups)))
    drops_speech = space.spec("drop_speech") is True
    # Rewritten on paper, from the headers: the rewriting itself knows which rows are packed.
    for group in groups:
        candidate = Candidate(bits=bits, bits_rest=rest, bits_group=group, drop_speech=drops_speech)
        plan = make_plan(candidate, None, model_info.shape, model_info.base_model)
        try:
            Footprint.of(model_info.checkpoint, plan)
        except InputError as error:
            fix = "take one that divides them, such as 16"
            raise InputError(error.problem, where=space.where("bits_group"), fix=fix) from None


def _check_active(space: SpaceConfig, shape: ModelShape) -> None:
    spec = space.spec("active_experts")
    top_k = shape.components["thinker"].top_k
    if spec is not None and highest(spec) > top_k:
        problem = f"the thinker routes a token to {top_k} experts, got {highest(spec):g}"
        fix = f"stay within 1 and {top_k}" if top_k else "remove it, the thinker is dense"
        raise InputError(problem, where=space.where("active_experts"), fix=fix)


def _check_experts(space: SpaceConfig, shape: ModelShape) -> None:
    for name, spec in space.parameters.items():
        component = component_of(name)
        decoder = shape.components.get(component)
        if decoder is None:
            raise InputError(f"this model has no {component}", where=space.where(name), fix="remove it")
        low, high = decoder.top_k, decoder.num_experts
        is_fraction = name in FRACTION_OF_COUNT.values()
        if decoder.is_dense and (name in FRACTION_OF_COUNT or (is_fraction and lowest(spec) < 1)):
            raise InputError(
                f"the {component} is dense, it has no experts to choose from",
                where=space.where(name),
                fix="remove it, and search layers_cut alone",
            )
        if name in FRACTION_OF_COUNT and not low <= lowest(spec) <= highest(spec) <= high:
            raise InputError(
                f"the {component} has {high} experts and routes to {low}, got {lowest(spec):g} to {highest(spec):g}",
                where=space.where(name),
                fix=f"stay within {low} and {high}",
            )


def num_layers_to_order(space: SpaceConfig, shape: ModelShape) -> int:
    """How many layers calibration must rank by loss for `space`, none unless loss may select them.

    Raises:
        InputError: it may cut more than are ranked, or layers of the talker, which are not.
    """
    if not can_be(space.spec("layer_selection"), "loss"):
        return 0
    if highest(space.spec("talker.layers_cut")):
        raise talker_has_no_loss(space.where("layer_selection"))
    num_cut, num_layers = int(highest(space.spec("layers_cut"))), shape.components["thinker"].num_layers
    return num_to_order(num_cut, num_layers, _protected(space, shape)["layers_cut"], where=space.where("layers_cut"))


def _protected(space: SpaceConfig, shape: ModelShape) -> dict[str, frozenset[int]]:
    """The layers that no candidate may cut by a ranking, by the parameter that cuts them."""
    # Where a range says how many are protected, as many as it may be: a trial that protects more must not fail.
    protect: dict[str, int | None] = {"first": None, "last": None}
    for end in protect:
        spec = space.spec(f"protect_{end}")
        if spec is not None:
            protect[end] = int(highest(spec))
    strips = space.spec("strip_vision") is True and "strip_vision" not in space.conditions
    pinned = {"layers_cut": pinned_layers(shape, strip_vision=strips, **protect)}
    if talker := shape.components.get("talker"):
        pinned["talker.layers_cut"] = edges(talker.num_layers, **protect)
    return pinned


def _check_cuts(space: SpaceConfig, shape: ModelShape) -> None:
    blocks = can_be(space.spec("layer_selection"), "block")
    for name, protected in _protected(space, shape).items():
        num_layers, most = shape.components[component_of(name)].num_layers, highest(space.spec(name))
        free = num_layers - len(protected)
        if most > free:
            problem = f"at most {free} of {num_layers} layers may be cut, got {most:g}"
            fix = "lower it, or protect fewer with protect_first and protect_last"
            raise InputError(problem, where=space.where(name), fix=fix)
        if blocks and most > MAX_SPAN:
            fix = "lower it, or take layer_selection: single"
            raise InputError(f"a block has at most {MAX_SPAN} layers, got {most:g}", where=space.where(name), fix=fix)
    num_layers_to_order(space, shape)  # raises where too many are to be ordered by loss


def check_vision(space: SpaceConfig, evals: EvalSet) -> None:
    """Raise `InputError` if `space` may strip vision while the search split shows pictures: no such trial scores."""
    pictures = evals.visual_metrics()
    if not pictures:
        return
    # A control is the medium preset, which strips vision.
    if can_be(space.spec("strip_vision"), True):
        where, fix = space.where("strip_vision"), "set it to false"
    elif space.controls:
        where, fix = f"{space.path}: controls", "leave controls out"
    else:
        return
    metric, row = next(iter(pictures.items()))
    problem = f"strips vision, but {metric} is scored on pictures, the first one at {row}"
    raise InputError(problem, where=where, fix=f"{fix}, or move the task to the report split")


def check_known_parameters(study: optuna.Study, space: SpaceConfig) -> None:
    """Raise `InputError` if a parameter is another one than `study` has sampled so far, as Optuna judges it.

    The ends and the step of a range may change between two runs; choices, the kind of numbers and `log` may not: each
    trial would fail.
    """
    searched = {name: distribution(spec) for name, spec in space.parameters.items()}
    for trial in study.get_trials(deepcopy=False):
        for name, before in trial.distributions.items():
            wanted = searched.get(name)
            if wanted is None:  # fixed by now, or no longer there: nothing is drawn for it any more
                continue
            try:
                check_distribution_compatibility(before, wanted)
            except ValueError:
                raise InputError(
                    f"study {study.study_name} has sampled from {before}, now it is {wanted}; "
                    "only low, high and step of a range may change",
                    where=space.where(name),
                    fix="undo the change, or start another study with --study",
                ) from None


def distribution(spec: Parameter) -> CategoricalDistribution | IntDistribution | FloatDistribution | None:
    """What `spec` is sampled from; None for a fixed value."""
    if isinstance(spec, tuple):
        return CategoricalDistribution(spec)
    if not isinstance(spec, Range):
        return None
    # Only with a whole step, which integers always have: `lambda: {low: 0, high: 4}` may be 0.5.
    if all(isinstance(bound, int) for bound in (spec.low, spec.high, spec.step)):
        return IntDistribution(int(spec.low), int(spec.high), step=int(spec.step or 1), log=spec.log)
    return FloatDistribution(spec.low, spec.high, step=spec.step, log=spec.log)


def component_of(parameter: str) -> str:
    """The component that a parameter of a space is about."""
    if "." not in parameter:
        return COMPONENTS[0]
    return parameter.partition(".")[0]


def enqueue_presets(study: optuna.Study, space: SpaceConfig, shape: ModelShape) -> None:
    """Have the space's presets tried first, each once; those that lie outside the space are named and left out.

    A preset is a retention and a number of cuts; of a dense thinker, cuts alone. Where the space samples more, it takes
    a candidate's ordinary values; what the space fixes stays as it is. Where candidates may be healed or quantised,
    each preset is tried so, too.
    """
    share = "experts" if "experts" in space.parameters else "retention"
    offered: dict[str, Any] = {**Candidate().parameters(), **space.parameters}
    searched = [name for name in offered if space.searches(name)]
    thinker = shape.components["thinker"]
    ordinary: dict[str, Any] = {"active_experts": thinker.top_k}
    for name in (*_BITS, "bits_group"):
        ordinary[name] = _gentlest(name, offered[name])
    for preset_name, (suffix, treatment) in product(space.presets, _treatments_of_presets(space)):
        cuts = preset(preset_name, thinker.num_layers, dense=thinker.is_dense)
        values = cuts.parameters() | ordinary | treatment
        for name, fraction in FRACTION_OF_COUNT.items():
            if name in space.parameters:
                values[name] = round(values[fraction] * shape.components[component_of(name)].num_experts)
        # Conditions look at what a trial of this preset will have: its own values, and those that the space fixes.
        told = offered | {name: values[name] for name in searched}
        drawn = [name for name in searched if _holds(space, name, told)]
        outside = [name for name in {*drawn, share, "layers_cut"} if not can_be(offered[name], values[name])]
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
    if name in _BITS:
        return max(spec)
    return min(spec)


def _treatments_of_presets(space: SpaceConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is added to a preset's name, and its values.

    It is healed not at all, then by the best of the space's choices, then so with the fewest bits.
    """
    heals = space.heal_choices
    if NONE in heals:
        yield "", {"heal": NONE}
    healed, suffix = NONE, ""
    for method in ("cuts", "block", "stream"):  # the best one last
        if method in heals:
            healed = method
    if healed != NONE:
        suffix = " healed" if NONE in heals else ""
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
    conditions = space.conditions.get(name, {})
    return all(values.get(other) in allowed for other, allowed in conditions.items())


def sample(trial: BaseTrial, space: SpaceConfig, shape: ModelShape) -> Candidate:
    """The candidate that `trial` stands for; values are drawn in the space's order, as conditions need."""
    values: dict[str, Any] = {}
    for name, spec in space.parameters.items():
        if _holds(space, name, values):
            match distribution(spec):
                case IntDistribution() as drawn:
                    values[name] = trial.suggest_int(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
                case FloatDistribution() as drawn:
                    values[name] = trial.suggest_float(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
                case CategoricalDistribution() as drawn:
                    values[name] = trial.suggest_categorical(name, drawn.choices)
                case None:
                    values[name] = spec
    for count, fraction in FRACTION_OF_COUNT.items():
        if count in values:
            values[fraction] = values.pop(count) / shape.components[component_of(count)].num_experts
    return Candidate.from_parameters(values)
