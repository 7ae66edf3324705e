import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from builders import SHAPE, measured, saliency_of

from autoreap.calibration.summary import (
    component_shape,
    count_never_routed,
    cut_order,
    effective_experts,
    headline,
    kept_share,
    layer_table,
    read_shape,
    summarise,
    top_share,
    turnover,
    turnover_from_audio,
)
from autoreap.candidate import Candidate
from autoreap.errors import InputError
from autoreap.plan import ComponentShape
from autoreap.planning import retained_experts
from autoreap.saliency import ComponentSaliency, ModalitySums, Saliency


def sums(gate_norm_sum: list[list[float]], routed_tokens: list[list[int]], tokens: int) -> ModalitySums:
    return ModalitySums(np.array(gate_norm_sum, dtype=float), np.array(routed_tokens), tokens)


# Four layers of four experts, two for each token. Layer 0 by hand: S1 = 4 3 2 1, S2 = 0 0 0 2, S3 = 0 0 4 3.
EVEN = [[10.0] * 4] * 3
BY_HAND = ComponentSaliency(
    modalities={
        "audio": sums([[40, 30, 20, 10], *EVEN], [[10, 10, 0, 0], *[[5] * 4] * 3], 10),
        "video": sums([[0, 0, 0, 20], *EVEN], [[10, 0, 0, 10], *[[5] * 4] * 3], 10),
        "mixed": sums([[0, 0, 40, 30], *EVEN], [[5, 5, 10, 0], *[[5] * 4] * 3], 10),
    },
    layer_cosine=np.array([[0.7, 0.9, 0.95, 0.8], [0.6, 0.85, 0.75, np.nan]]),
)
MEASURED = Saliency({"thinker": BY_HAND}, {"model_fingerprint": "f"})


def with_shape(saliency: Saliency, text: str) -> Saliency:
    return replace(saliency, provenance={**saliency.provenance, "shape": text})


def test_the_shape_is_read_as_it_was_written_and_is_none_where_it_was_not() -> None:
    saliency = saliency_of(SHAPE)
    assert read_shape(saliency) is None
    assert read_shape(with_shape(saliency, json.dumps(asdict(SHAPE)))) == SHAPE
    deaf = replace(SHAPE, speech_tap=None)
    assert read_shape(with_shape(saliency, json.dumps(asdict(deaf)))) == deaf


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"components": []}',
        '{"components": {"thinker": {"num_layers": 8}}}',
        '{"components": {"thinker": {"num_layers": 9, "num_experts": 8, "top_k": 2}}}',
        '{"components": {"thinker": {"num_layers": 8, "num_experts": 8, "top_k": "2"}}}',
        '{"components": {"thinker": {"num_layers": 8, "num_experts": 8, "top_k": 2}}, "speech_tap": 2.5}',
        '{"components": {"thinker": {"num_layers": 8, "num_experts": 8, "top_k": 2}}, "unheard_of": 1}',
        '{"components": {"talker": {"num_layers": 8, "num_experts": 8, "top_k": 2}}}',
    ],
)
def test_a_shape_that_is_broken_or_not_that_of_the_measurements_is_refused(text: str) -> None:
    thinker_alone = Saliency({"thinker": saliency_of(SHAPE).components["thinker"]}, {"model_fingerprint": "f"})
    with pytest.raises(InputError, match=r"shape is broken, or not that of the measurements .*calibrate again"):
        read_shape(with_shape(thinker_alone, text))


def test_the_decoder_is_known_from_its_measurements_alone() -> None:
    assert component_shape(BY_HAND) == ComponentShape(num_layers=4, num_experts=4, top_k=2)


@pytest.mark.parametrize(("num_experts", "expected"), [(1, 0.4), (2, 0.7), (3, 0.9), (4, 1.0)])
def test_the_share_of_the_highest_is_of_the_sum_of_the_layer(num_experts: int, expected: float) -> None:
    shares = top_share(np.array([[2.0, 4, 1, 3], [0, 0, 0, 0]]), num_experts)
    assert shares == pytest.approx([expected, 0])


def test_as_many_experts_are_effective_as_would_spread_the_saliency_as_wide() -> None:
    two_and_two_halves = math.exp(0.5 * math.log(2) + 0.5 * math.log(4))  # shares 1/2, 1/4, 1/4
    scores = np.array([[1.0, 1, 1, 1], [5, 0, 0, 0], [3, 0, 3, 0], [2, 1, 1, 0], [0, 0, 0, 0]])
    assert effective_experts(scores) == pytest.approx([4, 1, 2, two_and_two_halves, 0])


def test_experts_are_counted_that_took_no_token_of_the_modalities_given() -> None:
    audio, video, mixed = (BY_HAND.modalities[modality] for modality in ("audio", "video", "mixed"))
    assert count_never_routed([audio]).tolist() == [2, 0, 0, 0]
    assert count_never_routed([audio, video]).tolist() == [1, 0, 0, 0]
    assert count_never_routed([audio, video, mixed]).tolist() == [0, 0, 0, 0]


def test_the_kept_share_is_of_the_sum_of_the_layer() -> None:
    scores = np.array([[4.0, 3, 2, 1], [0, 0, 0, 0]])
    assert kept_share(scores, [(0, 3), (1, 2)]) == pytest.approx([0.5, 0])


@pytest.mark.parametrize(
    ("pinned", "num_cut", "expected"),
    [((), 3, (2, 1, 3)), ((2,), 2, (1, 3)), ((0, 3), 9, (2, 1)), ((0, 1, 2, 3), 2, ()), ((), 0, ())],
)
def test_layers_come_in_the_order_of_their_cosine_without_the_pinned(
    pinned: tuple[int, ...], num_cut: int, expected: tuple[int, ...]
) -> None:
    assert cut_order(BY_HAND.layer_cosine, frozenset(pinned), num_cut) == expected


def test_turnover_is_the_share_of_new_experts() -> None:
    assert turnover([(0, 1), (0, 1), (0, 1)], [(0, 1), (1, 2), (2, 3)]).tolist() == [0, 0.5, 1]


def test_turnover_against_audio_alone_is_that_of_the_formula() -> None:
    # A of layer 0 with two kept: lambda 1 gives 4 3 6 4 at beta 0 (keeps 2 and 0: the tie goes to the lower index),
    # 4 3 6 2 at beta 1 (the same); lambda 3 gives 4 3 14 10 at beta 0 (keeps 2 and 3), 4 3 14 4 at beta 1 (2 and 0).
    # The other three layers are even: nothing moves.
    grid = turnover_from_audio(BY_HAND, 2, (0.0, 1.0, 3.0), (0.0, 1.0))
    assert grid == pytest.approx(np.array([[0, 0], [0.5, 0.5], [1, 0.5]]) / 4)


def test_the_grid_is_the_turnover_of_the_plans_experts() -> None:
    component = measured(6, 16, seed=3)
    (share,) = turnover_from_audio(component, 5, (0.7,), (0.4,)).ravel()
    kept = [retained_experts(component.affinity(lambda_, 0.4), 5) for lambda_ in (0, 0.7)]
    different = [len(set(new) - set(old)) for old, new in zip(*kept, strict=True)]
    assert share == pytest.approx(sum(different) / (6 * 5))
    assert share > 0


def test_the_summary_of_a_component_holds_the_figures_of_its_layers() -> None:
    summary = summarise(MEASURED, "thinker", Candidate(retention=0.5, lambda_=3.0, beta=0.0))
    first, second, *_ = summary.layers
    assert (summary.num_retained, summary.tokens) == (2, {"audio": 10, "video": 10, "mixed": 10})
    assert summary.pinned == {0, 3}
    assert first.top_share == pytest.approx(0.7)
    assert (first.never_routed_audio, first.never_routed) == (2, 0)
    assert (first.cosine, first.protected, first.cut_order, first.turnover) == (0.7, True, None, 1.0)
    assert second.effective_experts == pytest.approx(4)
    assert second.turnover == 0
    assert [layer.cut_order for layer in summary.layers] == [None, None, 1, None]  # of four layers, aggressive cuts one
    # Layer 0 keeps experts 2 and 3: 0.3, 1 and 1 of its audio, video and mixed saliency; the even layers half of each.
    assert summary.kept_share == pytest.approx({"audio": 1.8 / 4, "video": 2.5 / 4, "mixed": 2.5 / 4})


def test_the_choice_is_a_point_of_the_grid() -> None:
    summary = summarise(MEASURED, "thinker", Candidate(lambda_=0.3, beta=1.2))
    assert 0.3 in summary.lambdas
    assert 1.2 in summary.betas
    assert summary.turnover.shape == (len(summary.lambdas), len(summary.betas))


def test_the_talker_is_ranked_by_audio_alone_as_its_plan_is() -> None:
    summary = summarise(saliency_of(SHAPE), "talker", Candidate(lambda_=2.0))
    assert (summary.lambda_, summary.lambdas) == (0, ())
    assert {layer.turnover for layer in summary.layers} == {0}


def test_layers_that_vision_feeds_are_protected_where_the_shape_is_known() -> None:
    saliency = saliency_of(SHAPE)
    known = with_shape(saliency, json.dumps(asdict(SHAPE)))
    assert summarise(saliency, "thinker", Candidate()).pinned == {0, 7}
    assert summarise(known, "thinker", Candidate()).pinned == {0, 1, 7}
    assert summarise(known, "talker", Candidate()).pinned == {0, 4}


def test_a_component_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="no measurements of the talker"):
        summarise(MEASURED, "talker", Candidate())


def test_the_summary_is_json_with_a_null_for_a_cosine_that_is_missing() -> None:
    without = replace(BY_HAND, layer_cosine=np.full((1, 4), np.nan))
    summary = summarise(Saliency({"thinker": without}, {}), "thinker", Candidate(retention=0.5))
    document = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert [layer["cosine"] for layer in document["layers"]] == [None] * 4
    assert (document["num_experts"], document["top_k"], document["num_retained"]) == (4, 2, 2)
    assert np.array(document["turnover"]["mean"]).shape == (
        len(document["turnover"]["lambda"]),
        len(document["turnover"]["beta"]),
    )


def test_the_words_say_what_matters_and_the_table_has_a_row_a_layer() -> None:
    summary = summarise(MEASURED, "thinker", Candidate(retention=0.5, lambda_=3.0, beta=0.0))
    lines = headline(summary)
    assert lines[0] == "4 layers of 4 experts, 2 for each token; 2 kept in each layer (lambda 3, beta 0)"
    assert lines[2].endswith("45.0% of audio saliency, 62.5% of video saliency, 62.5% of mixed saliency")
    assert lines[3:] == ["never routed: 2 of 16 experts on audio, 0 on anything", "layers cut first: 2"]
    header, *rows = layer_table(summary)
    assert header[1] == "top 2 hold"
    assert rows[0] == ["0", "70.0%", "3.6", "2", "0", "0.7000", "protected", "100%"]
    assert rows[2][-2:] == ["1", "0%"]
