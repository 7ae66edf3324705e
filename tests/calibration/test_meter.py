"""The meter on random stock models, against every expert run on every token with plain products in float64.

Shape legend: B batch, T tokens, L layers, S spans, E experts, K = top-k, H hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_prompt, save_random_model
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextExperts

from autoreap.calibration.meter import Meter
from autoreap.errors import InputError
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.models.families.running import Decoder
from autoreap.plan import ComponentShape

RUNNING = QWEN3_OMNI.running
COMPONENTS = ("thinker", "talker")
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
SPANS = 8
WIDTH = 32

# float32 rounds at 6e-8; an output is some hundred products and sums.
RELATIVE = 1e-5
# bfloat16 rounds at 4e-3: both projections, the activation and their product; a sum over tokens averages most of it.
RELATIVE_BF16 = 1e-2
# Sums of float64 in another order.
RELATIVE_ORDER = 1e-12


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load(tmp_path_factory, getattr(torch, request.param))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load(tmp_path_factory, torch.float32)


def load(tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype) -> PreTrainedModel:
    path = save_random_model(tmp_path_factory.mktemp("random"), dtype=dtype)
    return RUNNING.load(path, dtype=dtype, device="cpu", speech=True)


@contextmanager
def using(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    before = model.get_experts_implementation()
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def decoder_of(model: PreTrainedModel, component: str = "thinker") -> Any:
    return RUNNING.decoder(model, component)


def meter_of(decoder: Decoder, **options: Any) -> Meter:
    router = cast(Any, decoder.layers[0]).mlp.gate
    shape = ComponentShape(len(decoder.layers), router.num_experts, router.top_k)
    return Meter(RUNNING, shape, router.weight.device, **options)


def embeddings(decoder: Any, batch_size: int, length: int, seed: int = 0) -> torch.Tensor:
    """[B, T, H]."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((batch_size, length, WIDTH), generator=generator)
    return values.to(decoder.layers[0].mlp.gate.weight.dtype)


@torch.inference_mode()
def run(decoder: Any, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    output: torch.Tensor = decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
    return output


def measured(
    decoder: Any, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], meter: Meter | None = None, **options: Any
) -> Meter:
    """A meter after `batches` of (embeddings [B, T, H], mask [B, T])."""
    meter = meter or meter_of(decoder, **options)
    with meter.attach(decoder.layers):
        for inputs, mask in batches:
            meter.count(mask.bool())
            run(decoder, inputs, mask.long())
    return meter


def padded(decoder: Any, lengths: Sequence[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A left-padded batch: embeddings [B, T, H], which hold noise where there is padding, and mask [B, T]."""
    inputs = embeddings(decoder, len(lengths), max(lengths), seed)
    mask = torch.zeros(inputs.shape[:2], dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, max(lengths) - length :] = 1
    return inputs, mask


def one_by_one(batch: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of a padded batch, each alone and without padding."""
    return [(inputs[None, mask.bool()], mask[None, mask.bool()]) for inputs, mask in zip(*batch, strict=True)]


class Reference:
    """What the stock decoder does, recorded by hooks, and what follows from it by plain products in float64."""

    def __init__(self, decoder: Any) -> None:
        self.layers = decoder.layers
        self.calls: list[list[Any]] = [[] for _ in self.layers]  # of each router: input [T, H], and its output
        self.hidden: list[torch.Tensor] = []  # [L + 1] of [T, H]

    @contextmanager
    def attached(self) -> Iterator[None]:
        with ExitStack() as stack:
            for calls, layer in zip(self.calls, self.layers, strict=True):
                hook = layer.mlp.gate.register_forward_hook(
                    lambda _module, arguments, output, calls=calls: calls.append((arguments[0], *output))
                )
                stack.callback(hook.remove)
                before = layer.register_forward_pre_hook(lambda _module, arguments: self._keep(arguments[0]))
                stack.callback(before.remove)
            stack.callback(self.layers[-1].register_forward_hook(lambda _m, _a, output: self._keep(output)).remove)
            yield

    def _keep(self, hidden: torch.Tensor) -> None:
        self.hidden.append(hidden.flatten(0, 1).double())

    @torch.inference_mode()
    def sums(self, counted: torch.Tensor, gates: str = "normalised") -> tuple[np.ndarray[Any, Any], ...]:
        """gate_norm_sum and routed_tokens, [L, E] each, of the `counted` tokens (bool [T])."""
        gate_norms, routed = [], []
        for layer, calls in zip(self.layers, self.calls, strict=True):
            hidden, logits, weights, indices = (torch.cat(parts)[counted] for parts in zip(*calls, strict=True))
            probabilities = logits.double().softmax(dim=-1)
            experts = layer.mlp.experts
            for expert in range(experts.num_experts):
                gate, up = (hidden.double() @ experts.gate_up_proj[expert].double().T).chunk(2, dim=-1)
                norms = ((experts.act_fn(gate) * up) @ experts.down_proj[expert].double().T).norm(dim=-1)
                chosen = indices == expert  # [T, K]
                weight = probabilities[:, expert] * chosen.any(dim=1)
                if gates == "normalised":
                    weight = (weights.double() * chosen).sum(dim=1)
                gate_norms.append(float((weight * norms).sum()))
                routed.append(int(chosen.sum()))
        shape = len(self.layers), -1
        return np.array(gate_norms).reshape(shape), np.array(routed).reshape(shape)

    def cosine(self, span: int, layer: int, counted: torch.Tensor) -> float:
        first, last = self.hidden[layer][counted], self.hidden[layer + span][counted]
        return float((first * last).sum(dim=1).div(first.norm(dim=1) * last.norm(dim=1)).mean())


def reference(decoder: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> Reference:
    recorded = Reference(decoder)
    with recorded.attached():
        run(decoder, *batch)
    return recorded


def assert_close(ours: Meter, other: Meter, relative: float = RELATIVE) -> None:
    """Sums within `relative`, all counts exactly."""
    first, second = ours.state(), other.state()
    assert torch.equal(first["tokens"], second["tokens"])
    assert torch.equal(first["routed_tokens"], second["routed_tokens"])
    torch.testing.assert_close(first["gate_norm_sum"], second["gate_norm_sum"], rtol=relative, atol=0)
    torch.testing.assert_close(first["cosine_sum"], second["cosine_sum"], rtol=relative, atol=relative)


def assert_same_bits(ours: Meter, other: Meter) -> None:
    first, second = ours.state(), other.state()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("gates", ["normalised", "raw"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_sums_equal_every_expert_run_on_every_token(
    any_model: PreTrainedModel, component: str, implementation: str, gates: str
) -> None:
    decoder = decoder_of(any_model, component)
    batch = padded(decoder, [40, 23, 7])
    with using(any_model, implementation):
        meter = measured(decoder, [batch], gates=gates)
        recorded = reference(decoder, batch)
    gate_norm_sum, routed_tokens = recorded.sums(batch[1].bool().flatten(), gates)
    ours = meter.sums()
    assert ours.tokens == 70
    np.testing.assert_array_equal(ours.routed_tokens, routed_tokens)
    relative = RELATIVE if any_model.dtype == torch.float32 else RELATIVE_BF16
    np.testing.assert_allclose(ours.gate_norm_sum, gate_norm_sum, rtol=relative)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_what_is_measured_computes_what_it_computes_unmeasured_bit_for_bit(
    any_model: PreTrainedModel, component: str, implementation: str
) -> None:
    decoder = decoder_of(any_model, component)
    inputs, mask = padded(decoder, [19, 11])
    with using(any_model, implementation):
        plain = run(decoder, inputs, mask)
        meter = meter_of(decoder, spans=SPANS, gates="raw")
        with meter.attach(decoder.layers):
            meter.count(mask)
            assert torch.equal(run(decoder, inputs, mask), plain)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_and_what_is_generated_stay_the_same_bit_for_bit(
    any_model: PreTrainedModel, implementation: str
) -> None:
    thinker = RUNNING.thinker(any_model)
    decoder = decoder_of(any_model)
    prompt = random_prompt(batch_size=2, length=12)

    def answers() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            text = thinker.generate(**prompt, max_new_tokens=6, do_sample=False)
            return thinker(**prompt).logits, cast(torch.Tensor, text)

    with using(any_model, implementation):
        plain = answers()
        with meter_of(decoder, spans=SPANS).attach(decoder.layers):
            seen = answers()
    assert all(torch.equal(ours, stock) for ours, stock in zip(seen, plain, strict=True))


def test_the_implementations_agree(model: PreTrainedModel) -> None:
    decoder = decoder_of(model)
    meters = []
    for implementation in IMPLEMENTATIONS:
        with using(model, implementation):
            meters.append(measured(decoder, [padded(decoder, [31, 12])], spans=SPANS))
    assert_close(meters[1], meters[0])
    assert_close(meters[2], meters[0])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 24), min_size=1, max_size=5), seed=st.integers(0, 99))
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_padded_batch_measures_what_its_rows_measure_one_by_one(
    model: PreTrainedModel, component: str, lengths: list[int], seed: int
) -> None:
    decoder = decoder_of(model, component)
    batch = padded(decoder, lengths, seed)
    together = measured(decoder, [batch], spans=SPANS)
    assert together.sums().tokens == sum(lengths)
    assert_close(together, measured(decoder, one_by_one(batch), spans=SPANS))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(chosen=st.lists(st.booleans(), min_size=24, max_size=24))
def test_kinds_of_tokens_add_up(model: PreTrainedModel, chosen: list[bool]) -> None:
    """Two halves of the tokens, and all of them: counts exactly."""
    decoder = decoder_of(model)
    inputs = embeddings(decoder, 2, 12)
    prompt = torch.tensor(chosen).view(2, 12)

    def of(mask: torch.Tensor) -> Meter:
        meter = meter_of(decoder, spans=SPANS)
        with meter.attach(decoder.layers):
            meter.count(mask)
            run(decoder, inputs)
        return meter

    parts = [of(prompt).state(), of(~prompt).state()]
    whole = of(torch.ones_like(prompt))
    added = meter_of(decoder, spans=SPANS, state={name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert_close(added, whole, RELATIVE_ORDER)


def test_all_tokens_count_unless_it_is_said_which(model: PreTrainedModel) -> None:
    decoder = decoder_of(model, "talker")
    inputs = embeddings(decoder, 2, 9)
    meter = meter_of(decoder, spans=SPANS)
    with meter.attach(decoder.layers):
        run(decoder, inputs)
    assert_same_bits(meter, measured(decoder, [(inputs, torch.ones((2, 9)))], spans=SPANS))


@pytest.mark.parametrize("component", COMPONENTS)
def test_layer_cosines_equal_those_of_the_hidden_states(model: PreTrainedModel, component: str) -> None:
    decoder = decoder_of(model, component)
    batch = padded(decoder, [30, 14, 3])
    cosine = measured(decoder, [batch], spans=SPANS).layer_cosine()
    recorded, depth = reference(decoder, batch), len(decoder.layers)
    counted = batch[1].bool().flatten()
    assert cosine.shape == (min(SPANS, depth), depth)
    for span, row in enumerate(cosine, start=1):
        expected = [recorded.cosine(span, layer, counted) for layer in range(depth - span + 1)]
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=RELATIVE, atol=1e-6)
        assert np.isnan(row[len(expected) :]).all()


def test_layers_are_compared_over_no_more_spans_than_asked(model: PreTrainedModel) -> None:
    decoder = decoder_of(model)
    batch = padded(decoder, [20, 9])
    few, many = (measured(decoder, [batch], spans=spans).layer_cosine() for spans in (2, SPANS))
    assert measured(decoder, [batch]).layer_cosine().shape == (0, 6)
    np.testing.assert_array_equal(few, many[:2])


def test_raw_gates_are_what_the_block_multiplies_by_where_it_does_not_renormalise(
    any_model: PreTrainedModel,
) -> None:
    decoder = decoder_of(any_model)
    batch = padded(decoder, [20, 9])
    renormalised = [measured(decoder, [batch], gates=gates).sums().gate_norm_sum for gates in ("normalised", "raw")]
    assert (renormalised[0] > renormalised[1]).all()
    routers = [layer.mlp.gate for layer in decoder.layers]
    try:
        for router in routers:
            router.norm_topk_prob = False
        assert_same_bits(measured(decoder, [batch], gates="raw"), measured(decoder, [batch]))
    finally:
        for router in routers:
            router.norm_topk_prob = True


@settings(max_examples=10, deadline=None, derandomize=True)
@given(lengths=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=1, max_size=4), data=st.data())
def test_a_measurement_that_was_interrupted_goes_on_to_the_same_bits(
    model: PreTrainedModel, lengths: list[list[int]], data: st.DataObject
) -> None:
    decoder = decoder_of(model)
    batches = [padded(decoder, each, seed) for seed, each in enumerate(lengths)]
    cut = data.draw(st.integers(0, len(batches)))
    whole = measured(decoder, batches, spans=SPANS)
    state = measured(decoder, batches[:cut], spans=SPANS).state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    rest = measured(decoder, batches[cut:], meter_of(decoder, spans=SPANS, state=state))
    assert_same_bits(rest, whole)
    assert all(torch.equal(state[name], kept[name]) for name in state)  # what was given stays as it was


def test_a_state_of_another_decoder_is_refused(model: PreTrainedModel) -> None:
    state = meter_of(decoder_of(model, "talker"), spans=SPANS).state()
    with pytest.raises(InputError, match="state of a measurement: is not of this decoder"):
        meter_of(decoder_of(model), spans=SPANS, state=state)
    with pytest.raises(InputError, match="gates: must be one of normalised, raw, got 'softmax'"):
        meter_of(decoder_of(model), gates="softmax")


@pytest.mark.parametrize("gates", ["normalised", "raw"])
def test_a_decoder_that_runs_one_layer_at_a_time_measures_the_same_bits(model: PreTrainedModel, gates: str) -> None:
    """All batches pass one layer before the next; only their hidden states are kept in between."""
    decoder = decoder_of(model)
    batches = [padded(decoder, [20, 9], 1), padded(decoder, [5, 13, 2], 2)]
    whole = measured(decoder, batches, spans=SPANS, gates=gates)
    calls = [layer_calls(decoder, batch) for batch in batches]
    meter = meter_of(decoder, spans=SPANS, gates=gates)
    hidden = [[inputs] for inputs, _ in batches]  # of each batch, the input of every layer so far
    for number, layer in enumerate(decoder.layers):
        with meter.layer(number, layer), torch.inference_mode():
            for (_, mask), kept, options in zip(batches, hidden, calls, strict=True):
                meter.count(mask.bool(), earlier=kept[-SPANS - 1 : -1])
                kept.append(layer(kept[-1], **options))
    assert_same_bits(meter, whole)


def layer_calls(decoder: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """The keyword arguments that the decoder gives to each of its layers."""
    seen: list[dict[str, Any]] = []
    hook = decoder.layers[0].register_forward_pre_hook(
        lambda _layer, _arguments, options: seen.append(dict(options)), with_kwargs=True
    )
    run(decoder, *batch)
    hook.remove()
    return seen[0]


def traces(model: PreTrainedModel) -> list[Any]:
    """Everything that a meter could leave behind."""
    modules = [
        (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for module in model.modules()
    ]
    return [modules, model.get_experts_implementation(), dict(ALL_EXPERTS_FUNCTIONS)]


def test_the_model_is_as_it_was_afterwards_also_if_a_batch_breaks(model: PreTrainedModel) -> None:
    decoder = decoder_of(model)
    inputs, mask = padded(decoder, [8, 5])
    before, plain = traces(model), run(decoder, inputs, mask)
    measured(decoder, [(inputs, mask)], spans=SPANS, gates="raw")
    assert traces(model) == before
    meter = meter_of(decoder, spans=SPANS, gates="raw")
    with pytest.raises(RuntimeError), meter.attach(decoder.layers):
        run(decoder, inputs[..., :-1], mask)
    assert traces(model) == before
    assert torch.equal(run(decoder, inputs, mask), plain)


@contextmanager
def moved(experts: Any) -> Iterator[list[int]]:
    """`experts` with a forward of their own, as libraries have it that move weights; the tokens of each call."""
    own, calls = experts.forward, list[int]()

    def forward(hidden: torch.Tensor, *routing: torch.Tensor) -> torch.Tensor:
        calls.append(len(hidden))
        return cast(torch.Tensor, own(hidden, *routing))

    experts.forward = forward
    try:
        yield calls
    finally:
        assert experts.forward is forward
        del experts.forward


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_experts_run_once_on_each_token_and_keep_a_forward_that_was_replaced_before(
    model: PreTrainedModel, implementation: str
) -> None:
    decoder = decoder_of(model)
    batch = padded(decoder, [8, 5])
    with using(model, implementation):
        plain = measured(decoder, [batch])
        with moved(decoder.layers[2].mlp.experts) as calls:
            assert_same_bits(measured(decoder, [batch]), plain)
    assert calls == [16]


def test_nothing_waits_for_the_device(model: PreTrainedModel) -> None:
    """The meta device has no values: whatever asked for one would raise."""
    decoder = decoder_of(model)
    layer = type(decoder.layers[0])(decoder.config, 0).to("meta")
    meter = Meter(RUNNING, ComponentShape(6, 8, 3), "meta", spans=SPANS, gates="raw")
    heads = torch.empty((1, 5, 8), device="meta")
    with torch.inference_mode(), using(model, "batched_mm"), meter.layer(5, layer):
        hidden = torch.empty((1, 5, WIDTH), device="meta")
        meter.count(torch.tensor([False, True, True, True, True]), earlier=[hidden] * 5)
        layer(hidden, position_embeddings=(heads, heads))


class Undecorated(Qwen3OmniMoeThinkerTextExperts):  # type: ignore[misc]
    """The stock experts as transformers writes them, without the switch between implementations."""

    forward = Qwen3OmniMoeThinkerTextExperts.forward.__wrapped__


class OneProduct(Qwen3OmniMoeThinkerTextExperts):  # type: ignore[misc]
    """Experts whose outputs are weighted and summed in one matrix product, as fused kernels do."""

    num_tokens: int

    def forward(self, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        self.num_tokens = len(hidden)
        pairs = hidden[:, None, :, None]  # [T, 1, H, 1]
        gate, up = (self.gate_up_proj[top_k_index] @ pairs).squeeze(-1).chunk(2, dim=-1)
        outputs = (self.down_proj[top_k_index] @ (self.act_fn(gate) * up).unsqueeze(-1)).squeeze(-1)  # [T, K, H]
        return torch.bmm(top_k_weights.unsqueeze(1), outputs).squeeze(1)


@contextmanager
def with_experts(decoder: Any, experts_class: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """The decoder with experts of another class, and the same weights."""
    stock = [layer.mlp.experts for layer in decoder.layers]
    others = []
    for layer, experts in zip(decoder.layers, stock, strict=True):
        other = experts_class(decoder.config)
        other.load_state_dict(experts.state_dict())
        layer.mlp.experts = other
        others.append(other)
    try:
        yield others
    finally:
        for layer, experts in zip(decoder.layers, stock, strict=True):
            layer.mlp.experts = experts


@pytest.mark.parametrize("gates", ["normalised", "raw"])
@pytest.mark.parametrize("experts_class", [Undecorated, OneProduct])
def test_experts_that_transformers_can_not_switch_are_measured_too(
    model: PreTrainedModel, experts_class: type[nn.Module], gates: str
) -> None:
    decoder = decoder_of(model)
    batch = padded(decoder, [17, 9])
    expected = measured(decoder, [batch], spans=SPANS, gates=gates)
    with with_experts(decoder, experts_class):
        plain = run(decoder, *batch)
        meter = meter_of(decoder, spans=SPANS, gates=gates)
        with meter.attach(decoder.layers):
            meter.count(batch[1].bool())
            output = run(decoder, *batch)
    assert_close(meter, expected)
    if experts_class is Undecorated:
        assert torch.equal(output, plain)
    else:
        torch.testing.assert_close(output, plain, rtol=RELATIVE, atol=RELATIVE)


def test_only_experts_that_hide_their_outputs_run_each_pair_by_itself(model: PreTrainedModel) -> None:
    decoder = decoder_of(model)
    inputs, mask = padded(decoder, [6])
    with with_experts(decoder, OneProduct) as experts:
        measured(decoder, [(inputs, mask)])
        assert {each.num_tokens for each in experts} == {6 * 3}


def test_a_layer_without_experts_measures_as_zeros(model: PreTrainedModel) -> None:
    decoder = decoder_of(model)
    dense = decoder.layers[1]
    moe = dense.mlp
    dense.mlp = nn.Identity()
    try:
        meter = measured(decoder, [padded(decoder, [6])], spans=SPANS)
    finally:
        dense.mlp = moe
    assert meter.sums().routed_tokens.sum(axis=1).tolist() == [18, 0, 18, 18, 18, 18]
    assert not np.isnan(meter.layer_cosine()[0]).any()


def test_what_ends_in_an_error_does_not_count_and_disturbs_nothing_after_it(model: PreTrainedModel) -> None:
    decoder = decoder_of(model)
    first, broken, last = (padded(decoder, [5, 3], seed=seed) for seed in range(3))
    meter = measured(decoder, [first], spans=SPANS)

    def breaks(*_arguments: Any) -> None:
        raise InterruptedError

    hook = decoder.layers[2].register_forward_pre_hook(breaks)
    with pytest.raises(InterruptedError), meter.all_or_nothing():
        measured(decoder, [broken], meter)
    hook.remove()
    with meter.all_or_nothing():
        measured(decoder, [last], meter)
    expected = measured(decoder, [first, last], spans=SPANS).state()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in meter.state().items())
