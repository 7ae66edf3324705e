import math
import re
from pathlib import Path

import pytest
from builders import saliency_of, write_sparse_checkpoint
from pages import ROOT
from random_models import real_config

from autoreap.candidate import Candidate
from autoreap.models.checkpoint import Checkpoint, open_checkpoint
from autoreap.models.families import family_of
from autoreap.models.families.layout import CheckpointLayout
from autoreap.plan import BaseModel
from autoreap.planning import make_plan
from autoreap.writing.rewrite import plan_rewrite
from autoreap.writing.sizes import Size, component_sizes

# Qwen3-Omni-30B-A3B-Instruct in bf16, as published.
NUM_PARAMETERS, NUM_TENSORS = 35_259_818_545, 28_010
STUB_BYTES, NUM_STUB_TENSORS = 2 * 863_296, 21


@pytest.fixture(scope="module")
def layout() -> CheckpointLayout:
    return family_of(real_config()).layout


@pytest.fixture(scope="module")
def checkpoint(layout: CheckpointLayout, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The real model's headers, at full length."""
    config = real_config()
    folder = tmp_path_factory.mktemp("real")
    return open_checkpoint(write_sparse_checkpoint(folder, config, layout.expected_tensors(config), num_shards=15))


@pytest.mark.slow
def test_the_stock_class_expects_the_tensors_of_the_published_checkpoint(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.tensors) == NUM_TENSORS
    assert sum(tensor.num_parameters for tensor in checkpoint.tensors.values()) == NUM_PARAMETERS
    assert checkpoint.num_bytes == 2 * NUM_PARAMETERS


def test_the_parts_of_the_real_model_have_their_known_sizes(checkpoint: Checkpoint, layout: CheckpointLayout) -> None:
    sizes = component_sizes(checkpoint.tensors.values(), layout)
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


def test_the_routers_of_the_real_model_hold_a_row_for_each_expert(
    checkpoint: Checkpoint, layout: CheckpointLayout
) -> None:
    sizes = component_sizes(checkpoint.tensors.values(), layout)
    assert sizes["thinker routers"] == Size(48 * 128 * 2048, 48 * 128 * 2048 * 2, 48)
    assert sizes["talker routers"].num_tensors == 20


GIGABYTES = {  # (retention, layers cut): the thinker alone, and with the full talker; vision stripped
    (1.0, 0): (62.36, 69.44), (1.0, 4): (57.38, 64.46), (1.0, 8): (52.39, 59.47), (1.0, 12): (47.41, 54.49),
    (0.75, 0): (47.86, 54.94), (0.75, 4): (44.08, 51.16), (0.75, 8): (40.31, 47.39), (0.75, 12): (36.53, 43.61),
    (0.5, 0): (33.36, 40.44), (0.5, 4): (30.79, 37.87), (0.5, 8): (28.22, 35.30), (0.5, 12): (25.65, 32.73),
    (0.25, 0): (18.86, 25.94), (0.25, 4): (17.50, 24.58), (0.25, 8): (16.14, 23.22), (0.25, 12): (14.78, 21.86),
}  # fmt: skip
QUICK = ((0.75, 4), (0.5, 8), (0.25, 12))


@pytest.mark.parametrize(
    ("retention", "layers_cut"),
    [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in GIGABYTES],
)
def test_a_candidate_of_the_real_model_has_the_size_that_counting_gives(
    retention: float, layers_cut: int, checkpoint: Checkpoint, layout: CheckpointLayout
) -> None:
    """Counted without the stub in the vision tower's place, which is under 2 MB."""
    shape = layout.shape(checkpoint.config)
    saliency = saliency_of(shape, fingerprint=checkpoint.fingerprint)
    base_model = BaseModel("real", checkpoint.fingerprint)
    for drop_speech, gigabytes in zip((True, False), GIGABYTES[retention, layers_cut], strict=True):
        candidate = Candidate(retention=retention, layers_cut=layers_cut, strip_vision=True, drop_speech=drop_speech)
        rewrite = plan_rewrite(checkpoint, make_plan(candidate, saliency, shape, base_model))
        assert round((rewrite.size_bytes - STUB_BYTES) / 1e9, 2) == gigabytes
        assert rewrite.size_bytes == 2 * rewrite.num_parameters
        assert len(rewrite.tensors) + rewrite.num_dropped == NUM_TENSORS + NUM_STUB_TENSORS


def test_the_stub_in_the_place_of_vision_is_what_the_stock_class_builds(
    checkpoint: Checkpoint, layout: CheckpointLayout
) -> None:
    shape = layout.shape(checkpoint.config)
    plan = make_plan(Candidate(strip_vision=True), None, shape, BaseModel("real", checkpoint.fingerprint))
    rewrite = plan_rewrite(checkpoint, plan)
    stub = {tensor.name: tensor.shape for tensor in rewrite.tensors if tensor.name.startswith("thinker.visual.")}
    expected = layout.expected_tensors(rewrite.config)
    assert stub == {name: size for name, size in expected.items() if name.startswith("thinker.visual.")}
    assert 2 * sum(math.prod(size) for size in stub.values()) == STUB_BYTES < 2_000_000
    assert len(stub) == NUM_STUB_TENSORS


def test_pruning_the_talker_too_saves_its_experts(
    checkpoint: Checkpoint, layout: CheckpointLayout, tmp_path: Path
) -> None:
    shape = layout.shape(checkpoint.config)
    base_model, saliency = (
        BaseModel("real", checkpoint.fingerprint),
        saliency_of(shape, fingerprint=checkpoint.fingerprint),
    )
    plan = make_plan(Candidate(talker_retention=0.5), saliency, shape, base_model)
    saved = checkpoint.num_bytes - plan_rewrite(checkpoint, plan).size_bytes
    assert saved == 2 * 20 * 64 * (1_179_648 + 1_024)  # bytes, layers, experts, an expert and its row of the router


def test_the_documentation_shows_these_sizes() -> None:
    page = (ROOT / "docs/overnight.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) GB \| ([\d.]+) GB \|$", page, re.MULTILINE)
    shown = {(int(kept) / 128, int(cut)): (float(alone), float(voiced)) for kept, cut, alone, voiced in rows}
    assert shown.items() <= GIGABYTES.items()
    assert len(shown) == 4
