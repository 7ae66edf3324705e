"""What a checkpoint costs to run, held against what is published of the real one and what the tiny one really takes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from builders import as_jsonl, random_component, saliency_of, write_sparse_checkpoint
from measured import peak_bytes
from random_models import real_config
from transformers import DynamicCache

from autoreap.candidate import Candidate
from autoreap.data.samples import read_samples
from autoreap.models.checkpoint import Checkpoint, open_checkpoint
from autoreap.models.families import family_of
from autoreap.models.loading import load, open_model
from autoreap.models.prompts import audio_of
from autoreap.plan import BaseModel, PruningPlan
from autoreap.planning import make_plan
from autoreap.scores import Metric
from autoreap.writing.footprint import Footprint
from autoreap.writing.rewrite import plan_rewrite
from autoreap.writing.sizes import component_sizes, quantised_bytes

EVALS = as_jsonl("evals/tiny")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The real model's headers, at full length."""
    config = real_config()
    folder = tmp_path_factory.mktemp("real")
    return open_checkpoint(write_sparse_checkpoint(folder, config, family_of(config).layout.expected_tensors(config)))


def plan_for(checkpoint: Checkpoint, candidate: Candidate) -> PruningPlan:
    shape = family_of(checkpoint.config).layout.shape(checkpoint.config)
    saliency = saliency_of(shape, fingerprint=checkpoint.fingerprint)
    return make_plan(candidate, saliency, shape, BaseModel("real", checkpoint.fingerprint))


def random_plan(checkpoint: Checkpoint, rng: np.random.Generator) -> PruningPlan:
    """Each component with experts and layers drawn at random, with or without vision and speech."""
    shape = family_of(checkpoint.config).layout.shape(checkpoint.config)
    edits = {}
    for name, decoder in shape.components.items():
        last = decoder.num_layers - 1
        always_kept = {*range(shape.deepstack_layers), 0, last}  # where vision enters, and on both sides of the talker
        drawn = rng.permutation(decoder.num_layers)[: int(rng.integers(0, last))]
        edits[name] = random_component(
            decoder,
            num_experts=int(rng.integers(decoder.top_k, decoder.num_experts + 1)),
            layers=tuple(sorted(always_kept | set(drawn.tolist()))),
            seed=int(rng.integers(1000)),
        )
    strip_vision, drop_speech = rng.integers(2, size=2).astype(bool).tolist()
    talker = None if drop_speech else edits["talker"]
    base_model = BaseModel("real", checkpoint.fingerprint)
    return PruningPlan(base_model, strip_vision, edits["thinker"], talker, drop_speech=drop_speech)


@pytest.mark.parametrize("model", ["tiny", "real"])
@pytest.mark.slow
def test_a_footprint_counts_exactly_what_the_rewrite_on_paper_writes(model: str, real: Checkpoint) -> None:
    checkpoint = open_model("tiny").checkpoint if model == "tiny" else real
    rng = np.random.default_rng(0)
    for _ in range(6 if model == "tiny" else 2):
        plan = random_plan(checkpoint, rng)
        rewrite = plan_rewrite(checkpoint, plan)
        layout = family_of(rewrite.config).layout
        roles = [layout.role(tensor.name) for tensor in rewrite.tensors]
        footprint = Footprint.of(checkpoint, plan)
        assert footprint.config == rewrite.config
        assert footprint.size_bytes() == rewrite.size_bytes
        for bits in (4, 8):
            sizes = [quantised_bytes(tensor, role, bits) for tensor, role in zip(rewrite.tensors, roles, strict=True)]
            assert footprint.size_bytes(bits) == sum(sizes) < rewrite.size_bytes
        thinker = layout.shape(rewrite.config).components["thinker"]
        active = 0
        for tensor, role in zip(rewrite.tensors, roles, strict=True):
            if role.part == "thinker":
                share = thinker.top_k / thinker.num_experts if role.is_expert_matrix else 1
                active += round(tensor.num_parameters * share)
        assert footprint.active_parameters == active


def test_the_real_model_has_the_active_parameters_of_its_name(real: Checkpoint) -> None:
    """3.3B, its card says: eight of 128 experts, and all the rest of the decoder."""
    experts, attention, embeddings, small = 28_991_029_248, 905_981_952, 622_854_144, 12_781_568
    active = Footprint.of(real).active_parameters
    assert active == experts * 8 // 128 + attention + embeddings + small
    assert 3.3e9 < active < 3.4e9


def test_fewer_experts_leave_active_parameters_but_for_the_router_and_fewer_layers_do_not(real: Checkpoint) -> None:
    whole = Footprint.of(real).active_parameters
    half = Footprint.of(real, plan_for(real, Candidate(retention=0.5))).active_parameters
    assert whole - half == 48 * 64 * 2048
    cut = Footprint.of(real, plan_for(real, Candidate(layers_cut=12))).active_parameters
    embeddings = 622_854_144 + 2048  # and the last norm
    assert cut - embeddings == (whole - embeddings) * 36 // 48


def test_a_router_that_keeps_fewer_experts_than_top_k_meets_fewer(real: Checkpoint) -> None:
    plan = plan_for(real, Candidate(retention=0.5))
    four = tuple(tuple(kept[:4]) for kept in plan.thinker.experts)
    fewer = PruningPlan(plan.base_model, False, type(plan.thinker)(four, plan.thinker.layers))
    saved = Footprint.of(real, plan).active_parameters - Footprint.of(real, fewer).active_parameters
    assert saved == 48 * (4 * 4_718_592 + 60 * 2048)


def test_the_cache_of_a_minute_follows_from_heads_layers_and_thirteen_tokens_a_second(real: Checkpoint) -> None:
    assert Footprint.of(real).kv_bytes_per_minute == 60 * 13 * 2 * 4 * 128 * 48 * 2
    cut = Footprint.of(real, plan_for(real, Candidate(layers_cut=12)))
    assert cut.kv_bytes_per_minute == 60 * 13 * 2 * 4 * 128 * 36 * 2


@pytest.mark.parametrize(("bits", "bytes_per_group"), [(8, 128 + 2), (4, 64 + 2)])
def test_matrices_of_decoder_layers_are_quantised_in_groups_with_scales_and_the_rest_is_not(
    bits: int, bytes_per_group: int, real: Checkpoint
) -> None:
    layout = family_of(real.config).layout
    parts = component_sizes(real.tensors.values(), layout)
    layers = [
        info
        for info in real.tensors.values()
        if layout.role(info.name).layer is not None
        and len(info.shape) == 2
        and not info.name.endswith("mlp.gate.weight")
    ]
    num_quantised = sum(info.num_parameters for info in layers)
    assert num_quantised > parts["thinker experts"].num_parameters + parts["talker experts"].num_parameters
    expected = num_quantised // 128 * bytes_per_group + 2 * (parts["total"].num_parameters - num_quantised)
    assert Footprint.of(real).size_bytes(bits) == expected
    assert Footprint.of(real).metrics()[f"size_{bits}bit_bytes"] == Metric.static(expected)


def test_memory_is_weights_and_a_cache_of_clip_and_transcript_and_working_memory(real: Checkpoint) -> None:
    footprint = Footprint.of(real)
    short, long = footprint.memory_needed(30, bits=4), footprint.memory_needed(2400, bits=4)
    assert short.weights_bytes == long.weights_bytes == footprint.size_bytes(4)
    assert long.kv_cache_bytes == 80 * short.kv_cache_bytes == footprint.kv_bytes(2400 * (13 + 4))
    assert short.working_bytes < long.working_bytes
    assert long.total_bytes == long.weights_bytes + long.kv_cache_bytes + long.working_bytes


@torch.inference_mode()
def test_the_working_memory_of_the_tiny_model_is_what_was_estimated() -> None:
    loaded = load(open_model("tiny"))
    family, model, config = loaded.model_info.family, loaded.model, loaded.model_info.checkpoint.config
    decoder: Any = family.running.decoder(model, "thinker")
    for num_frames in (1000, 6000):
        mel = torch.zeros(128, num_frames)
        heard = family.running.audio_embeddings(model, mel, num_frames)
        tower = peak_bytes(partial(family.running.audio_embeddings, model, mel, num_frames))
        prefill = peak_bytes(partial(decoder, inputs_embeds=heard[None], use_cache=False))
        assert 4 * family.layout.working_values(config, num_frames, 0) == pytest.approx(tower, rel=0.1)
        assert 4 * family.layout.working_values(config, 0, len(heard)) == pytest.approx(prefill, rel=0.1)


@torch.inference_mode()
def test_the_tiny_model_fills_its_cache_with_the_bytes_that_were_counted() -> None:
    loaded = load(open_model("tiny"))
    family, model = loaded.model_info.family, loaded.model
    sample = read_samples(EVALS / "asr_search.jsonl")[0]
    encoded = loaded.inputs.encode(sample, "transcribe")
    assert encoded.mel is not None
    audio = audio_of(family.running, model, encoded)
    assert audio is not None
    assert len(audio) == family.layout.num_audio_tokens(encoded.mel.shape[1])
    cache = DynamicCache()
    decoder: Any = family.running.decoder(model, "thinker")
    decoder(inputs_embeds=audio[None], past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    stored_in = 4 / torch.empty(0, dtype=torch.bfloat16).element_size()  # computed in float32
    assert held == Footprint.of(loaded.model_info.checkpoint).kv_bytes(len(audio)) * stored_in
