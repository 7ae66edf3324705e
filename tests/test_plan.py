import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import BASE_MODEL, SHAPE, planned

from autoreap.candidate import Candidate
from autoreap.errors import InputError
from autoreap.plan import (
    BaseModel,
    ComponentPlan,
    ModelShape,
    PruningPlan,
    check_plan,
    load_plan,
    plan_from_dict,
)

NUM_LAYERS = SHAPE.components["thinker"].num_layers


def with_thinker(plan: PruningPlan, **changes: Any) -> PruningPlan:
    return replace(plan, thinker=replace(plan.thinker, **changes))


def test_a_plan_is_written_as_the_contract_says(tmp_path: Path) -> None:
    plan = planned(retention=0.5, layers_cut=1, strip_vision=True)
    plan.save(tmp_path / "new" / "plan.json")
    document = json.loads((tmp_path / "new" / "plan.json").read_text())
    assert set(document) == {"format", "base_model", "strip_vision", "thinker", "talker"}
    assert (document["format"], document["strip_vision"], document["talker"]) == (1, True, None)
    assert document["base_model"] == {"name": BASE_MODEL.name, "fingerprint": BASE_MODEL.fingerprint}
    assert [len(experts) for experts in document["thinker"]["experts"]] == [4] * NUM_LAYERS  # of original layers
    assert len(document["thinker"]["layers"]) == NUM_LAYERS - 1
    assert load_plan(str(tmp_path / "new" / "plan.json")) == plan
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["plan.json"]


def good_document() -> dict[str, Any]:
    return planned(retention=0.5, talker_retention=0.5).as_dict()


@pytest.mark.parametrize("key", ["format", "base_model", "strip_vision", "thinker", "talker", "extra"])
def test_a_plan_without_a_key_or_with_one_more_is_refused(key: str) -> None:
    document = good_document()
    message = f"key {key} is missing"
    if document.pop(key, None) is None:
        document[key], message = 1, f"{key}: unknown key"
    with pytest.raises(InputError, match=rf"^p\.json: {message}$"):
        plan_from_dict(document, where="p.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format 2 is not 1"),
        ("strip_vision", "yes", "strip_vision: must be true or false, got 'yes'"),
        ("thinker", None, "thinker: must be a mapping, got None"),
        ("thinker", {"layers": [0]}, "thinker: key experts is missing"),
        ("thinker", {"experts": [[0]]}, "thinker: key layers is missing"),
        ("thinker", {"experts": [["0"]], "layers": [0]}, "thinker.experts.0.0: must be an integer, got '0'"),
        ("thinker", {"experts": [[0.0]], "layers": [0]}, "thinker.experts.0.0: must be an integer, got 0.0"),
        ("thinker", {"experts": [[True]], "layers": [0]}, "thinker.experts.0.0: must be an integer, got True"),
        ("talker", [], r"talker: must be a mapping, got \[\]"),
        ("base_model", {"name": "x"}, "base_model: key fingerprint is missing"),
        ("base_model", "x", "base_model: must be a mapping, got 'x'"),
    ],
)
def test_a_plan_of_another_form_is_refused_with_what_is_wrong(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^p\.json: .*{message}"):
        plan_from_dict({**good_document(), key: value}, where="p.json")


@pytest.mark.parametrize("content", [b"{", b"[]", b"", b"\xff\xfe"])
def test_a_file_that_is_no_plan_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    for place in (path, tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match=f"^{place}:"):
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
    plan = edit(planned(retention=0.5))
    with pytest.raises(InputError) as failure:
        check_plan(plan, SHAPE)
    assert str(failure.value).startswith("plan: " + place)
    assert message in str(failure.value)


def test_a_talker_plan_for_a_model_without_one_is_refused() -> None:
    silent = ModelShape(components={"thinker": SHAPE.components["thinker"]})
    with pytest.raises(InputError, match="edits the talker"):
        check_plan(planned(talker_retention=0.5), silent)


def test_a_layer_that_vision_feeds_may_be_cut_once_vision_is_stripped() -> None:
    check_plan(with_thinker(planned(strip_vision=True), layers=(0, *range(2, 8))), SHAPE)


def test_the_digest_ignores_experts_of_cut_layers_and_nothing_else() -> None:
    plan = with_thinker(planned(retention=0.5), layers=(0, 1, 2, 4, 5, 6, 7))
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


def test_dropping_speech_frees_the_layers_it_listened_to_and_excludes_a_pruned_talker(tmp_path: Path) -> None:
    plan = with_thinker(replace(planned(), drop_speech=True), layers=(0, 1, 2, 3))
    check_plan(plan, SHAPE)
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["drop_speech"] is True
    assert replace(plan, drop_speech=False).digest() != plan.digest()
    with pytest.raises(InputError, match="either pruned or dropped"):
        check_plan(replace(plan, talker=ComponentPlan.identity(SHAPE.components["talker"])), SHAPE)
    with pytest.raises(InputError, match="either pruned or dropped"):
        Candidate(talker_retention=0.5, drop_speech=True)
