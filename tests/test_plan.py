import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import BASE_MODEL, SHAPE, saliency_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoreap.candidate import RANKINGS, Candidate
from autoreap.errors import InputError
from autoreap.plan import (
    BaseModel,
    ComponentPlan,
    ComponentShape,
    ModelShape,
    PruningPlan,
    check_plan,
    load_plan,
    plan_from_dict,
)
from autoreap.planning import (
    edges,
    layers_to_cut,
    make_plan,
    needs_saliency,
    num_retained,
    pinned_layers,
    retained_experts,
    without_layers,
)

SALIENCY = saliency_of(SHAPE)
NUM_LAYERS = SHAPE.components["thinker"].num_layers


def plan_of(**values: Any) -> PruningPlan:
    return make_plan(Candidate(**values), SALIENCY, SHAPE, BASE_MODEL)


def with_thinker(plan: PruningPlan, **changes: Any) -> PruningPlan:
    return replace(plan, thinker=replace(plan.thinker, **changes))


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
    plan = plan_of(
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


def test_a_plan_is_written_as_the_contract_says(tmp_path: Path) -> None:
    plan = plan_of(retention=0.5, layers_cut=1, strip_vision=True)
    plan.save(tmp_path / "new" / "plan.json")
    document = json.loads((tmp_path / "new" / "plan.json").read_text())
    assert set(document) == {"format", "base_model", "strip_vision", "thinker", "talker"}
    assert (document["format"], document["strip_vision"], document["talker"]) == (1, True, None)
    assert document["base_model"] == {"name": BASE_MODEL.name, "fingerprint": BASE_MODEL.fingerprint}
    assert [len(experts) for experts in document["thinker"]["experts"]] == [4] * NUM_LAYERS  # of original layers
    assert len(document["thinker"]["layers"]) == NUM_LAYERS - 1
    assert load_plan(str(tmp_path / "new" / "plan.json")) == plan
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["plan.json"]


def test_random_rankings_differ_by_seed_and_repeat_with_it() -> None:
    plans = [plan_of(retention=0.5, saliency="random", seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].thinker.experts != plans[2].thinker.experts


def test_saliency_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="measured on another model"):
        make_plan(Candidate(), SALIENCY, SHAPE, BaseModel("other", "another fingerprint"))


def test_a_talker_that_is_not_there_cannot_be_pruned() -> None:
    silent = ModelShape(components={"thinker": SHAPE.components["thinker"]})
    assert make_plan(Candidate(retention=0.5), SALIENCY, silent, BASE_MODEL).talker is None
    with pytest.raises(InputError, match="no talker"):
        make_plan(Candidate(talker_retention=0.5), SALIENCY, silent, BASE_MODEL)


def test_the_talker_is_ranked_by_what_it_does_on_audio_alone() -> None:
    plans = [plan_of(talker_retention=0.5, lambda_=lambda_) for lambda_ in (0.0, 9.0)]
    assert plans[0].talker == plans[1].talker
    assert plans[0].talker is not None
    assert plans[0].talker.num_retained_experts == 3


def good_document() -> dict[str, Any]:
    return plan_of(retention=0.5, talker_retention=0.5).as_dict()


@pytest.mark.parametrize("key", ["format", "base_model", "strip_vision", "thinker", "talker", "extra"])
def test_a_plan_without_a_key_or_with_one_more_is_refused(key: str) -> None:
    document = good_document()
    if document.pop(key, None) is None:
        document[key] = 1
    with pytest.raises(InputError, match=r"p\.json: .*exactly the keys"):
        plan_from_dict(document, where="p.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format 2 is not 1"),
        ("strip_vision", "yes", "strip_vision true or false"),
        ("thinker", None, "thinker must be an object"),
        ("thinker", {"layers": [0]}, "experts"),
        ("thinker", {"experts": [[0]]}, "layers"),
        ("thinker", {"experts": [["0"]], "layers": [0]}, "lists of integers"),
        ("thinker", {"experts": [[0.0]], "layers": [0]}, "lists of integers"),
        ("thinker", {"experts": [[True]], "layers": [0]}, "lists of integers"),
        ("talker", [], "not of the form"),
        ("base_model", {"name": "x"}, "fingerprint"),
        ("base_model", "x", "not of the form"),
    ],
)
def test_a_plan_of_another_form_is_refused_with_what_is_wrong(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"p\.json: .*{message}"):
        plan_from_dict({**good_document(), key: value}, where="p.json")


@pytest.mark.parametrize("content", [b"{", b"[]", b"", b"\xff\xfe"])
def test_a_file_that_is_no_plan_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    for place in (path, tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match=f"^{place}: "):
            load_plan(place)


def experts_with(layer: int, kept: tuple[int, ...]) -> Callable[[PruningPlan], PruningPlan]:
    def edit(plan: PruningPlan) -> PruningPlan:
        return with_thinker(plan, experts=(*plan.thinker.experts[:layer], kept, *plan.thinker.experts[layer + 1 :]))

    return edit


@pytest.mark.parametrize(
    ("edit", "place", "message"),
    [
        (lambda plan: with_thinker(plan, layers=()), "thinker.layers", "cuts all layers"),
        (lambda plan: with_thinker(plan, layers=(0, 2, 1)), "thinker.layers", "distinct and rising"),
        (lambda plan: with_thinker(plan, layers=(0, 1, 1, 7)), "thinker.layers", "distinct and rising"),
        (lambda plan: with_thinker(plan, layers=(0, 1, 8)), "thinker.layers", "from 0 to 7"),
        (lambda plan: with_thinker(plan, layers=(-1, 0, 1, 7)), "thinker.layers", "from 0 to 7"),
        (lambda plan: with_thinker(plan, experts=plan.thinker.experts[:-1]), "thinker.experts", "8 original layers"),
        (experts_with(3, (0, 1, 2, 8)), "thinker.experts[3]", "from 0 to 7"),
        (experts_with(3, (-1, 1, 2, 3)), "thinker.experts[3]", "from 0 to 7"),
        (experts_with(3, (2, 1, 3, 4)), "thinker.experts[3]", "distinct and rising"),
        (experts_with(3, (1, 1, 3, 4)), "thinker.experts[3]", "distinct and rising"),
        (experts_with(3, (1, 2, 3)), "thinker.experts[3]", "keeps 3 experts, layer 0 keeps 4"),
        (lambda plan: with_thinker(plan, experts=((),) * 8), "thinker.experts", "keeps no expert"),
        (lambda plan: with_thinker(plan, layers=(0, *range(2, 8))), "", "thinker layer 1 receives vision features"),
        (lambda plan: with_thinker(plan, layers=(0, 1, 2, 3)), "", "below thinker layer 4"),
        (
            lambda plan: with_thinker(replace(plan, strip_vision=True), layers=(4, 5, 6, 7)),
            "",
            "below thinker layer 4",
        ),
    ],
)
def test_a_plan_that_the_model_cannot_carry_out_is_refused_with_the_place(
    edit: Callable[[PruningPlan], PruningPlan], place: str, message: str
) -> None:
    plan = edit(plan_of(retention=0.5))
    with pytest.raises(InputError) as failure:
        check_plan(plan, SHAPE, where="p.json")
    assert str(failure.value).startswith("p.json: " + place)
    assert message in str(failure.value)


def test_a_talker_plan_for_a_model_without_one_is_refused() -> None:
    silent = ModelShape(components={"thinker": SHAPE.components["thinker"]})
    with pytest.raises(InputError, match="edits the talker"):
        check_plan(plan_of(talker_retention=0.5), silent)


def test_a_layer_that_vision_feeds_may_be_cut_once_vision_is_stripped() -> None:
    check_plan(with_thinker(plan_of(strip_vision=True), layers=(0, *range(2, 8))), SHAPE)


def test_the_digest_ignores_experts_of_cut_layers_and_nothing_else() -> None:
    plan = with_thinker(plan_of(retention=0.5), layers=(0, 1, 2, 4, 5, 6, 7))
    in_cut_layer, in_kept_layer = experts_with(3, (0, 1, 2, 3))(plan), experts_with(4, (0, 1, 2, 3))(plan)
    assert in_cut_layer != plan
    assert in_cut_layer.digest() == plan.digest()
    others = [
        in_kept_layer,
        with_thinker(plan, layers=(0, 1, 3, 4, 5, 6, 7)),
        replace(plan, strip_vision=True),
        replace(plan, base_model=BaseModel(BASE_MODEL.name, "another")),
        replace(plan, talker=ComponentPlan.identity(SHAPE.components["talker"])),
    ]
    assert len({plan.digest(), *(other.digest() for other in others)}) == 6
    assert replace(plan, base_model=BaseModel("renamed", BASE_MODEL.fingerprint)).digest() == plan.digest()


def test_layers_named_by_the_user_are_cut_without_ranking_or_protection() -> None:
    stripped = plan_of(retention=0.5, strip_vision=True)
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
        without_layers(plan_of(), component, cut, SHAPE)


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
    cut = plan_of(layers_cut=3, strip_vision=True, drop_speech=True, protect_first=0, protect_last=5).thinker.layers
    assert set(cut) == {3, 4, 5, 6, 7}


def test_what_is_not_ranked_needs_no_measurement() -> None:
    plan = make_plan(Candidate(retention=0.5, saliency="random", seed=3), None, SHAPE, BASE_MODEL)
    assert plan == plan_of(retention=0.5, saliency="random", seed=3)
    assert not needs_saliency(Candidate(retention=0.5, saliency="random", strip_vision=True, drop_speech=True))
    for candidate in (Candidate(retention=0.5), Candidate(layers_cut=1), Candidate(talker_retention=0.5)):
        assert needs_saliency(candidate)
        with pytest.raises(InputError, match="is decided by measurement"):
            make_plan(candidate, None, SHAPE, BASE_MODEL)


def test_dropping_speech_frees_the_layers_it_listened_to_and_excludes_a_pruned_talker(tmp_path: Path) -> None:
    plan = with_thinker(replace(plan_of(), drop_speech=True), layers=(0, 1, 2, 3))
    check_plan(plan, SHAPE)
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["drop_speech"] is True
    assert replace(plan, drop_speech=False).digest() != plan.digest()
    with pytest.raises(InputError, match="either pruned or dropped"):
        check_plan(replace(plan, talker=ComponentPlan.identity(SHAPE.components["talker"])), SHAPE)
    with pytest.raises(InputError, match="either pruned or dropped"):
        Candidate(talker_retention=0.5, drop_speech=True)
