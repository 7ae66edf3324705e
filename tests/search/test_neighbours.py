"""Which neighbours are tried: one step away, and crossed with how other trials rank and heal."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from builders import saliency_of
from pages import ROOT

from autoreap.models.loading import open_model
from autoreap.search.candidates import Planner
from autoreap.search.neighbours import Neighbourhood
from autoreap.search.records import TrialRecord, TrialStatus
from autoreap.search.space import load_space

Params = Mapping[str, Any]
HEALS = {"heal_ridge": {"heal": ("stream", "block")}}
BEST = {"retention": 0.375, "layers_cut": 0, "lambda": 0.2, "beta": 0.5, "heal": "block", "heal_ridge": 0.004}
HEALED = {"retention": 0.75, "layers_cut": 3, "lambda": 1.0, "beta": 1.0, "heal": "stream", "heal_ridge": 0.001}
PRUNED = {"retention": 1.0, "layers_cut": 2, "lambda": 3.5, "beta": 0.6, "heal": "none"}


@pytest.fixture(scope="module")
def neighbourhood() -> Neighbourhood:
    model_info = open_model("tiny")
    saliency = saliency_of(model_info.shape, fingerprint=model_info.checkpoint.fingerprint)
    space = load_space(ROOT / "search_spaces" / "tiny.yaml")
    parameters = {name: spec for name, spec in space.parameters.items() if name in (*BEST, "saliency", "strip_vision")}
    return Neighbourhood(replace(space, parameters=parameters, conditions=HEALS), Planner(model_info, saliency))


def trial(number: int, params: Params) -> TrialRecord:
    return TrialRecord(number, TrialStatus.SCORED, params, size_bytes=4_000_000)


def ranking_of(params: Params) -> tuple[float, float]:
    return params["lambda"], params["beta"]


def healing_of(params: Params) -> tuple[str, float | None]:
    return params["heal"], params.get("heal_ridge")


def test_rankings_and_healings_of_others_are_crossed_each_by_itself(neighbourhood: Neighbourhood) -> None:
    trials = [trial(number, params) for number, params in enumerate((BEST, HEALED, PRUNED))]
    tried = [each.params for each in neighbourhood.around(trials[0], 4_000_000, trials)]
    smaller = [params for params in tried if params["retention"] == 0.3125 and params["layers_cut"] == 0]
    crossed = {(ranking_of(params), healing_of(params)) for params in smaller}
    own, other = ranking_of(BEST), ranking_of(PRUNED)
    assert (own, ("stream", 0.001)) in crossed
    assert (own, ("none", None)) in crossed
    assert (other, healing_of(BEST)) in crossed
    assert (ranking_of(HEALED), healing_of(BEST)) in crossed


def test_smaller_ones_come_as_they_are_then_the_best_healed_otherwise_then_smaller_ones_ranked_otherwise(
    neighbourhood: Neighbourhood,
) -> None:
    trials = [trial(number, params) for number, params in enumerate((BEST, HEALED, PRUNED))]
    tried = [each.params for each in neighbourhood.around(trials[0], 4_000_000, trials)]
    as_is = {**BEST, "retention": 0.3125}
    healed = {**BEST, "heal": "stream", "heal_ridge": 0.001}
    ranked = {**as_is, "lambda": 3.5, "beta": 0.6}
    assert tried.index(as_is) < tried.index(healed) < tried.index(ranked)
    assert ranking_of(tried[-1]) != ranking_of(BEST)
    assert tried[-1]["retention"] == BEST["retention"]


def test_a_method_of_healing_is_as_strong_as_it_was_at_the_nearest_size(neighbourhood: Neighbourhood) -> None:
    far = replace(trial(1, {**HEALED, "heal_ridge": 0.01}), size_bytes=6_000_000)
    near = replace(trial(2, {**HEALED, "heal_ridge": 0.002}), size_bytes=4_100_000)
    failed = replace(trial(3, {**HEALED, "heal_ridge": 0.003}), status=TrialStatus.FAILED)
    point = trial(0, BEST)
    tried = [each.params for each in neighbourhood.around(point, 4_000_000, [point, far, near, failed])]
    assert {healing_of(params) for params in tried if params["heal"] == "stream"} >= {("stream", 0.002)}
    assert not {healing_of(params) for params in tried} & {("stream", 0.01), ("stream", 0.003)}


def test_of_other_sizes_there_are_smaller_ones_and_the_next_larger(neighbourhood: Neighbourhood) -> None:
    point = trial(0, BEST)
    sizes = {neighbour.size_bytes for neighbour in neighbourhood.of(point)}
    own = next(each.size_bytes for each in neighbourhood.of(point) if each.params["heal"] == "none")
    point = replace(point, size_bytes=own)
    trials = [point, trial(1, HEALED), trial(2, PRUNED)]
    tried = list(neighbourhood.around(point, 3_900_000, trials))
    assert {each.size_bytes for each in tried if each.size_bytes > own} == {min(size for size in sizes if size > own)}
    assert all(each.size_bytes < 3_900_000 for each in tried if each.size_bytes < own)
