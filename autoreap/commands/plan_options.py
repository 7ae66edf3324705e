"""The options that say what to keep, shared by `plan` and `prune`."""

import logging
from typing import TYPE_CHECKING, Any

from autoreap.candidate import LAYER_SELECTIONS, PRESETS, RANKINGS, Candidate, preset_values
from autoreap.commands.options import COMPONENTS, Add, Arguments, indices
from autoreap.errors import InputError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from autoreap.plan import BaseModel, ModelShape, PruningPlan
    from autoreap.saliency import Saliency


def add_planning_options(add: Add, *, component: bool = True) -> None:
    """Values of a candidate; `component` where the command has no such option already."""
    add("--preset", choices=tuple(PRESETS), help="a recommended set of values; explicit ones go over it")
    add("--retention", type=float, metavar="SHARE", help="of the experts kept in each layer (default 1: all)")
    add("--lambda", dest="lambda_", type=float, metavar="WEIGHT", help="weight of the contrast term (default 1)")
    add("--beta", type=float, metavar="SHARE", help="of the video saliency that it subtracts (default 1)")
    add("--saliency", choices=RANKINGS, help="ranking of experts (default affinity)")
    add("--seed", type=int, metavar="N", help="of the random ranking (default 0)")
    add("--layers-cut", type=int, metavar="N", help="how many layers to cut, most similar first (default 0)")
    add("--similarity-threshold", type=float, metavar="COSINE", help="least one of a layer that is cut (default: none)")
    add("--protect-first", type=int, metavar="N", help="never cut the first N layers by ranking (default: depth / 12)")
    add("--protect-last", type=int, metavar="N", help="nor the last N (default: depth / 12)")
    add("--layer-selection", choices=LAYER_SELECTIONS, help="cut them one by one (default single), or as one block")
    add("--layers", type=indices, metavar="12,16", help="cut exactly these layers")
    add("--strip-vision", action="store_true", help="drop the vision tower")
    add("--drop-speech", action="store_true", help="drop the talker and the waveform decoder: it answers in text alone")
    if component:
        add("--component", choices=tuple(COMPONENTS), default="thinker", help="default: thinker")


def planned(
    options: Arguments, saliency: "Saliency | None", shape: "ModelShape", base_model: "BaseModel"
) -> "PruningPlan":
    """The plan that the planning options ask for; without `saliency` where nothing is ranked."""
    from autoreap.planning import make_plan, without_layers

    plan = make_plan(candidate(options, shape), saliency, shape, base_model)
    if options.layers is None:
        return plan
    for component in COMPONENTS[options.component]:
        plan = without_layers(plan, component, options.layers, shape)
    return plan


def candidate(options: Arguments, shape: "ModelShape") -> Candidate:
    """The values that the planning options name: the preset's, and explicit ones over them."""
    from autoreap.plan import no_vision

    if options.strip_vision and not shape.has_vision:
        raise no_vision("--strip-vision")
    given: dict[str, Any] = {}
    for component in COMPONENTS[options.component]:
        if component not in shape.components:
            raise InputError(f"this model has no {component}", where="--component")
        retention, layers_cut = None, None
        if options.preset:
            decoder = shape.components[component]
            retention, layers_cut = preset_values(options.preset, decoder.num_layers, dense=decoder.is_dense)
            if decoder.is_dense:
                logger.info(
                    f"the {component} is dense: preset {options.preset} cuts {layers_cut} of its layers, no experts"
                )
        prefix = "" if component == "thinker" else f"{component}."
        given[f"{prefix}retention"] = retention if options.retention is None else options.retention
        if options.layers is None:
            given[f"{prefix}layers_cut"] = layers_cut if options.layers_cut is None else options.layers_cut
    given |= {"lambda": options.lambda_, "beta": options.beta, "saliency": options.saliency, "seed": options.seed}
    given |= {name: getattr(options, name) for name in ("similarity_threshold", "protect_first", "protect_last")}
    given |= {"strip_vision": options.strip_vision or bool(options.preset), "drop_speech": options.drop_speech}
    given["layer_selection"] = options.layer_selection
    return Candidate.from_parameters({name: value for name, value in given.items() if value is not None})


def in_words(plan: "PruningPlan") -> str:
    """What `plan` keeps, in a line."""
    from autoreap.plan import COMPONENTS

    parts = [f"{name} with {edit.in_words}" for name in COMPONENTS if (edit := plan.component(name)) is not None]
    dropped = [name for name, gone in (("vision", plan.strip_vision), ("speech", plan.drop_speech)) if gone]
    return ", ".join([*parts, *(f"without {name}" for name in dropped)])
