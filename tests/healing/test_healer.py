"""What healing promises: the model is as it was, the same bits each time, and a decoder nearer to the unpruned one."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import identity_plan, random_component
from pages import ROOT
from random_qwen2_audio import save_hearing_model

from autoreap.calibration.batching import batches
from autoreap.calibration.calibrator import listen
from autoreap.calibration.measure import read_calibration
from autoreap.data.calibration_config import CalibrationConfig, CalibrationSet
from autoreap.data.eval_set import open_evals
from autoreap.data.samples import Sample, digest
from autoreap.errors import InputError
from autoreap.healing.healer import Healer
from autoreap.masking import masked
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import Healing, PruningPlan, Quantisation
from autoreap.search.scorers import Job, ScorerSetup, make_scorer
from autoreap.search.signals import Interrupted
from autoreap.writing.materialiser import materialise

NUM_ROWS = 12
Data = Mapping[str, Sequence[Sample]]


@pytest.fixture(scope="module")
def data() -> Data:
    """A few rows of each modality."""
    folder = ROOT / "calibration" / "tiny"
    sets = read_calibration({name: folder / f"{name}.parquet" for name in ("audio", "video", "mixed")})
    return {modality: samples[:NUM_ROWS] for modality, samples in sets.items()}


def healed(plan: PruningPlan, data: Data, method: Any = "stream", **values: Any) -> PruningPlan:
    """`plan`, to be healed on the audio of `data`."""
    heal = Healing(method=method, ridge=0.01, data={"audio": digest(data["audio"])}, tokens="both")
    return replace(plan, heal=replace(heal, **values))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model without experts."""
    return save_hearing_model(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def healer(loaded: Loaded, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Healer:
    return Healer(loaded, data, tmp_path_factory.mktemp("streams"))


@torch.inference_mode()
def last_states(loaded: Loaded, samples: Sequence[Sample]) -> torch.Tensor:
    """The stream after the last layer, before the norm, of all rows."""
    states = []
    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "thinker")

    def keep(_layer: Any, _given: Any, output: torch.Tensor) -> None:
        states.append(output.flatten(0, 1))

    handle = decoder.layers[-1].register_forward_hook(keep)
    try:
        for batch in batches(loaded.inputs, samples, 2048):
            listen(loaded, batch)
    finally:
        handle.remove()
    return torch.cat(states)


@pytest.mark.parametrize("method", ["block", "stream"])
def test_the_healed_stream_is_nearer_to_the_unpruned_one(
    loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data, method: str
) -> None:
    unpruned = last_states(loaded, data["audio"])
    with masked(loaded.model, plan):
        pruned = last_states(loaded, data["audio"])
    with masked(loaded.model, healer.fit(healed(plan, data, method))):
        mended = last_states(loaded, data["audio"])
    assert (mended - unpruned).norm() < 0.6 * (pruned - unpruned).norm()


def test_what_is_quantised_is_healed_of_its_rounding_too(
    loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data
) -> None:
    """The fit that knows of the rounding comes nearer than one that does not and is rounded later."""
    bits = Quantisation(experts=4, rest=4, group_size=32)
    unpruned = last_states(loaded, data["audio"])
    distances = {}
    together = healer.fit(replace(healed(plan, data), bits=bits))
    before = replace(healer.fit(healed(plan, data)), bits=bits)
    for name, each in (("together", together), ("before", before), ("not healed", replace(plan, bits=bits))):
        with masked(loaded.model, each):
            distances[name] = float((last_states(loaded, data["audio"]) - unpruned).norm())
    assert distances["together"] < distances["before"] < distances["not healed"]


def test_only_the_layer_before_a_cut_is_fitted_for_cuts(plan: PruningPlan, healer: Healer, data: Data) -> None:
    depth = len(plan.thinker.experts)
    fitted = healer.fit(healed(plan, data, "cuts")).fitted
    assert fitted is not None
    assert list(fitted) == [("thinker", depth - 3)]  # layer depth - 2 is cut


def test_what_lost_nothing_keeps_its_bits(loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data) -> None:
    shape = loaded.model_info.shape.components["thinker"]
    cut = replace(plan, thinker=random_component(shape, layers=(0, 1, 2, 3, 4, 6, 7)))
    fitted = healer.fit(healed(cut, data)).fitted
    assert fitted is not None
    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    for layer in range(4):
        assert torch.equal(fitted["thinker", layer].float(), decoder.layers[layer].mlp.experts.down_proj)
    assert not torch.equal(fitted["thinker", 4].float(), decoder.layers[4].mlp.experts.down_proj)


def test_the_model_is_as_it_was(loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    config = loaded.model.config.to_dict()
    fitted = healer.fit(healed(plan, data))
    with masked(loaded.model, fitted):
        changed = {name for name, tensor in loaded.model.state_dict().items() if name not in before}
        assert not changed
    after = loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.model.config.to_dict() == config


def test_the_same_plan_gives_the_same_weights_with_kept_streams_and_with_new_ones(
    loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data, tmp_path: Path
) -> None:
    first = healer.fit(healed(plan, data)).heal
    again = Healer(loaded, data, tmp_path)
    assert again.fit(healed(plan, data)).heal == first
    assert Healer(loaded, data, tmp_path).fit(healed(plan, data)).heal == first
    assert again.fit(healed(plan, data, ridge=0.02)).heal != first


@pytest.mark.parametrize("num_layers", [2, 11])  # of the unpruned model's streams, of the fit
def test_a_signal_ends_a_fit_between_layers_and_leaves_the_model_as_it_was(
    loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data, tmp_path: Path, num_layers: int
) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    calls = iter(range(num_layers))

    def check() -> None:
        if next(calls, None) is None:
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        Healer(loaded, data, tmp_path, check).fit(healed(plan, data))
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert Healer(loaded, data, tmp_path).fit(healed(plan, data)).heal == healer.fit(healed(plan, data)).heal


@pytest.mark.slow
def test_a_signal_during_a_fit_ends_a_candidate_that_is_scored(
    loaded: Loaded, plan: PruningPlan, data: Data, tmp_path: Path
) -> None:
    evals = ROOT / "evals" / "tiny.yaml"
    sets = CalibrationConfig(audio=(CalibrationSet("unused: the rows are given"),))
    setup = ScorerSetup("tiny", evals, {"wer": "minimize"}, ("wer",), calibration=sets, streams=tmp_path)

    def check() -> None:
        raise Interrupted(signal.SIGTERM)

    scorer = make_scorer(loaded, setup, open_evals(evals).search, check, data)
    with pytest.raises(Interrupted):
        scorer.score(Job(0, healed(plan, data), {"size_bytes": 1.0}))
    assert not list(tmp_path.rglob("complete.json"))  # of the unpruned model's streams


def test_a_model_read_layer_by_layer_is_healed_alike(
    plan: PruningPlan, healer: Healer, data: Data, tmp_path: Path
) -> None:
    streamed = load(open_model("tiny"), stream_layers=True)
    assert Healer(streamed, data, tmp_path).fit(healed(plan, data)).heal == healer.fit(healed(plan, data)).heal


def test_a_noisy_condition_is_heard_by_the_pruned_model_alone(plan: PruningPlan, healer: Healer, data: Data) -> None:
    clean, noisy = healed(plan, data), healed(plan, data, condition="noise: brown, snr_db: 0")
    assert healer.fit(noisy).heal != healer.fit(clean).heal
    assert plan.digest() != healed(plan, data).digest() != noisy.digest()


def test_other_rows_are_refused(loaded: Loaded, plan: PruningPlan, data: Data, tmp_path: Path) -> None:
    other = {"audio": data["audio"][1:]}
    with pytest.raises(InputError, match="healed on other audio rows"):
        Healer(loaded, other, tmp_path).fit(healed(plan, data))


def test_rows_that_are_seen_are_fitted_on_too(loaded: Loaded, plan: PruningPlan, healer: Healer, data: Data) -> None:
    seeing = replace(plan, strip_vision=False, thinker=replace(plan.thinker, layers=tuple(range(8))))
    heal = Healing("stream", 0.01, {modality: digest(samples) for modality, samples in data.items()}, tokens="both")
    on_all = healer.fit(replace(seeing, heal=heal))
    with masked(loaded.model, seeing):
        pruned = last_states(loaded, data["mixed"])
    with masked(loaded.model, on_all):
        mended = last_states(loaded, data["mixed"])
    unpruned = last_states(loaded, data["mixed"])
    assert (mended - unpruned).norm() < 0.6 * (pruned - unpruned).norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", "dense"])
@pytest.mark.slow
def test_a_healed_mask_equals_the_healed_checkpoint(
    dense: Path, name: str, dtype: str, tmp_path: Path, data: Data
) -> None:
    loaded = load(open_model("tiny" if name == "tiny" else str(dense)), dtype=dtype)
    model_shape = loaded.model_info.shape
    shape = model_shape.components["thinker"]
    thinker = random_component(shape, num_experts=shape.num_experts // 2 or None, layers=(0, 2, 3))
    plan = replace(
        identity_plan(loaded.model_info.checkpoint.fingerprint, model_shape),
        thinker=thinker,
        strip_vision=model_shape.has_vision,
        drop_speech=model_shape.speech_tap is not None,
    )
    plan = Healer(loaded, data, tmp_path / "streams").fit(healed(plan, data))
    materialise(loaded.model_info.checkpoint.path, plan, tmp_path / "pruned")
    written = load(open_model(str(tmp_path / "pruned")), dtype=dtype)
    with masked(loaded.model, plan):
        by_mask = last_states(loaded, data["audio"])
    assert torch.equal(by_mask, last_states(written, data["audio"]))


def test_a_plan_that_is_not_fitted_is_neither_masked_nor_written(
    loaded: Loaded, plan: PruningPlan, data: Data, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not fitted yet"), masked(loaded.model, healed(plan, data)):
        pass
    with pytest.raises(InputError, match="not fitted yet"):
        materialise(loaded.model_info.checkpoint.path, healed(plan, data), tmp_path / "pruned")
