"""Store matrices of decoder layers in 8 or 4 bits, as compressed-tensors does: symmetric, rounded to nearest.

Neighbouring weights of a row share a scale. A checkpoint holds codes and scales, and whoever loads it computes with
their products, in bfloat16; the mask puts these products in the place of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoreap.dimensions.healed import standing_in
from autoreap.models.families.family import Family
from autoreap.models.families.layout import REST, CheckpointLayout, Config, Shapes, TensorRole
from autoreap.models.families.running import RunningModel
from autoreap.models.packed import FORMAT, METHOD
from autoreap.models.packed_weights import scheme, scheme_arguments
from autoreap.plan import COMPONENTS, PruningPlan, Quantisation

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

# Weights that are rounded at once: 64 MiB of float32, and about as much a few times beside them.
_SLAB = 1 << 24
# By these names transformers, vLLM and SGLang find what is quantised. Transformers takes the group that names experts
# for experts, and the other one for all else that has scales.
_EXPERTS_TARGET = r"re:.*\.mlp\.experts\..*"
_REST_TARGET = (
    r"re:^(?!.*(audio_tower|visual|talker|code2wav|token2wav)).*layers\.\d+\."
    r"(self_attn\.(q|k|v|o|qkv)_proj|mlp\.(gate|up|down|gate_up)_proj)$"
)


@contextmanager
def mask(model: PreTrainedModel, family: Family, plan: PruningPlan) -> Iterator[None]:
    """Put the rounded values, as a checkpoint would load them, in the place of the retained weights."""
    with ExitStack() as stack:
        for component in COMPONENTS:
            decoder, edit = family.running.decoder(model, component), plan.component(component)
            if plan.bits is None or decoder is None or (component == "talker" and plan.drop_speech):
                continue
            # A talker that is not pruned is quantised whole: transformers reads all experts of a checkpoint alike.
            numbers = edit.layers if edit else range(len(decoder.layers))
            for number in numbers:
                kept = edit.experts[number] if edit else ()
                layer = decoder.layers[number]
                for weights, bits, rows in matrices(family.running, component, layer, kept, plan.bits):
                    stack.enter_context(rounded(weights, rows, bits, plan.bits.group_size))
        yield


def matrices(
    running: RunningModel, component: str, layer: nn.Module, kept: tuple[int, ...], quantisation: Quantisation
) -> Iterator[tuple[nn.Parameter, int, tuple[int, ...]]]:
    """The quantised parameters of a decoder layer: each with its bits and the rows that count; () means all."""
    experts = running.experts(layer)
    if experts is not None and quantisation.experts < 16:
        for weights in experts.parameters():
            yield weights, quantisation.experts, kept
    if component == "thinker" and quantisation.rest < 16:
        for name, weights in layer.named_parameters():
            if REST.fullmatch(name):
                yield weights, quantisation.rest, ()


@contextmanager
def rounded(weights: nn.Parameter, kept: tuple[int, ...], bits: int, group_size: int) -> Iterator[None]:
    """What `weights` [E, R, C] or [R, C] round to in the place of the `kept` rows, or of all of it."""
    # Experts that are cut keep their values: nothing is routed to them.
    values = weights.detach()
    if kept:
        values = values[list(kept)]
    with standing_in(weights, kept, to_nearest(values, bits, group_size)):
        yield


def to_nearest(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """What `weights` [..., R, C] are after packing and unpacking, in their own type."""
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    arguments: Any = scheme(bits, group_size).weights
    nearest = torch.empty_like(weights)
    rows, places = weights.flatten(0, -2), nearest.flatten(0, -2)
    slab = max(1, _SLAB // rows.shape[-1])
    for start in range(0, len(rows), slab):
        # As a checkpoint's bytes are packed: scales are found, and codes rounded, in float32.
        part = rows[start : start + slab].float()
        scales = scales_of(part, bits, group_size)
        places[start : start + slab] = fake_quantize(part, scales, None, arguments)
    return nearest


def scales_of(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """The scale of each group of `weights` [R, C], from its largest one; bfloat16 [R, C / group_size].

    They have that type whatever the model's, so that they are the same wherever they are computed.
    """
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams

    groups = weights.float().reshape(len(weights), -1, group_size)
    scales: torch.Tensor  # the zero points beside them are all 0, as codes are symmetric
    scales, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme(bits, group_size).weights)
    return scales.to(torch.bfloat16)


def _all_but(targets: list[str]) -> str:
    """A pattern of the names that no target fits.

    SGLang builds no model in which a linear layer is neither a target nor ignored; its audio tower has some without a
    name.
    """
    patterns = "|".join(target.removeprefix("re:") for target in targets)
    return f"re:(?!{patterns}).*"


def rewrite_tensor(role: TensorRole, plan: PruningPlan) -> TensorRole | None:
    """Mark in how many bits it is stored; `writing.rewrite` packs it."""
    if plan.bits is None:
        return role
    if role.is_expert_matrix:
        return replace(role, bits=plan.bits.experts)
    if role.is_rest_matrix:
        return replace(role, bits=plan.bits.rest)
    return role


def rewrite_config(config: Config, layout: CheckpointLayout, plan: PruningPlan) -> Shapes:
    """Say what is packed and how, for those who load it."""
    if plan.bits is None:
        return {}
    groups, targets = {}, []
    for name, bits, target in (("experts", plan.bits.experts, _EXPERTS_TARGET), ("rest", plan.bits.rest, _REST_TARGET)):
        if bits < 16:
            groups[name] = {"targets": [target], "weights": scheme_arguments(bits, plan.bits.group_size)}
            targets.append(target)
    config["quantization_config"] = {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [_all_but(targets)],
    }
    return {}
