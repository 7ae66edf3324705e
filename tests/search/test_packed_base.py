"""A search on a base of few bits: what of a space is left, what is refused, and that its candidates are the model's."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_component, saliency_of
from packed import logits
from pages import ROOT

from autoreap.candidate import Candidate
from autoreap.cli import main
from autoreap.data.calibration_config import CalibrationConfig
from autoreap.errors import InputError
from autoreap.masking import masked
from autoreap.models.loading import load, open_model
from autoreap.plan import PruningPlan, Quantisation, load_plan
from autoreap.planning import make_plan
from autoreap.search.packed_base import on_packed_base, packed_base, plan_of_base
from autoreap.search.sampling import check_space
from autoreap.search.space import SpaceConfig, load_space
from autoreap.writing.footprint import Footprint


@pytest.fixture(scope="module")
def space() -> SpaceConfig:
    return load_space(ROOT / "search_spaces" / "tiny.yaml")


def test_what_a_packed_model_can_not_be_given_is_not_searched(
    space: SpaceConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    left = on_packed_base(space)
    check_space(left, replace(open_model("tiny").shape, is_packed=True))
    assert set(space.parameters) - set(left.parameters) == {"heal", "heal_ridge", "bits", "bits_rest", "bits_group"}
    assert left.conditions == {}
    assert "not searched, since the base is packed: heal, heal_ridge, bits" in capsys.readouterr().err
    assert on_packed_base(left) == left


def test_what_depends_on_something_else_still_does(space: SpaceConfig) -> None:
    conditions: dict[str, Any] = {"lambda": {"saliency": ("affinity",), "bits": (4,)}, "beta": {"heal": ("block",)}}
    assert on_packed_base(replace(space, conditions=conditions)).conditions == {"lambda": {"saliency": ("affinity",)}}


@torch.inference_mode()
def test_a_candidate_of_the_base_is_that_of_the_model_at_these_bits(space: SpaceConfig, tmp_path: Path) -> None:
    model_info = open_model("tiny")
    plan = plan_of_base(model_info, 4, space)
    assert plan.bits == Quantisation(experts=4, rest=16, group_size=16)
    assert not plan.strip_vision  # calibration sees
    base = packed_base(model_info, plan, tmp_path)
    assert packed_base(model_info, plan, tmp_path).checkpoint.path == base.checkpoint.path  # is not written again
    component = random_component(model_info.shape.components["thinker"], num_experts=9, layers=(0, 2, 3, 7), seed=0)
    candidate = PruningPlan(model_info.base_model, True, component)
    whole, packed = load(model_info, device="cpu"), load(base, device="cpu", keep_packed=True)
    with masked(whole.model, replace(candidate, bits=plan.bits)):
        expected = logits(whole)
    with masked(packed.model, candidate):
        assert torch.equal(logits(packed), expected)


def test_a_base_that_is_never_shown_anything_is_without_vision(space: SpaceConfig, tmp_path: Path) -> None:
    model_info = open_model("tiny")
    plan = plan_of_base(model_info, 4, replace(space, calibration=CalibrationConfig(space.calibration.audio)))
    assert plan.strip_vision
    base = packed_base(model_info, plan, tmp_path)
    check_space(on_packed_base(space), base.shape)
    sizes = []
    for strip_vision in (False, True):
        candidate = Candidate(layers_cut=1, strip_vision=strip_vision)
        pruned = make_plan(
            candidate, saliency_of(base.shape, fingerprint=base.checkpoint.fingerprint), base.shape, base.base_model
        )
        sizes.append(Footprint.of(base.checkpoint, pruned).size_bytes())
    assert sizes[0] == sizes[1]


def test_what_can_not_be_packed_is_refused(space: SpaceConfig, tmp_path: Path) -> None:
    model_info = open_model("tiny")
    with pytest.raises(InputError, match=r"bits_group: rows of talker.* don't divide into groups of 7"):
        plan_of_base(model_info, 4, replace(space, parameters={"bits_group": 7}))
    base = packed_base(model_info, plan_of_base(model_info, 8, space), tmp_path)
    with pytest.raises(InputError, match=r"--base-bits: .* is quantised already"):
        plan_of_base(base, 4, space)


def test_other_bits_than_eight_and_four_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(ROOT / "search_spaces" / "tiny.yaml"), "--base-bits", "5"]) == 2
    assert re.search("--base-bits.*must be 8 or 4, got 5", capsys.readouterr().err)


@pytest.mark.slow
def test_a_search_on_a_packed_base_ships_what_it_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evals.yaml").write_text(
        "".join(
            f"{split}: [{{task: asr, dataset_path: {ROOT}/evals/tiny/asr_{split}.parquet, limit: 12}}]\n"
            for split in ("search", "report")
        )
    )
    (tmp_path / "space.yaml").write_text(
        f"model: tiny\nevals: evals.yaml\n"
        f"calibration: {{audio: [{{dataset_path: {ROOT}/calibration/tiny/audio.parquet, limit: 8}}]}}\n"
        "parameters: {retention: [0.5, 0.75, 1.0], bits: [8, 4], bits_group: 16, strip_vision: true}\n"
        "margins: {wer: 90}\npresets: []\n"
    )
    command = ["search", "space.yaml", "--base-bits", "4", "--trials", "2"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "stock transformers loads it; all 12 outputs match" in said.out
    (shipped,) = (tmp_path / "mlruns" / "checkpoints").iterdir()
    assert shipped.name.startswith("space-tiny-4-bits-trial-")
    assert open_model(str(shipped)).checkpoint.is_packed
    assert load_plan(shipped / "plan.json").bits is None  # the base has them
    assert main(command) == 0  # resumes
    assert "of this search has its experts at 4 bits" in capsys.readouterr().err
