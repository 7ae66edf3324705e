from pathlib import Path

import pytest
from builders import saliency_of, write_sparse_checkpoint
from random_models import real_config

from autoreap.candidate import Candidate
from autoreap.checkpoint import Checkpoint, open_checkpoint
from autoreap.families import Family, family_of
from autoreap.materialise import plan_rewrite
from autoreap.plan import BaseModel, make_plan
from autoreap.sizes import Size, component_sizes

# Qwen3-Omni-30B-A3B-Instruct in bf16, as published.
NUM_PARAMETERS, NUM_TENSORS = 35_259_818_545, 28_010
STUB_BYTES, NUM_STUB_TENSORS = 2 * 951_800, 9


@pytest.fixture(scope="module")
def family() -> Family:
    return family_of(real_config())


@pytest.fixture(scope="module")
def checkpoint(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The real model's headers, at full length."""
    config = real_config()
    folder = tmp_path_factory.mktemp("real")
    return open_checkpoint(write_sparse_checkpoint(folder, config, family.expected_tensors(config), num_shards=15))


def test_the_stock_class_expects_the_tensors_of_the_published_checkpoint(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.tensors) == NUM_TENSORS
    assert sum(tensor.num_parameters for tensor in checkpoint.tensors.values()) == NUM_PARAMETERS
    assert checkpoint.num_bytes == 2 * NUM_PARAMETERS


def test_the_parts_of_the_real_model_have_their_known_sizes(checkpoint: Checkpoint, family: Family) -> None:
    sizes = component_sizes(checkpoint, family)
    parameters = {name: size.num_parameters for name, size in sizes.items()}
    thinker = sum(parameters[f"thinker {kind}"] for kind in ("routers", "rest"))
    talker = sum(parameters[f"talker {kind}"] for kind in ("attention", "routers", "rest"))
    assert parameters["audio"] == 647_927_168
    assert parameters["vision"] == 538_631_408
    assert parameters["speech"] == 216_016_577
    assert parameters["thinker experts"] == 28_991_029_248
    assert parameters["thinker attention"] + thinker == 905_981_952 + 622_854_144 + 12_781_568
    assert parameters["talker experts"] == 3_019_898_880
    assert talker == 304_697_600
    assert list(sizes)[-1] == "total"
    assert sizes["total"] == Size(NUM_PARAMETERS, 2 * NUM_PARAMETERS, NUM_TENSORS)
    assert sizes["thinker experts"].num_tensors == 48 * 128 * 3


def test_the_routers_of_the_real_model_hold_a_row_for_each_expert(checkpoint: Checkpoint, family: Family) -> None:
    sizes = component_sizes(checkpoint, family)
    assert sizes["thinker routers"] == Size(48 * 128 * 2048, 48 * 128 * 2048 * 2, 48)
    assert sizes["talker routers"].num_tensors == 20


@pytest.mark.parametrize(
    ("retention", "layers_cut", "gigabytes"),
    [
        (0.75, 4, 51.16),
        (0.5, 8, 35.30),
        (0.25, 12, 21.86),
        *[
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in ((1.0, 0, 69.44), (1.0, 12, 54.49), (0.5, 0, 40.44), (0.25, 4, 24.58))
        ],
    ],
)
def test_a_candidate_of_the_real_model_has_the_size_that_counting_gives(
    retention: float, layers_cut: int, gigabytes: float, checkpoint: Checkpoint, family: Family
) -> None:
    """Thinker pruned, vision stripped, talker whole; counted without the stub in the vision tower's place."""
    shape = family.shape(checkpoint.config)
    candidate = Candidate(retention=retention, layers_cut=layers_cut, strip_vision=True)
    saliency = saliency_of(shape, fingerprint=checkpoint.fingerprint)
    plan = make_plan(candidate, saliency, shape, BaseModel("real", checkpoint.fingerprint))
    rewrite = plan_rewrite(checkpoint, plan)
    assert round((rewrite.size_bytes - STUB_BYTES) / 1e9, 2) == gigabytes
    assert rewrite.size_bytes == 2 * rewrite.num_parameters
    assert len(rewrite.tensors) + rewrite.num_dropped == NUM_TENSORS + NUM_STUB_TENSORS


def test_pruning_the_talker_too_saves_its_experts(checkpoint: Checkpoint, family: Family, tmp_path: Path) -> None:
    shape = family.shape(checkpoint.config)
    base_model, saliency = (
        BaseModel("real", checkpoint.fingerprint),
        saliency_of(shape, fingerprint=checkpoint.fingerprint),
    )
    plan = make_plan(Candidate(talker_retention=0.5), saliency, shape, base_model)
    saved = checkpoint.num_bytes - plan_rewrite(checkpoint, plan).size_bytes
    assert saved == 2 * 20 * 64 * (1_179_648 + 1_024)  # bytes, layers, experts, an expert and its row of the router
