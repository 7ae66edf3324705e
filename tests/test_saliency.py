from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import SHAPE, measured, saliency_of
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from autoreap.errors import InputError
from autoreap.planning import retained_experts
from autoreap.saliency import ComponentSaliency, LayerOrder, ModalitySums, Saliency, load_saliency


def sums(gate_norm_sum: list[float], routed_tokens: list[int], tokens: int) -> ModalitySums:
    return ModalitySums(np.array([gate_norm_sum]), np.array([routed_tokens], dtype=np.int64), tokens)


BY_HAND = ComponentSaliency(
    modalities={
        "audio": sums([10, 20, 0], [5, 2, 0], 10),  # S1 = 1, 2, 0
        "video": sums([5, 0, 10], [5, 0, 5], 5),  # S2 = 1, 0, 2
        "mixed": sums([4, 8, 2], [4, 4, 4], 4),  # S3 = 1, 2, 0.5
    },
    layer_cosine=np.array([[0.9]]),
)


@pytest.mark.parametrize(
    ("lambda_", "beta", "expected"),
    [
        (0.0, 1.0, [1, 2, 0]),
        (1.0, 0.0, [2, 4, 0.5]),
        (1.0, 1.0, [1, 4, 0]),
        (2.0, 0.5, [2, 6, 0]),  # S3 - S2 / 2 = 0.5, 2, -0.5
    ],
)
def test_affinity_is_audio_plus_lambda_times_what_mixed_has_over_beta_times_video(
    lambda_: float, beta: float, expected: list[float]
) -> None:
    assert BY_HAND.affinity(lambda_, beta).tolist() == [expected]
    assert BY_HAND.scores("affinity", lambda_=lambda_, beta=beta, seed=0).tolist() == [expected]


@pytest.mark.parametrize(("modality", "expected"), [("video", [3, 6, 1]), ("mixed", [1, 2, 0])])
def test_a_modality_that_was_not_measured_counts_as_zero(modality: str, expected: list[float]) -> None:
    rest = {name: measured for name, measured in BY_HAND.modalities.items() if name != modality}
    assert replace(BY_HAND, modalities=rest).affinity(2.0, 1.0).tolist() == [expected]


@pytest.mark.parametrize(("ranking", "expected"), [("reap", [2, 10, 0]), ("frequency", [0.5, 0.2, 0])])
def test_other_rankings_use_the_audio_tokens_that_were_routed(ranking: str, expected: list[float]) -> None:
    assert BY_HAND.scores(ranking, lambda_=1, beta=1, seed=0).tolist() == [expected]


def test_the_random_ranking_depends_on_its_seed_and_on_nothing_measured() -> None:
    first, other = measured(4, 16, seed=1), measured(4, 16, seed=2)
    scores = [
        component.scores("random", lambda_=1, beta=1, seed=seed)
        for component, seed in ((first, 3), (first, 3), (other, 3), (first, 4))
    ]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
    assert not np.array_equal(scores[0].argsort(axis=1), scores[3].argsort(axis=1))


# Six experts: 0 often but weak, 1 and 2 alike, 3 rare but strong, 4 and 5 never on audio; 5 is heard in mixed data.
TIES_AND_SILENCE = ComponentSaliency(
    modalities={
        "audio": sums([12, 10, 10, 8, 0, 0], [12, 5, 5, 1, 0, 0], 20),  # S1 = 0.6 0.5 0.5 0.4 0 0
        "video": sums([0, 0, 0, 0, 5, 0], [5, 5, 5, 0, 5, 0], 10),  # S2 = 0 0 0 0 0.5 0
        "mixed": sums([0, 0, 0, 0, 6, 9], [5, 5, 0, 0, 5, 5], 10),  # S3 = 0 0 0 0 0.6 0.9
    },
    layer_cosine=np.array([[0.9]]),
)


@pytest.mark.parametrize(
    ("ranking", "lambda_", "order"),
    [
        ("affinity", 0.0, [0, 1, 2, 3, 4, 5]),  # the tie of 1 and 2, and that of 4 and 5, go to the lower index
        ("affinity", 1.0, [5, 0, 1, 2, 3, 4]),  # A = 0.6 0.5 0.5 0.4 0.1 0.9
        ("reap", 1.0, [3, 1, 2, 0, 4, 5]),  # 1 2 2 8 0 0: whatever the mixed data
        ("frequency", 1.0, [0, 1, 2, 3, 4, 5]),  # 0.6 0.25 0.25 0.05 0 0
    ],
)
def test_each_ranking_keeps_its_best_with_ties_to_the_lower_index_and_unrouted_experts_last(
    ranking: str, lambda_: float, order: list[int]
) -> None:
    scores = TIES_AND_SILENCE.scores(ranking, lambda_=lambda_, beta=1.0, seed=0)
    assert np.isfinite(scores).all()
    for num_kept in range(1, 7):
        assert retained_experts(scores, num_kept) == (tuple(sorted(order[:num_kept])),)


@pytest.mark.parametrize("ranking", ["affinity", "reap", "frequency"])
def test_a_set_without_tokens_ranks_all_alike(ranking: str) -> None:
    silent = ComponentSaliency({"audio": sums([0, 0, 0], [0, 0, 0], 0)}, np.array([[np.nan]]))
    scores = silent.scores(ranking, lambda_=1, beta=1, seed=0)
    assert retained_experts(scores, 2) == ((0, 1),)


def test_the_random_ranking_keeps_every_expert_equally_often() -> None:
    num_seeds = 2000
    kept = [
        retained_experts(TIES_AND_SILENCE.scores("random", lambda_=1, beta=1, seed=seed), 2)[0]
        for seed in range(num_seeds)
    ]
    times = np.bincount(np.array(kept).ravel(), minlength=6)
    deviation = np.sqrt(num_seeds * (1 / 3) * (2 / 3))
    assert np.abs(times - num_seeds / 3).max() < 4 * deviation


def test_the_random_ranking_draws_each_layer_by_itself() -> None:
    scores = measured(48, 16).scores("random", lambda_=1, beta=1, seed=0)
    assert len(set(retained_experts(scores, 8))) > 40


def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(InputError, match="unknown ranking 'magic'"):
        BY_HAND.scores("magic", lambda_=1, beta=1, seed=0)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    awkward = ComponentSaliency(
        modalities={
            "audio": ModalitySums(
                gate_norm_sum=np.array([[5e-324, np.pi], [1e300, -0.0]]).T,  # not contiguous
                routed_tokens=np.array([[2**62, 0], [1, 2]]),
                tokens=2**40,
            )
        },
        layer_cosine=np.array([[0.1, np.nan]]),
        layer_order=LayerOrder((1, 0), (np.pi, 1e300)),
    )
    saved = Saliency({"talker": awkward, **saliency_of(SHAPE).components}, {"model_fingerprint": "f", "versions": "é"})
    saved.save(tmp_path / "new" / "folder" / "saliency.safetensors")
    loaded = load_saliency(tmp_path / "new" / "folder" / "saliency.safetensors")

    assert loaded.provenance == saved.provenance
    assert loaded.model_fingerprint == "f"
    assert loaded.digest() == saved.digest()
    assert set(loaded.components) == {"thinker", "talker"}
    for name, component in saved.components.items():
        again = loaded.component(name)
        assert (again.num_layers, again.num_experts) == (component.num_layers, component.num_experts)
        assert again.layer_cosine.tobytes() == component.layer_cosine.tobytes()
        assert again.layer_order == component.layer_order
        assert set(again.modalities) == set(component.modalities)
        for modality, expected in component.modalities.items():
            assert again.modalities[modality].gate_norm_sum.tobytes() == expected.gate_norm_sum.tobytes()
            assert again.modalities[modality].routed_tokens.tobytes() == expected.routed_tokens.tobytes()
            assert again.modalities[modality].tokens == expected.tokens
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["saliency.safetensors"]


def test_the_digest_covers_everything_measured() -> None:
    base = saliency_of(SHAPE)
    thinker = base.components["thinker"]
    one_token_more = replace(thinker.modalities["mixed"], tokens=thinker.modalities["mixed"].tokens + 1)
    changed = replace(thinker, modalities={**thinker.modalities, "mixed": one_token_more})
    cosine = replace(thinker, layer_cosine=thinker.layer_cosine + 1e-9)
    digests = {Saliency({**base.components, "thinker": each}, {}).digest() for each in (thinker, changed, cosine)}
    assert len(digests) == 3


def test_a_component_that_was_not_calibrated_is_refused_with_the_option_that_calibrates_it() -> None:
    only_thinker = Saliency({"thinker": BY_HAND}, {"model_fingerprint": "f"})
    with pytest.raises(InputError, match=r"no measurements of the talker.*--component talker"):
        only_thinker.component("talker")


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_refused_by_name(kept_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "saliency.safetensors"
    saliency_of(SHAPE).save(path)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match=str(path)):
        load_saliency(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(InputError, match=str(path)):
            load_saliency(path)


def test_weights_of_a_model_are_refused_as_no_saliency(tmp_path: Path) -> None:
    save_torch_file({"lm_head.weight": torch.zeros(2, 2, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: not a saliency file .*autoreap calibrate"):
        load_saliency(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "missing",
    ["thinker.audio.tokens", "thinker.video.gate_norm_sum", "thinker.mixed.routed_tokens", "thinker.layer_cosine"],
)
def test_a_file_with_a_tensor_missing_is_refused_by_name(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "saliency.safetensors"
    complete = saliency_of(SHAPE)
    arrays = {name: array for name, array in complete._arrays().items() if name != missing}
    metadata = {"format": "autoreap.saliency.1", "provenance": "{}"}
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(InputError, match=str(path)):
        load_saliency(path)


def change(path: Path, name: str, value: Any) -> None:
    """Store another array under `name`, or none."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    arrays[name] = value(arrays[name])
    if arrays[name] is None:
        del arrays[name]
    save_file(arrays, path, metadata=metadata)


def with_value(value: float) -> Callable[[Any], Any]:
    def changed(array: Any) -> Any:
        array = array.copy()
        array.flat[1] = value
        return array

    return changed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("audio.gate_norm_sum", with_value(np.nan), r"holds nan at \[0, 1\]"),
        ("audio.gate_norm_sum", with_value(np.inf), r"holds inf at \[0, 1\]"),
        ("mixed.gate_norm_sum", with_value(-1), r"holds -1.0 at \[0, 1\]"),
        ("video.routed_tokens", with_value(-1), r"holds -1 at \[0, 1\]"),
        ("audio.routed_tokens", lambda array: array.astype(np.float32), "holds float32"),
        ("audio.gate_norm_sum", lambda array: array.astype(np.int64), "holds int64"),
        ("audio.tokens", lambda array: array * -1, r"holds -\d+ at \[0\]"),
        ("audio.tokens", lambda array: np.array([1, 2]), r"is of shape \(2,\), expected \(1,\)"),
        ("audio.tokens", lambda array: np.array([], dtype=np.int64), r"is of shape \(0,\)"),
        ("audio.tokens", lambda array: np.array([1.5]), "holds float64"),
        ("mixed.gate_norm_sum", lambda array: array[:-1].copy(), "is of shape"),
        ("audio.routed_tokens", lambda array: array[:, :-1].copy(), "is of shape"),
        ("audio.routed_tokens", lambda array: array.ravel().copy(), "holds int64 in 1 dimensions"),
        ("audio.routed_tokens", lambda _: None, "is missing"),
        ("layer_cosine", lambda _: None, "is missing"),
        ("layer_cosine", lambda array: array[:, :-1].copy(), "is of shape"),
        ("layer_cosine", with_value(np.inf), r"holds inf at \[0, 1\]"),
        ("layer_cosine", with_value(-1.5), r"holds -1.5 at \[0, 1\]"),
        ("layer_cosine", with_value(np.nan), r"holds nan at \[0, 1\]"),
        ("layer_cosine", lambda array: array * np.nan, r"holds nan at \[0, 0\]"),
    ],
)
@pytest.mark.parametrize("component", ["thinker", "talker"])
def test_numbers_that_no_calibration_measures_are_refused_by_tensor(
    component: str, name: str, value: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "saliency.safetensors"
    saliency_of(SHAPE).save(path)
    change(path, f"{component}.{name}", value)
    with pytest.raises(InputError, match=rf"^{path}: tensor '?{component}\.{name}'? {message}.*calibrate again"):
        load_saliency(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer_order", with_value(8), r"holds 8 at \[1\], expected each layer below 8 once"),
        ("layer_order", with_value(3), r"holds 3 at \[1\], expected each layer below 8 once"),
        ("layer_order", with_value(-1), r"holds -1 at \[1\]"),
        ("layer_order", lambda array: array.astype(np.float64), "holds float64"),
        ("layer_order_loss", with_value(np.inf), r"holds inf at \[1\]"),
        ("layer_order_loss", lambda array: array[:-1].copy(), r"is of shape \(1,\), expected \(2,\)"),
        ("layer_order_loss", lambda _: None, "is missing"),
    ],
)
def test_an_order_of_layers_that_no_calibration_measures_is_refused(
    name: str, value: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "saliency.safetensors"
    saliency_of(SHAPE).with_layer_order(LayerOrder((3, 5), (0.5, 0.75))).save(path)
    change(path, f"thinker.{name}", value)
    with pytest.raises(InputError, match=rf"^{path}: tensor '?thinker\.{name}'? {message}.*calibrate again"):
        load_saliency(path)


def test_a_type_that_numpy_lacks_is_refused_by_name(tmp_path: Path) -> None:
    metadata = {"format": "autoreap.saliency.1"}
    path = tmp_path / "saliency.safetensors"
    save_torch_file({"thinker.layer_cosine": torch.zeros(2, 2, dtype=torch.bfloat16)}, path, metadata=metadata)
    with pytest.raises(InputError, match=str(path)):
        load_saliency(path)
