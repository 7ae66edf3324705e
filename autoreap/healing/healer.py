"""Fit the retained weights of a pruned model, so that each layer puts on the stream what the unpruned model put there.

Layer after layer, with the earlier ones already healed: the block's output is the sum over retained experts of
W_e z_e(x), linear in the down projections W_e, where z_e = g_e(x) act(gate_e x) (up_e x). Ridge regression gives the
changes of W_e that add what is missing. No gradient, no step size; the result is a checkpoint of the same size. Where
weights will be quantised, all but W_e are so beforehand, and W_e once it is fitted: it makes up for their rounding.

Shape legend: N tokens that count, K retained experts, I what a down projection is given, H hidden.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoreap.data.samples import Sample, digest
from autoreap.dimensions.bits import matrices, rounded
from autoreap.dimensions.experts import narrowed
from autoreap.dimensions.healed import digest_of, digest_of_named, standing_in
from autoreap.dimensions.routing import choosing
from autoreap.errors import InputError
from autoreap.healing.calls import DecoderCall, computed_with, decoder_calls, drawn_rows, spoken_calls
from autoreap.healing.halves import halved_layer
from autoreap.healing.ridge import Regressor, fit_ridge
from autoreap.healing.streams import Streams, take_streams
from autoreap.models.loading import Loaded
from autoreap.models.tensors import stored_type
from autoreap.plan import COMPONENTS, ComponentPlan, FittedWeights, Healing, PruningPlan

logger = logging.getLogger(__name__)

STREAMS = "streams"  # the folder of what unpruned models compute, below that of all studies


class Healer:
    """Heals candidates of one model on one calibration set; what the unpruned model computes is taken once.

    Args:
        loaded: the model, unmasked. It is as it was after each call.
        data: the calibration rows by modality.
        folder: takes what the unpruned model computes.
        check: called between layers; what it raises ends a fit.
    """

    def __init__(
        self,
        loaded: Loaded,
        data: Mapping[str, Sequence[Sample]],
        folder: Path,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._loaded = loaded
        self._data = data
        self._folder = folder
        self._check = check
        # By component, modality, tokens and condition.
        self._calls: dict[tuple[str, ...], list[DecoderCall]] = {}
        self._streams: dict[tuple[str, ...], Streams] = {}  # by component, modality and tokens

    def fit(self, plan: PruningPlan) -> PruningPlan:
        """`plan` with the weights that it stands for, and their digests; as it is where it heals nothing.

        A talker that is not in memory is left out: scoring needs none, and nothing is written without its weights. The
        same plan, rows and versions on the same device give the same bits.

        Raises:
            InputError: the plan was made for other rows.
            HealingError: a fit is singular or not finite.
        """
        if not plan.heals:
            return plan
        fitted: dict[tuple[str, int], torch.Tensor] = {}
        digests = {}
        for component, _, _ in self._loaded.model_info.family.edited_decoders(self._loaded.model, plan):
            heal = plan.healing(component)
            if heal is None:
                continue
            for modality, expected in heal.data.items():
                if self._digests.get(modality) != expected:
                    fix = "give the rows that the saliency was measured on, or plan again"
                    raise InputError(f"the plan is healed on other {modality} rows", where="calibration set", fix=fix)
            calls: list[DecoderCall] = []
            streams = []
            for modality in sorted(heal.data):
                calls += self._calls_of(component, modality, heal.tokens, heal.condition)
                streams.append(self._streams_of(component, modality, heal.tokens))
            weights = _DecoderFit(self._loaded, component, plan, self._check).run(calls, streams)
            fitted |= weights
            digests[component] = digest_of(weights)
        return plan.with_fitted(fitted, digests)

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Of the rows, by modality; taken once, as it reads all their media."""
        return {modality: digest(samples) for modality, samples in self._data.items()}

    def _calls_of(self, component: str, modality: str, tokens: str, condition: str) -> list[DecoderCall]:
        key = (component, modality, tokens, condition)
        if key not in self._calls:
            rows = self._data[modality]
            if component == "talker":
                self._calls[key] = spoken_calls(self._loaded, rows)
            else:
                self._calls[key] = decoder_calls(self._loaded, drawn_rows(self._loaded, rows), tokens, condition)
        return self._calls[key]

    def _streams_of(self, component: str, modality: str, tokens: str) -> Streams:
        key = (component, modality, tokens)
        if key not in self._streams:
            # The unpruned model hears the rows as they are, whatever the condition under which the pruned one does.
            calls = self._calls_of(component, modality, tokens, condition="")
            identity = {
                "model": self._loaded.model_info.checkpoint.fingerprint,
                "data": self._digests[modality],
                "tokens": tokens,
                **computed_with(self._loaded),
            }
            # What it said, which on an accelerator may not be the same each time.
            if component == "talker":
                identity["said"] = digest_of_named((str(number), call.hidden) for number, call in enumerate(calls))
            self._streams[key] = take_streams(self._loaded, component, calls, identity, self._folder, self._check)
        return self._streams[key]


def refitted(loaded: Loaded, plan: PruningPlan, data: Mapping[str, Sequence[Sample]], folder: Path) -> PruningPlan:
    """`plan` with its weights, fitted again on the base model.

    Where they are not the weights that were scored, which is said, another device or library has rounded otherwise.
    """
    fitted = Healer(loaded, data, folder).fit(plan)
    if not is_same_fit(plan, fitted):
        logger.warning("the healed weights are not to the bit those that were scored: computed elsewhere, they round")
    return fitted


def is_same_fit(scored: PruningPlan, fitted: PruningPlan) -> bool:
    """Whether `fitted` has the weights that `scored` records, as far as it records any."""
    for component in COMPONENTS:
        recorded = scored.healing(component)
        if recorded is not None and recorded.weights is not None and fitted.healing(component) != recorded:
            return False
    return True


class _DecoderFit:
    """Goes through the retained layers of one decoder, and fits each to what the unpruned one computes."""

    def __init__(self, loaded: Loaded, component: str, plan: PruningPlan, check: Callable[[], None]) -> None:
        heal, edit = plan.healing(component), plan.component(component)
        assert heal is not None
        assert edit is not None
        self._running = loaded.running
        self._loaded = loaded
        self._component = component
        self._plan = plan
        self._heal: Healing = heal
        self._edit: ComponentPlan = edit
        self._stored_dtype = _stored_dtype(loaded, component)
        self._check = check

    @torch.inference_mode()
    def run(self, calls: Sequence[DecoderCall], streams: Sequence[Streams]) -> FittedWeights:
        """The fitted weights of each healed layer, from what the decoder is given and what it should compute."""
        token_weights = torch.cat([torch.full((len(call.counted),), call.weight) for call in calls])
        hidden = [call.hidden for call in calls]
        fitted: dict[tuple[str, int], torch.Tensor] = {}
        depth = len(self._edit.experts)
        for number, following in zip(self._edit.layers, (*self._edit.layers[1:], depth), strict=True):
            self._check()
            kept = self._edit.experts[number]
            # The order matters: what stays is rounded, then fitted for what it now gives, then the fit is rounded too.
            with halved_layer(self._loaded, self._component, number) as layer, ExitStack() as stack:
                self._route(layer.module, kept, stack)
                down = self._running.down_projection(layer.module)
                self._round(layer.module, kept, stack, fitted=False)
                halves = [layer.run_attention(each, call.arguments) for each, call in zip(hidden, calls, strict=True)]
                # Of the method `cuts`, only layers that stand right before a cut are fitted.
                if self._heal.method != "cuts" or following > number + 1:
                    given = _counted([half.normalised for half in halves], calls)
                    outputs = []
                    for half in halves:
                        output = layer.block(half.normalised)
                        # Then what earlier layers and attention drifted by counts too.
                        if self._heal.method != "block":
                            output = half.residual + output
                        outputs.append(output)
                    missing = self._target(streams, number, following).to(given.device, torch.float64)
                    missing -= _counted(outputs, calls)
                    regressors = self._regressors(layer.module, given, kept)
                    where = f"{self._component} layer {number}"
                    changes = fit_ridge(regressors, missing, self._heal.ridge, token_weights.to(given.device), where)
                    weights = self._changed(down, kept, changes)
                    fitted[self._component, number] = weights
                    stack.enter_context(standing_in(down, kept, weights))
                self._round(layer.module, kept, stack, fitted=True)
                # The block runs again, with the fitted weights: later layers are fitted to what healed ones give them.
                hidden = [half.residual + layer.block(half.normalised) for half in halves]
        return fitted

    def _route(self, module: nn.Module, kept: tuple[int, ...], stack: ExitStack) -> None:
        """Let the router of a layer choose among its retained experts while `stack` lasts."""
        router = self._running.router(module)
        if router is None:
            return
        if len(kept) < router.num_experts:
            stack.enter_context(narrowed(router, kept))
        if self._component == "thinker" and self._plan.active_experts is not None:
            stack.enter_context(choosing(router, self._plan.active_experts))

    def _round(self, module: nn.Module, kept: tuple[int, ...], stack: ExitStack, *, fitted: bool) -> None:
        """Let what is `fitted` of a layer, or all else, be as it will be stored, while `stack` lasts."""
        if self._plan.bits is None:
            return
        down = self._running.down_projection(module)
        for weights, bits, rows in matrices(self._running, self._component, module, kept, self._plan.bits):
            if (weights is down) == fitted:
                stack.enter_context(rounded(weights, rows, bits, self._plan.bits.group_size))

    def _target(self, streams: Sequence[Streams], number: int, following: int) -> torch.Tensor:
        """What the layer should put out [N, H]: what the next retained layer was given, or what its own block added."""
        if self._heal.method == "block":
            return torch.cat([each.blocks[number] for each in streams])
        return torch.cat([each.outputs[following - 1] for each in streams])

    def _regressors(self, module: nn.Module, given: torch.Tensor, kept: tuple[int, ...]) -> list[Regressor]:
        """What the down projections are given where the block is given `given` [N, H]: of each retained expert."""
        router: Any = self._running.router(module)
        if router is None:
            return [Regressor(self._running.before_down(module, given))]
        _, gates, experts = router(given)
        # The router is narrowed to the retained experts, and its hook still names them by their original numbers.
        regressors = []
        for expert in kept:
            rows, places = torch.where(experts == expert)
            inner = self._running.before_down(module, given[rows], expert)
            regressors.append(Regressor(inner * gates[rows, places].unsqueeze(1), rows))
        return regressors

    def _changed(self, down: torch.Tensor, kept: tuple[int, ...], changes: Sequence[torch.Tensor]) -> torch.Tensor:
        """The fitted weights, rounded once, on the CPU."""
        if not kept:  # a dense layer
            return (down.double() + changes[0]).to(self._stored_dtype).cpu()
        fitted = down.new_empty((len(kept), *down.shape[1:]), dtype=self._stored_dtype)
        for place, expert in enumerate(kept):
            fitted[place] = (down[expert].double() + changes[place]).to(self._stored_dtype)
        return fitted.cpu()


def _stored_dtype(loaded: Loaded, component: str) -> torch.dtype:
    """The type of the down projections in the checkpoint; fitted weights are rounded to it once."""
    for name, info in loaded.model_info.checkpoint.tensors.items():
        role = loaded.model_info.family.layout.role(name)
        if role.part == component and role.is_down_projection:
            return stored_type(info)
    raise AssertionError("a decoder has down projections")


def _counted(tensors: Sequence[torch.Tensor], calls: Sequence[DecoderCall]) -> torch.Tensor:
    """The tokens that count [N, H], of batches [B, T, H]."""
    return torch.cat([tensor.flatten(0, 1)[call.counted] for tensor, call in zip(tensors, calls, strict=True)])
