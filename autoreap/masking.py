"""Apply a plan to a model in memory, reversibly."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from transformers import PreTrainedModel

from autoreap.dimensions import DIMENSIONS
from autoreap.errors import InputError
from autoreap.models.families import Family, family_of
from autoreap.plan import PruningPlan, no_vision


@contextmanager
def masked(model: PreTrainedModel, plan: PruningPlan) -> Iterator[None]:
    """Within the context, `model` computes what the checkpoint materialised from `plan` computes, bit for bit.

    No weight is copied or changed but routers' slices (K rows each). On leaving, everything is as it was, also after an
    exception. Works on a stock transformers model, whole or thinker alone.

    Raises:
        InputError: the plan does not fit the model.

    Example:
        >>> import torch
        >>> from autoreap.candidate import Candidate
        >>> from autoreap.models.loading import load, open_model
        >>> from autoreap.planning import make_plan
        >>> info = open_model("tiny")
        >>> plan = make_plan(Candidate(strip_vision=True, active_experts=1), None, info.shape, info.base_model)
        >>> loaded = load(info)
        >>> tokens = torch.tensor([loaded.inputs.text_tokens("two plus two")])
        >>> logits = loaded.model.thinker(tokens).logits
        >>> with masked(loaded.model, plan):
        ...     pruned = loaded.model.thinker(tokens).logits
        >>> torch.equal(pruned, logits)
        False
        >>> torch.equal(loaded.model.thinker(tokens).logits, logits)
        True
    """
    family = family_of_model(model)
    _check_fits(model, family, plan)
    # Left in the opposite order: each dimension finds the model as it has changed it.
    with ExitStack() as stack:
        for dimension in DIMENSIONS:
            stack.enter_context(dimension.mask(model, family, plan))
        yield


def family_of_model(model: PreTrainedModel) -> Family:
    """The family of a loaded stock model; its thinker alone counts too."""
    return family_of({"model_type": model.config.model_type}, where=type(model).__name__)


def _check_fits(model: PreTrainedModel, family: Family, plan: PruningPlan) -> None:
    if plan.strip_vision and not family.running.vision_entrances(model):
        raise no_vision("plan: strip_vision")
    for component, decoder, edit in family.edited_decoders(model, plan):
        if len(edit.experts) != len(decoder.layers):
            raise InputError(
                f"the plan is for {len(edit.experts)} layers, the {component} has {len(decoder.layers)}",
                where="plan",
                fix="load the model that the plan was made for; masks don't nest",
            )
        for kept, layer in zip(edit.experts, decoder.layers, strict=True):
            router = family.running.router(layer)
            if router is not None and kept and kept[-1] >= router.num_experts:
                raise InputError(
                    f"the plan retains expert {kept[-1]}, the {component} has {router.num_experts} in each layer",
                    where="plan",
                )
