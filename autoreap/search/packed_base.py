"""A search on a base of few bits, for a card that the model does not fit as it is stored.

The base is written once, as an ordinary packed checkpoint. To prune what is packed is to pack what is pruned, so the
candidates of the search are those that the model itself has at these bits.
"""

import logging
from dataclasses import replace
from pathlib import Path

from autoreap.candidate import CONTROLS, DEFAULT_GROUP_SIZE, NONE, Candidate
from autoreap.errors import InputError
from autoreap.models.loading import ModelInfo, open_model
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan
from autoreap.search.space import SpaceConfig
from autoreap.writing.footprint import Footprint
from autoreap.writing.materialiser import materialise

logger = logging.getLogger(__name__)

FOLDER = "bases"
# Parameters that begin so are those of the base: no bits but its own, nothing fitted.
_FIXED = ("bits", "heal")


def on_packed_base(space: SpaceConfig) -> SpaceConfig:
    """`space` without what a packed model can't be given."""
    left_out = [name for name in space.parameters if name.startswith(_FIXED)]
    if left_out:
        logger.warning("--base-bits: not searched, since the base is packed: %s", ", ".join(left_out))
    parameters = {name: spec for name, spec in space.parameters.items() if name not in left_out}
    conditions = {}
    for name, held_to in space.conditions.items():
        still_there = {other: values for other, values in held_to.items() if other not in left_out}
        if name in parameters and still_there:
            conditions[name] = still_there
    controls = tuple(name for name in space.controls if CONTROLS[name].heal == NONE)
    return replace(space, parameters=parameters, conditions=conditions, controls=controls)


def plan_of_base(model_info: ModelInfo, bits: int, space: SpaceConfig) -> PruningPlan:
    """The plan that packs the experts of a model at `bits`, in groups of the size that `space` gives, if it gives one.

    Vision goes where `space` strips it of all candidates and calibrates on nothing that is seen.

    Raises:
        InputError: they can't be packed so: they are already, or there are none, or rows don't divide into groups.
    """
    if model_info.checkpoint.is_packed:
        problem = f"{model_info.name} is quantised already"
        raise InputError(
            problem, where="--base-bits", fix="leave it out: experts that do not fit unpacked stay packed anyway"
        )
    if model_info.shape.components["thinker"].is_dense:
        raise InputError("the thinker is dense, it has no experts", where="--base-bits", fix="leave it out")
    group = space.parameters.get("bits_group")
    group_size = group if isinstance(group, int) else DEFAULT_GROUP_SIZE
    # What is seen is measured through the tower, so it stays where calibration has video or mixed rows.
    is_blind = space.parameters.get("strip_vision") is True and not (space.calibration.video or space.calibration.mixed)
    candidate = Candidate(bits=bits, bits_group=group_size, strip_vision=is_blind)
    plan = make_plan(candidate, None, model_info.shape, model_info.base_model)
    Footprint.of(model_info.checkpoint, plan)  # finds rows that don't divide
    return plan


def packed_base(model_info: ModelInfo, plan: PruningPlan, root: Path) -> ModelInfo:
    """The packed model that `plan` makes, in a folder of `root`; written if it is not there."""
    assert plan.bits is not None
    name = f"{Path(model_info.name).name}-{model_info.checkpoint.fingerprint}"
    name += f"-{plan.bits.experts}-bits-of-{plan.bits.group_size}"
    if plan.strip_vision:
        name += "-no-vision"
    target = root.resolve() / FOLDER / name
    logger.info("the unpruned model of this search has its experts at %d bits: %s", plan.bits.experts, target)
    # A checkpoint gets its name once it is verified, so one that is there is whole.
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        materialise(model_info.checkpoint.path, plan, target)
    return open_model(str(target))
