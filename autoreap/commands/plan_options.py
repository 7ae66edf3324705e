"""The options that say what to keep, shared by `plan` and `prune`."""

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import BadParameter, Option

from autoreap.candidate import Candidate, Heal, LayerSelection, Preset, Ranking, preset_values
from autoreap.commands.options import COMPONENTS
from autoreap.errors import InputError

logger = logging.getLogger(__name__)

Bits = Literal["16", "8", "4"]

if TYPE_CHECKING:
    from autoreap.plan import BaseModel, ModelShape, PruningPlan
    from autoreap.saliency import Saliency


# The options that have name and value of a candidate's parameter; they are passed on as they are.
_AS_PARAMETERS = (
    *("beta", "saliency", "seed", "similarity_threshold", "protect_first", "protect_last", "layer_selection"),
    *("heal", "heal_ridge", "heal_condition", "bits_group", "active_experts", "drop_speech"),
)
_LAYER_SELECTION = (
    "by cosine one by one (default single) or as a block, or by loss on answers (needs calibrate --layer-losses)"
)


def _layer_numbers(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"\d+(,\d+)*", text):
        raise BadParameter(f"must be layer numbers such as 12,16, got {text!r}")
    return text


@dataclass(frozen=True)
class Planning:
    """Values of a candidate."""

    preset: Annotated[Preset | None, Option(help="a recommended set of values; explicit options override it")] = None
    retention: Annotated[
        float | None, Option(metavar="NUMBER", help="fraction of experts kept in each layer (default 1)")
    ] = None
    lambda_: Annotated[
        float | None, Option("--lambda", metavar="NUMBER", help="weight of the contrast term (default 1)")
    ] = None
    beta: Annotated[
        float | None, Option(metavar="NUMBER", help="fraction of the video saliency that it subtracts (default 1)")
    ] = None
    saliency: Annotated[Ranking | None, Option(help="ranking of experts (default affinity)")] = None
    seed: Annotated[int | None, Option(metavar="N", help="seed of the random ranking (default 0)")] = None
    layers_cut: Annotated[
        int | None, Option(metavar="N", help="how many layers to cut, as --layer-selection ranks them (default 0)")
    ] = None
    similarity_threshold: Annotated[
        float | None,
        Option(metavar="NUMBER", help="only cut layers with at least this cosine; not with --layer-selection loss"),
    ] = None
    protect_first: Annotated[
        int | None, Option(metavar="N", help="never cut the first N layers (default: depth / 12)")
    ] = None
    protect_last: Annotated[
        int | None, Option(metavar="N", help="never cut the last N layers (default: depth / 12)")
    ] = None
    layer_selection: Annotated[LayerSelection | None, Option(help=_LAYER_SELECTION)] = None
    layers: Annotated[str | None, Option(metavar="12,16", callback=_layer_numbers, help="cut exactly these")] = None
    heal: Annotated[
        Heal | None, Option(help="refit retained weights to the unpruned model's outputs (default none)")
    ] = None
    heal_ridge: Annotated[
        float | None, Option(metavar="NUMBER", help="penalty on what healing changes (default 0.001)")
    ] = None
    heal_condition: Annotated[
        str | None,
        Option(metavar="TEXT", help="what the pruned model hears in healing, such as 'noise: brown, snr_db: 10'"),
    ] = None
    bits: Annotated[Bits | None, Option(help="bits per weight of experts (default 16, as stored)")] = None
    bits_rest: Annotated[
        Bits | None, Option(help="bits per weight of the thinker's other matrices (default 16, as stored)")
    ] = None
    bits_group: Annotated[
        int | None, Option(metavar="N", help="neighbouring weights that share a scale (default 32)")
    ] = None
    active_experts: Annotated[
        int | None, Option(metavar="N", help="route each token to N experts (default: as the model does)")
    ] = None
    strip_vision: Annotated[bool, Option("--strip-vision", help="drop the vision tower")] = False
    drop_speech: Annotated[bool, Option("--drop-speech", help="drop talker and waveform decoder: text only")] = False

    def plan(
        self, component: str, saliency: "Saliency | None", shape: "ModelShape", base_model: "BaseModel"
    ) -> "PruningPlan":
        """The plan that the options ask for; without `saliency` where nothing is ranked."""
        from autoreap.planning import make_plan, with_healing, without_layers

        candidate = self.candidate(component, shape)
        plan = make_plan(candidate, saliency, shape, base_model)
        if self.layers is None:
            return plan
        # Layers that are named are no candidate's value: no search samples them, so they are cut from the plan.
        numbers = [int(number) for number in self.layers.split(",")]
        for name in COMPONENTS[component]:
            plan = without_layers(plan, name, numbers, shape)
        return with_healing(plan, candidate, saliency, shape)  # again, for the layers that are left

    def candidate(self, component: str, shape: "ModelShape") -> Candidate:
        """The values that the options name: the preset's, and explicit ones over them."""
        from autoreap.plan import no_vision
        from autoreap.planning import check_candidate

        if self.strip_vision and not shape.has_vision:
            raise no_vision("--strip-vision")
        given: dict[str, Any] = {name: getattr(self, name) for name in _AS_PARAMETERS}
        given |= {
            "lambda": self.lambda_,
            "bits": self.bits and int(self.bits),
            "bits_rest": self.bits_rest and int(self.bits_rest),
            "strip_vision": self.strip_vision or self.preset is not None,  # every preset strips it
        }
        for name in COMPONENTS[component]:
            retention, layers_cut = self._of_preset(name, shape)
            if self.retention is not None:
                retention = self.retention
            if self.layers_cut is not None:
                layers_cut = self.layers_cut
            if self.layers is not None:  # those that are named are cut afterwards, and no others
                layers_cut = None
            prefix = "" if name == "thinker" else f"{name}."
            given[f"{prefix}retention"] = retention
            given[f"{prefix}layers_cut"] = layers_cut
        candidate = Candidate.from_parameters({name: value for name, value in given.items() if value is not None})
        check_candidate(candidate, shape)
        return candidate

    def _of_preset(self, component: str, shape: "ModelShape") -> tuple[float | None, int | None]:
        if component not in shape.components:
            raise InputError(f"this model has no {component}", where="--component")
        if self.preset is None:
            return None, None
        decoder = shape.components[component]
        retention, layers_cut = preset_values(self.preset, decoder.num_layers, dense=decoder.is_dense)
        if decoder.is_dense:
            logger.info(f"the {component} is dense: preset {self.preset} cuts {layers_cut} of its layers, no experts")
        return retention, layers_cut


def describe_plan(plan: "PruningPlan") -> str:
    """What `plan` keeps, in a line."""
    from autoreap.plan import COMPONENTS

    parts = []
    for name in COMPONENTS:
        edit = plan.component(name)
        if edit is not None:
            parts.append(f"{name} with {edit.description}")
    if plan.strip_vision:
        parts.append("without vision")
    if plan.drop_speech:
        parts.append("without speech")
    return ", ".join([*parts, *plan.treatments])
