import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import BASE_MODEL, SHAPE, planned, saliency_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoreap.candidate import RANKINGS, Candidate
from autoreap.errors import InputError
from autoreap.plan import (
    BaseModel,
    ComponentShape,
    Healing,
    ModelShape,
    Quantisation,
    check_plan,
    plan_from_dict,
)
from autoreap.planning import (
    edges,
    first_of_order,
    layers_to_cut,
    make_plan,
    needs_saliency,
    num_layers_to_order,
    num_retained,
    num_to_order,
    pinned_layers,
    retained_experts,
    without_layers,
)
from autoreap.saliency import LayerOrder

NUM_LAYERS = SHAPE.components["thinker"].num_layers


@pytest.mark.parametrize(
    ("retention", "num_experts", "top_k", "expected"),
    [
        (1.0, 128, 8, 128),
        (0.75, 128, 8, 96),
        (0.5, 5, 1, 3),  # 2.5: halves round up
        (0.5, 7, 1, 4),  # 3.5: up too, not to even
        (0.49, 5, 1, 2),
        (0.25, 128, 8, 32),
        (0.01, 128, 8, 8),  # at least top-k
        (0.01, 128, 6, 6),
        (0.99, 8, 2, 8),
    ],
)
def test_the_number_retained_is_rounded_half_up_and_at_least_top_k(
    retention: float, num_experts: int, top_k: int, expected: int
) -> None:
    assert num_retained(retention, ComponentShape(1, num_experts, top_k)) == expected


@settings(max_examples=100, deadline=None)
@given(scores=arrays(np.float64, (3, 8), elements=st.integers(0, 3).map(float)), num_kept=st.integers(1, 8))
def test_the_highest_scores_are_retained_and_ties_go_to_the_lower_index(scores: Any, num_kept: int) -> None:
    expected = tuple(
        tuple(sorted(sorted(range(8), key=lambda expert: (-row[expert], expert))[:num_kept])) for row in scores
    )
    assert retained_experts(scores, num_kept) == expected


@pytest.mark.parametrize(("num_layers", "width"), [(48, 4), (24, 2), (12, 1), (6, 1), (2, 1)])
def test_a_twelfth_of_the_depth_is_protected_at_each_end(num_layers: int, width: int) -> None:
    assert edges(num_layers) == {*range(width), *range(num_layers - width, num_layers)}


@pytest.mark.parametrize(
    ("num_cut", "pinned", "expected"),
    [
        (0, {0}, set()),
        (1, {0}, {1}),  # layers 1 and 4 tie
        (2, {0}, {1, 4}),
        (2, {0, 1}, {3, 4}),
        (3, {0, 4, 5}, {1, 2, 3}),
    ],
)
def test_the_most_similar_single_layers_are_cut_and_never_a_pinned_one(
    num_cut: int, pinned: set[int], expected: set[int]
) -> None:
    cosine = np.array([[0.99, 0.95, 0.2, 0.8, 0.95, 0.7]])
    assert layers_to_cut(cosine, num_cut, frozenset(pinned)) == expected


@pytest.mark.parametrize(("pinned", "expected"), [({0, 5}, {1, 2}), ({0, 1, 5}, {3, 4}), ({5}, {0, 1})])
def test_the_most_similar_block_is_cut_and_never_across_a_pinned_layer(pinned: set[int], expected: set[int]) -> None:
    cosine = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], [0.9, 0.8, 0.1, 0.8, 0.99, np.nan]])
    assert layers_to_cut(cosine, 2, frozenset(pinned), selection="block") == expected


@pytest.mark.parametrize(
    ("selection", "num_cut", "message"),
    [
        ("single", 5, "at most 4 of 6 layers, got 5"),
        ("block", 3, "blocks of at most 2 layers were measured, got 3"),
    ],
)
def test_more_layers_than_may_be_cut_are_refused(selection: str, num_cut: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layers_to_cut(np.ones((2, 6)), num_cut, frozenset({0, 5}), selection=selection)
    with pytest.raises(InputError, match="no block of 2 layers is free"):
        layers_to_cut(np.ones((2, 6)), 2, frozenset({0, 2, 4}), selection="block")


@settings(max_examples=60, deadline=None)
@given(
    retention=st.floats(0.05, 1),
    layers_cut=st.integers(0, SHAPE.components["thinker"].num_layers - len(pinned_layers(SHAPE, strip_vision=False))),
    saliency=st.sampled_from(RANKINGS),
    strip_vision=st.booleans(),
    talker_retention=st.floats(0.05, 1),
)
def test_every_plan_can_be_carried_out_and_survives_the_file(
    retention: float, layers_cut: int, saliency: str, strip_vision: bool, talker_retention: float
) -> None:
    plan = planned(
        retention=retention,
        layers_cut=layers_cut,
        saliency=saliency,
        strip_vision=strip_vision,
        talker_retention=talker_retention,
    )
    check_plan(plan, SHAPE)
    assert plan_from_dict(json.loads(json.dumps(plan.as_dict())), where="plan") == plan
    assert len(plan.thinker.layers) == NUM_LAYERS - layers_cut
    assert plan.thinker.num_retained_experts == num_retained(retention, SHAPE.components["thinker"])
    assert (plan.talker is None) == (talker_retention == 1)
    assert strip_vision or {0, 1} <= set(plan.thinker.layers)


def test_random_rankings_differ_by_seed_and_repeat_with_it() -> None:
    plans = [planned(retention=0.5, saliency="random", seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].thinker.experts != plans[2].thinker.experts


def test_saliency_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="measured on another model"):
        make_plan(Candidate(), saliency_of(SHAPE), SHAPE, BaseModel("other", "another fingerprint"))


def test_a_talker_that_is_not_there_cannot_be_pruned() -> None:
    silent = ModelShape(components={"thinker": SHAPE.components["thinker"]})
    assert make_plan(Candidate(retention=0.5), saliency_of(SHAPE), silent, BASE_MODEL).talker is None
    with pytest.raises(InputError, match="no talker"):
        make_plan(Candidate(talker_retention=0.5), saliency_of(SHAPE), silent, BASE_MODEL)


def test_the_talker_is_ranked_by_what_it_does_on_audio_alone() -> None:
    plans = [planned(talker_retention=0.5, lambda_=lambda_) for lambda_ in (0.0, 9.0)]
    assert plans[0].talker == plans[1].talker
    assert plans[0].talker is not None
    assert plans[0].talker.num_retained_experts == 3


def test_layers_named_by_the_user_are_cut_without_ranking_or_protection() -> None:
    stripped = planned(retention=0.5, strip_vision=True)
    assert without_layers(stripped, "thinker", [7, 0], SHAPE).thinker.layers == (1, 2, 3, 4, 5, 6)
    talker = without_layers(stripped, "talker", [2], SHAPE).talker
    assert talker is not None
    assert (talker.layers, talker.num_retained_experts) == ((0, 1, 3, 4), 6)


@pytest.mark.parametrize(
    ("component", "cut", "message"),
    [
        ("thinker", [8], "no layer 8.*layers are 0 to 7"),
        ("thinker", [-1], "no layer -1"),
        ("thinker", [0], "vision"),
        ("thinker", list(range(8)), "cuts all layers"),
        ("listener", [0], "no listener"),
    ],
)
def test_layers_that_cannot_be_cut_are_refused(component: str, cut: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        without_layers(planned(), component, cut, SHAPE)


def test_layers_less_similar_than_the_threshold_stay() -> None:
    cosine = np.array([[0.99, 0.95, 0.2, 0.8, 0.95, 0.7], [0.9, 0.8, 0.1, 0.8, 0.99, np.nan]])
    assert layers_to_cut(cosine, 3, frozenset({0}), threshold=0.9) == {1, 4}
    assert layers_to_cut(cosine, 3, frozenset({0}), threshold=0.96) == frozenset()
    assert layers_to_cut(cosine, 2, frozenset({4, 5}), selection="block", threshold=0.9) == {0, 1}
    assert layers_to_cut(cosine, 2, frozenset({0, 5}), selection="block", threshold=0.9) == frozenset()


def test_the_user_says_how_many_layers_are_protected_at_each_end() -> None:
    assert edges(12, first=0, last=3) == {9, 10, 11}
    assert edges(12, first=2) == {0, 1, 11}
    assert edges(3, first=5, last=0) == {0, 1, 2}
    cut = planned(layers_cut=3, strip_vision=True, drop_speech=True, protect_first=0, protect_last=5).thinker.layers
    assert set(cut) == {3, 4, 5, 6, 7}


def test_what_is_not_ranked_needs_no_measurement() -> None:
    plan = make_plan(Candidate(retention=0.5, saliency="random", seed=3), None, SHAPE, BASE_MODEL)
    assert plan == planned(retention=0.5, saliency="random", seed=3)
    assert not needs_saliency(Candidate(retention=0.5, saliency="random", strip_vision=True, drop_speech=True))
    for candidate in (Candidate(retention=0.5), Candidate(layers_cut=1), Candidate(talker_retention=0.5)):
        assert needs_saliency(candidate)
        with pytest.raises(InputError, match="is decided by measurement"):
            make_plan(candidate, None, SHAPE, BASE_MODEL)


ORDER = LayerOrder((4, 1, 5, 3), (0.1, 0.2, 0.4, 0.8))


def test_the_first_layers_of_the_order_are_cut_and_pinned_ones_passed_over() -> None:
    assert first_of_order(ORDER, 2, frozenset({0, 7})) == {4, 1}
    assert first_of_order(ORDER, 2, frozenset({0, 1, 7})) == {4, 5}
    assert first_of_order(ORDER, 3, frozenset({0, 1, 7})) == {4, 5, 3}


def test_an_order_with_too_few_free_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"4 layers were ranked .* of which 3 may be cut, got 4"):
        first_of_order(ORDER, 4, frozenset({0, 1, 7}))
    with pytest.raises(InputError, match=r"layers were not ranked .*calibrate with --layer-losses 2"):
        first_of_order(LayerOrder(), 2, frozenset())


@pytest.mark.parametrize(
    ("num_cut", "num_layers", "pinned", "expected"),
    [
        (0, 8, {0, 1, 2, 3, 7}, 0),
        (3, 8, {0, 7}, 3),
        (3, 8, {0, 1, 7}, 4),  # layer 1 may come first, and is passed over
        (3, 8, {7}, 3),  # the edges are never measured
        (1, 8, {0, 1, 2, 3, 4, 5, 7}, 6),
        (12, 48, {0, 1, 2, 3, 44, 45, 46, 47}, 12),
        (2, 4, set(), 2),
    ],
)
def test_so_many_layers_are_put_in_order_that_enough_of_them_are_free(
    num_cut: int, num_layers: int, pinned: set[int], expected: int
) -> None:
    assert num_to_order(num_cut, num_layers, frozenset(pinned), where="layers_cut") == expected


@pytest.mark.parametrize(
    ("num_cut", "num_layers", "pinned", "most"),
    [(4, 8, set(), 3), (13, 48, set(), 12), (2, 8, {1, 2, 3, 4, 5}, 1), (3, 4, set(), 2)],
)
def test_more_layers_than_are_put_in_order_are_refused(
    num_cut: int, num_layers: int, pinned: set[int], most: int
) -> None:
    with pytest.raises(InputError, match=f"layers_cut: at most {most} of {num_layers} layers .*, got {num_cut}"):
        num_to_order(num_cut, num_layers, frozenset(pinned), where="layers_cut")


def test_a_candidate_by_loss_cuts_the_first_of_the_measured_order_whatever_their_cosine() -> None:
    saliency = saliency_of(SHAPE).with_layer_order(ORDER)
    candidate = Candidate(layers_cut=2, layer_selection="loss", similarity_threshold=1.0)
    assert num_layers_to_order(candidate, SHAPE) == 3  # the vision that is kept feeds layer 1
    assert make_plan(candidate, saliency, SHAPE, BASE_MODEL).thinker.layers == (0, 1, 2, 3, 6, 7)
    stripped = replace(candidate, strip_vision=True)
    assert num_layers_to_order(stripped, SHAPE) == 2
    assert make_plan(stripped, saliency, SHAPE, BASE_MODEL).thinker.layers == (0, 2, 3, 5, 6, 7)
    assert num_layers_to_order(replace(candidate, layer_selection="single"), SHAPE) == 0


def test_the_talker_has_no_layers_cut_by_loss() -> None:
    saliency = saliency_of(SHAPE).with_layer_order(ORDER)
    candidate = Candidate(talker_layers_cut=1, layer_selection="loss")
    with pytest.raises(InputError, match="layer_selection: the talker's layers can't be ranked"):
        make_plan(candidate, saliency, SHAPE, BASE_MODEL)
    whole = Candidate(layers_cut=1, talker_retention=0.5, layer_selection="loss")
    assert make_plan(whole, saliency, SHAPE, BASE_MODEL).thinker.layers == (0, 1, 2, 3, 5, 6, 7)


def test_a_plan_says_how_it_is_healed_and_on_which_rows() -> None:
    heal = planned(retention=0.5, heal="block", heal_ridge=0.2, heal_condition="snr_db: 10").heal
    data = {modality: f"digest of {modality}" for modality in ("audio", "video", "mixed")}
    assert heal == Healing("block", 0.2, data, tokens="answer", condition="snr_db: 10")
    blind = planned(retention=0.5, heal="block", strip_vision=True).heal
    assert blind is not None
    assert blind.data == {"audio": "digest of audio"}


@pytest.mark.parametrize(
    ("values", "is_healed"),
    [
        ({"heal": "none", "retention": 0.5}, False),
        ({"heal": "stream"}, False),
        ({"heal": "stream", "bits": 4}, True),
        ({"heal": "stream", "active_experts": 1}, True),
        ({"heal": "cuts", "bits": 4}, False),
        ({"heal": "stream", "retention": 0.5}, True),
        ({"heal": "stream", "layers_cut": 1}, True),
        ({"heal": "stream", "talker_retention": 0.5}, False),
        ({"heal": "cuts", "retention": 0.5}, False),
        ({"heal": "cuts", "layers_cut": 1}, True),
    ],
)
def test_only_what_lost_something_is_healed(values: dict[str, Any], is_healed: bool) -> None:
    assert (planned(**values).heal is not None) == is_healed


def test_a_plan_says_its_bits_and_one_of_16_bits_says_nothing() -> None:
    assert planned(bits=4, bits_group=64).bits == Quantisation(experts=4, rest=16, group_size=64)
    assert planned(bits=16, bits_rest=16, bits_group=64) == planned()
    plans = [planned(), planned(bits=8), planned(bits=4), planned(bits=4, bits_rest=8), planned(bits=4, bits_group=16)]
    assert len({plan.digest() for plan in plans}) == len(plans)
    assert "bits" not in planned().as_dict()


def test_as_many_active_experts_as_the_model_has_are_no_edit() -> None:
    top_k = SHAPE.components["thinker"].top_k
    assert planned(active_experts=top_k) == planned()
    assert planned(active_experts=1).active_experts == 1
    assert planned(active_experts=1).digest() != planned().digest()
    with pytest.raises(InputError, match="plan: active_experts: must be at most 4, the experts that are kept, got 5"):
        planned(retention=0.5, active_experts=5)


def test_bits_and_active_experts_travel_in_plan_json() -> None:
    plan = planned(retention=0.5, bits=4, bits_rest=8, active_experts=1)
    assert plan_from_dict(json.loads(json.dumps(plan.as_dict())), "plan.json") == plan
    for bits in ({"experts": 3, "rest": 16, "group_size": 32}, {"experts": 4, "rest": 16, "group_size": 0}):
        with pytest.raises(InputError, match=r"plan\.json: .*bits"):
            plan_from_dict(plan.as_dict() | {"bits": bits}, "plan.json")


def test_attention_alone_is_not_quantised_where_there_are_experts() -> None:
    with pytest.raises(InputError, match=r"plan: bits\.rest: transformers can't load 4 bits beside experts"):
        planned(bits_rest=4)


def test_a_talker_that_lost_something_is_healed_on_what_is_heard_alone_where_it_was_measured() -> None:
    both = planned(retention=0.5, talker_retention=0.5, heal="stream", heal_condition="snr_db: 10")
    assert both.heal is not None
    assert both.talker_heal == Healing("stream", both.heal.ridge, {"audio": "digest of audio"}, tokens="both")
    assert planned(retention=0.5, heal="stream").talker_heal is None
    assert planned(retention=0.5, talker_retention=0.5, heal="cuts").talker_heal is None
    unspoken = saliency_of(replace(SHAPE, components={"thinker": SHAPE.components["thinker"]}))
    candidate = Candidate(retention=0.5, talker_retention=0.5, saliency="random", heal="stream")
    plan = make_plan(candidate, unspoken, SHAPE, BASE_MODEL)
    assert plan.heal is not None
    assert plan.talker_heal is None


def test_what_the_talker_is_healed_by_is_part_of_a_plan() -> None:
    healed = planned(talker_retention=0.5, heal="stream")
    assert healed.heal is None
    assert healed.talker_heal is not None
    alone, mistaken = replace(healed, talker_heal=None), replace(healed, talker_heal=None, heal=healed.talker_heal)
    assert len({plan.digest() for plan in (healed, alone, mistaken)}) == 3
    with pytest.raises(InputError, match="plan: talker_heal: heals a talker that it does not edit"):
        check_plan(replace(healed, talker=None), SHAPE)
    fitted = healed.with_fitted({}, {"talker": "0123"})
    assert fitted.digest() == healed.digest()
    assert plan_from_dict(json.loads(json.dumps(fitted.as_dict())), where="plan.json") == fitted


def test_how_it_is_healed_is_part_of_a_plan_and_what_was_fitted_is_not() -> None:
    plain, healed, other = (planned(retention=0.5, **values) for values in ({}, {"heal": "stream"}, {"heal": "block"}))
    assert len({plain.digest(), healed.digest(), other.digest()}) == 3
    fitted = healed.with_fitted({}, {"thinker": "0123"})
    assert fitted.digest() == healed.digest()
    assert plan_from_dict(json.loads(json.dumps(fitted.as_dict())), where="plan.json") == fitted
    assert "heal" not in plain.as_dict()


def test_healing_needs_a_measurement_that_names_its_rows() -> None:
    candidate = Candidate(retention=0.5, saliency="random", heal="stream")
    with pytest.raises(InputError, match="fitted on calibration data"):
        make_plan(candidate, None, SHAPE, BASE_MODEL)
    measured = saliency_of(SHAPE)
    nameless = replace(measured, provenance={"model_fingerprint": measured.model_fingerprint})
    with pytest.raises(InputError, match=r"saliency: does not say on which rows.*calibrate again"):
        make_plan(candidate, nameless, SHAPE, BASE_MODEL)
