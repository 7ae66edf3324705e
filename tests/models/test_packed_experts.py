"""Experts that stay packed in memory, and layers of packed checkpoints: the values of those unpacked when loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl, identity_plan, random_component
from compressed_tensors.compressors import BaseCompressor
from packed import logits

from autoreap import jobs
from autoreap.data.eval_set import EvalSet, open_evals
from autoreap.dimensions.bits import scales_of
from autoreap.evaluation.evaluator import Evaluator
from autoreap.masking import masked
from autoreap.models import loading
from autoreap.models.loading import ModelInfo, load, open_model
from autoreap.models.packed_weights import scheme, unpacked
from autoreap.plan import PruningPlan, Quantisation
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing.materialiser import materialise

QUANTISATIONS = [Quantisation(4, 16, 16), Quantisation(4, 8, 16), Quantisation(8, 4, 16)]


@pytest.fixture(scope="module", params=QUANTISATIONS, ids=str)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """The embedded model, packed."""
    return packed_model(tmp_path_factory.mktemp("packed") / "model", request.param)


def packed_model(path: Path, quantisation: Quantisation) -> ModelInfo:
    model_info = open_model("tiny")
    everything = identity_plan(model_info.checkpoint.fingerprint, model_info.shape)
    materialise(CHECKPOINT, replace(everything, bits=quantisation), path)
    return open_model(str(path))


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> EvalSet:
    path = tmp_path_factory.mktemp("evals") / "evals.yaml"
    rows = as_jsonl("evals/tiny") / "asr_search.jsonl"
    path.write_text(f"search: [{{task: asr, dataset_path: {rows}, limit: 6}}]\n")
    return open_evals(path).search


def pruned(model_info: ModelInfo) -> PruningPlan:
    shape = model_info.shape.components["thinker"]
    thinker = random_component(shape, num_experts=9, layers=(0, 1, 2, 4, 5, 7), seed=1)
    return PruningPlan(model_info.base_model, True, thinker)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_packed_experts_compute_what_unpacked_ones_compute(packed: ModelInfo, dtype: str) -> None:
    unpacked, kept = (load(packed, device="cpu", dtype=dtype, keep_packed=keep) for keep in (False, True))
    plan = pruned(packed)
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        for loaded in (unpacked, kept):
            loaded.model.set_experts_implementation(implementation)
        assert torch.equal(logits(unpacked), logits(kept))
        with masked(unpacked.model, plan), masked(kept.model, plan):
            assert torch.equal(logits(unpacked), logits(kept))
        assert torch.equal(logits(unpacked), logits(kept))


@pytest.mark.slow
def test_a_model_of_packed_experts_answers_as_the_stock_one_does(packed: ModelInfo, evals: EvalSet) -> None:
    answers = []
    for keep_packed in (False, True):
        loaded = load(packed, device="cpu", keep_packed=keep_packed)
        evaluator = Evaluator(loaded.model, loaded.inputs, evals)
        answers.append([evaluator.run().outcomes, evaluator.run(pruned(packed)).outcomes])
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_calibration_of_packed_experts_measures_the_same(packed: ModelInfo, tmp_path: Path) -> None:
    rows = jobs.read_calibration({"audio": as_jsonl("calibration/tiny") / "audio.jsonl"})
    data = {"audio": rows["audio"][:4]}
    measured = []
    ways: list[dict[str, Any]] = [{"keep_packed": False}, {"keep_packed": True}, {"stream_layers": True}]
    for number, how in enumerate(ways):
        loaded = load(packed, device="cpu", **how)
        measured.append(jobs.measure_saliency(loaded, data, output=tmp_path / f"{number}.safetensors"))
    assert len({saliency.digest() for saliency in measured}) == 1


@pytest.mark.slow
def test_a_layer_that_is_read_alone_is_unpacked_as_the_stock_class_unpacks_it(packed: ModelInfo) -> None:
    stock: Any = load(packed, device="cpu", keep_packed=False).model
    streamed = load(packed, device="cpu", stream_layers=True)
    for number, expected in enumerate(stock.thinker.model.language_model.layers):
        own, stocks = streamed.layer_reader.read(number).state_dict(), expected.state_dict()
        assert own.keys() == stocks.keys()
        assert all(torch.equal(own[name], stocks[name]) for name in own)


def test_one_layer_at_a_time_is_unpacked(packed: ModelInfo) -> None:
    model: Any = load(packed, device="cpu", keep_packed=True).model
    layers = model.thinker.model.language_model.layers
    assert len({id(layer.mlp.experts.gate_up_proj) for layer in layers}) == 1
    assert len({id(layer.mlp.experts.down_proj) for layer in layers}) == 1
    assert len(layers) == model.config.thinker_config.text_config.num_hidden_layers == 8


def test_what_does_not_fit_unpacked_is_kept_packed(packed: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory between what it takes packed and unpacked, in float32."""
    stored = [info for info in packed.checkpoint.tensors.values() if not info.name.startswith(("talker", "code2wav"))]
    unpacked_bytes = 4 * sum(info.num_parameters for info in stored)
    monkeypatch.setattr(loading, "free_memory", lambda: unpacked_bytes)
    assert loading.shortage(packed, "cpu", "auto", keep_packed=False)
    assert loading.shortage(packed, "cpu", "auto") is None
    model: Any = load(packed, device="cpu").model
    layers = model.thinker.model.language_model.layers
    assert layers[0].mlp.experts.down_proj is layers[1].mlp.experts.down_proj
    monkeypatch.setattr(loading, "free_memory", lambda: unpacked_bytes // 4)
    assert "GB of memory on cpu" in (loading.shortage(packed, "cpu", "auto") or "")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("num_columns", "group_size"), [(48, 16), (64, 64), (40, 8), (36, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_unpacked_is_what_the_library_unpacks(
    bits: int, num_columns: int, group_size: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(bits)
    weights = torch.randn(5, num_columns, generator=generator)
    scales = scales_of(weights, bits, group_size).to(dtype)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    packed = compressor.compress({"weight": weights, "weight_scale": scales}, scheme(bits, group_size))
    expected = compressor.decompress(packed, scheme(bits, group_size))["weight"]
    assert torch.equal(unpacked(packed["weight_packed"], scales, num_columns), expected)
