"""Measures a text decoder while it runs: what each expert contributes, and how similar hidden states are.

The decoder computes what it computes anyway, with whichever implementation of the experts it uses: the routing weights
that its experts get record the outputs that they are multiplied with. So only routed experts run, and no result changes
by a bit. Nothing here waits for the device before the sums are read.

Shape legend: L layers, S spans, E experts, K = top-k, T tokens of a batch (padding included), N of them that count, H
hidden.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from autoreap.calibration.expert_outputs import Experts, RecordingWeights, run_pair_by_pair
from autoreap.data.calibration_choices import DEFAULT_GATES, GATES
from autoreap.errors import InputError
from autoreap.models.families.running import RunningModel
from autoreap.plan import ComponentShape
from autoreap.saliency import FloatArray, ModalitySums

State = dict[str, torch.Tensor]


class Meter:
    """Sums over all tokens that count, of one decoder.

    The same batches in the same order give the same bits, in one go or with `state` saved and given back in between:
    the meter adds in a fixed order, on a GPU too. Another order or split of batches agrees within rounding.

    Args:
        running: the family's, whose decoder it is.
        shape: of the decoder.
        device: where the sums are kept; that of the decoder, so that nothing waits. Layers may lie elsewhere.
        spans: S, for how many spans of layers the cosine of hidden states is measured; 0 leaves it out.
        gates: `normalised` takes as g what the block multiplies by, `raw` the router's probability before top-k
            probabilities are renormalised.
        state: what `state` returned, to go on from it.

    Raises:
        InputError: `gates` is unknown, or `state` is of another shape.
    """

    def __init__(
        self,
        running: RunningModel,
        shape: ComponentShape,
        device: torch.device | str = "cpu",
        *,
        spans: int = 0,
        gates: str = DEFAULT_GATES,
        state: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        if gates not in GATES:
            raise InputError(f"must be one of {', '.join(GATES)}, got {gates!r}", where="gates")
        self._running = running
        self._raw = gates == "raw"
        self._num_layers, self._num_experts = shape.num_layers, shape.num_experts
        self._device = torch.device(device)
        if self._device.type == "mps":
            self._device = torch.device("cpu")  # MPS has no float64
        spans = min(spans, shape.num_layers)
        sums = _zeros(shape, spans)
        if state is not None:
            given, needed = _form_of(state), _form_of(sums)
            if given != needed:
                problem = f"is not of this decoder: {given} instead of {needed}"
                raise InputError(problem, where="state of a measurement")
            sums = dict(state)
        self._sums = {name: tensor.to(self._device, copy=True) for name, tensor in sums.items()}
        self._counted: torch.Tensor | None = None  # [N], which of the T tokens count; None: all
        self._raw_gates: torch.Tensor | None = None  # [T, K] of the layer under way
        # Unit vectors [N, H] of the last hidden states.
        self._recent: deque[torch.Tensor] = deque(maxlen=spans)
        self._weights_record = True  # until an implementation is met that hides the outputs from them

    def state(self) -> State:
        """All that was measured so far, on the CPU.

        float64 `gate_norm_sum` [L, E], int64 `routed_tokens` [L, E], int64 `tokens` [1], and float64 `cosine_sum`
        [S, L + 1]: at [n - 1, l] the sum over tokens of cos(h_{l - n}, h_l), where h_l is the input of layer l and h_L
        the output of the last.
        """
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._sums.items()}

    def sums(self) -> ModalitySums:
        """What was measured of the experts."""
        state = self.state()
        norms, routed = state["gate_norm_sum"].numpy(), state["routed_tokens"].numpy()
        return ModalitySums(gate_norm_sum=norms, routed_tokens=routed, tokens=int(state["tokens"]))

    def layer_cosine(self) -> FloatArray:
        """[S, L]; see `ComponentSaliency.layer_cosine`."""
        state = self.state()
        # NaN where h_{l + n} lies beyond the last layer.
        cosine = torch.full((len(state["cosine_sum"]), self._num_layers), torch.nan, dtype=torch.float64)
        for span, sums in enumerate(state["cosine_sum"], start=1):
            cosine[span - 1, : self._num_layers - span + 1] = sums[span:] / state["tokens"].clamp(min=1)
        measured: FloatArray = cosine.numpy()
        return measured

    def count(self, mask: torch.Tensor | None, earlier: Sequence[torch.Tensor] = ()) -> None:
        """Say which tokens of the next forward pass count.

        Args:
            mask: bool [T] or [B, T/B], best on the CPU: on a GPU its tokens must be waited for. None counts all.
            earlier: the hidden states [..., H] before the layer that runs next, oldest first; for a decoder that runs
                one layer at a time. A decoder that runs whole from its first layer needs none.
        """
        if mask is not None:
            mask = mask.flatten().nonzero().squeeze(1).to(self._device, non_blocking=True)
        self._counted = mask
        self._recent.clear()
        self._recent.extend(self._directions(hidden) for hidden in earlier)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is measured within the context does not count if it ends in an error."""
        # Clones, as the sums are added to in place.
        before = {name: tensor.clone() for name, tensor in self._sums.items()}
        try:
            yield
        except BaseException:
            self._sums = before
            self._recent.clear()
            raise

    @contextmanager
    def attach(self, layers: Iterable[nn.Module]) -> Iterator[None]:
        """Measure every forward pass of the decoder with these `layers` within the context."""
        with ExitStack() as stack:
            stack.callback(self.count, None)  # keeps nothing of the last batch
            for number, layer in enumerate(layers):
                stack.enter_context(self.layer(number, layer))
            yield

    @contextmanager
    def layer(self, number: int, layer: nn.Module) -> Iterator[None]:
        """Measure every forward pass of one layer, the decoder's `number`-th, within the context."""
        experts, router = self._running.experts(layer), self._running.router(layer)

        def before_layer(_layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            self._compare(number, arguments[0])

        with ExitStack() as stack:
            stack.callback(layer.register_forward_pre_hook(before_layer).remove)
            if number + 1 == self._num_layers:
                stack.callback(layer.register_forward_hook(self._after_last_layer).remove)
            if router is not None and self._raw:
                stack.callback(router.register_forward_hook(self._after_router).remove)
            if experts is not None:
                stack.enter_context(replace_forward(experts, self._wrap(number, experts.forward)))
            yield

    def _wrap(self, number: int, experts: Experts) -> Experts:
        """The experts of layer `number`, which add what they compute to the sums."""

        def forward(hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
            if self._weights_record:
                weights = RecordingWeights.of(top_k_weights)
                output = experts(hidden, top_k_index, weights)
                if weights.outputs.is_complete:
                    self._add(number, top_k_index, top_k_weights, weights.outputs.norms)
                    return output
                # This implementation weights its outputs otherwise, so these are lost: all pairs run again.
                self._weights_record = False
            output, norms = run_pair_by_pair(experts, hidden, top_k_index, top_k_weights)
            self._add(number, top_k_index, top_k_weights, norms)
            return output

        return forward

    def _add(self, number: int, experts: torch.Tensor, weights: torch.Tensor, norms: torch.Tensor) -> None:
        """Add g * ||h|| of the tokens that count; all of shape [T, K]."""
        gates = weights if self._raw_gates is None else self._raw_gates
        experts = self._select_counted(experts.to(self._device))
        gates = self._select_counted(gates.to(self._device))
        norms = self._select_counted(norms.to(self._device))
        # No expert has a token twice, so no two numbers meet before sum(), whose order is fixed on a GPU too;
        # index_add_ of floating-point numbers is not reproducible there.
        by_expert = torch.zeros((len(experts), self._num_experts), dtype=torch.float64, device=self._device)
        by_expert.scatter_(1, experts, gates.double() * norms.double())
        self._sums["gate_norm_sum"][number] += by_expert.sum(dim=0)
        chosen = experts.flatten()
        self._sums["routed_tokens"][number].index_add_(0, chosen, torch.ones_like(chosen))

    def _after_last_layer(self, _layer: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
        self._compare(self._num_layers, output)
        self._recent.clear()

    def _after_router(self, _router: nn.Module, _arguments: Any, output: Any) -> None:
        self._raw_gates = self._running.raw_gates(output)

    def _compare(self, number: int, hidden: torch.Tensor) -> None:
        """Take in the hidden states [..., H] number `number` and compare them with those before."""
        if number == 0:
            num_tokens = hidden.shape[:-1].numel() if self._counted is None else len(self._counted)
            self._sums["tokens"] += num_tokens  # once in a pass
        if not self._recent.maxlen:
            return  # no spans are measured
        directions = self._directions(hidden)
        if self._recent:
            for place, earlier in enumerate(self._recent):
                # Once, where layers lie on several devices.
                self._recent[place] = earlier.to(directions.device)
            # The newest first: it is one layer away, which is the first row of the sums.
            cosines = [(earlier * directions).sum(dim=-1) for earlier in reversed(self._recent)]
            sums = torch.stack(cosines).sum(dim=1, dtype=torch.float64)
            self._sums["cosine_sum"][: len(sums), number] += sums.to(self._device)
        self._recent.append(directions)

    def _directions(self, hidden: torch.Tensor) -> torch.Tensor:
        """The counted tokens of `hidden` [..., H] as unit vectors [N, H] in float32."""
        return nn.functional.normalize(self._select_counted(hidden.flatten(0, -2)).float(), dim=-1)

    def _select_counted(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T, ...] to [N, ...]."""
        if self._counted is None:
            return tokens
        return tokens.index_select(0, self._counted.to(tokens.device))


@contextmanager
def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module.forward` is `forward` within the context."""
    # Set where something else, such as offloading, has replaced it before.
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _zeros(shape: ComponentShape, spans: int) -> State:
    layers, experts = shape.num_layers, shape.num_experts
    return {
        "gate_norm_sum": torch.zeros((layers, experts), dtype=torch.float64),
        "routed_tokens": torch.zeros((layers, experts), dtype=torch.int64),
        "tokens": torch.zeros(1, dtype=torch.int64),
        "cosine_sum": torch.zeros((spans, layers + 1), dtype=torch.float64),
    }


def _form_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
