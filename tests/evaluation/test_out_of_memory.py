"""Memory that runs out wherever a candidate takes some of it: in the decoder, in the model's forward, under the mask.

Where it is one request that is too large, the answers are those of an undisturbed run, or the candidate fails alone.
Where memory stays full until the candidate has failed, the model is as it was.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from full_memory import Memory
from pages import ROOT
from virtual_device import VirtualDevice

from autoreap.candidate import Candidate
from autoreap.data.eval_set import open_evals
from autoreap.evaluation.draft_limits import Limits
from autoreap.evaluation.evaluator import Evaluator
from autoreap.healing.healer import Healer
from autoreap.jobs import measure_saliency, read_calibration
from autoreap.models.faults import is_out_of_memory
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan

pytestmark = pytest.mark.slow

NUM_ROWS = 6
LIMITS = Limits(rows=3, pool_columns=200)


@pytest.fixture(scope="module")
def plan(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> PruningPlan:
    """Healed, quantised, with a layer less: every mask takes memory."""
    files = {modality: ROOT / f"calibration/tiny/{modality}.parquet" for modality in ("audio", "mixed")}
    data = {modality: rows[:NUM_ROWS] for modality, rows in read_calibration(files).items()}
    values: dict[str, Any] = {"heal": "stream", "heal_ridge": 0.01, "bits": 8, "bits_rest": 8, "bits_group": 16}
    candidate = Candidate(retention=0.3125, layers_cut=1, **values)
    saliency = measure_saliency(loaded, data)
    plan = make_plan(candidate, saliency, loaded.model_info.shape, loaded.model_info.base_model)
    return Healer(loaded, data, tmp_path_factory.mktemp("streams")).fit(plan)


@pytest.fixture(scope="module")
def evaluator(loaded: Loaded) -> Evaluator:
    return few_rows(loaded)


def few_rows(loaded: Loaded) -> Evaluator:
    """Of rows that are heard, and of rows with pictures; few go through the model together."""
    evals = open_evals(ROOT / "evals/tiny.yaml").search
    tasks = [task for task in evals.tasks if task.metric in ("wer", "accuracy.mixed")]
    tasks = [replace(task, samples=task.samples[:NUM_ROWS]) for task in tasks]
    evaluator = Evaluator(loaded.model, loaded.inputs, replace(evals, tasks=tuple(tasks)), batch_size=LIMITS.rows)
    evaluator.run()
    return evaluator


def bits_of(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def assert_unchanged(loaded: Loaded, before: Mapping[str, torch.Tensor], where: str) -> None:
    after = loaded.model.state_dict()
    assert after.keys() == before.keys(), where
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items()), where


def run_with(memory: Memory, evaluator: Evaluator, plan: PruningPlan) -> Mapping[str, Any] | None:
    """The answers of the candidate; None where it fails for want of memory."""
    evaluator._decoder.limits = LIMITS
    try:
        with memory:
            return evaluator.run(plan).outcomes
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def test_memory_that_runs_out_anywhere_costs_no_answer_or_the_candidate_alone(
    loaded: Loaded, evaluator: Evaluator, plan: PruningPlan
) -> None:
    """One request of each line is refused, and of some lines all that follow, too."""
    unpruned, before = evaluator.run().outcomes, bits_of(loaded)
    memory = Memory()
    expected = run_with(memory, evaluator, plan)
    rng = random.Random(0)
    num_equal = 0
    for place, (line, numbers) in enumerate(memory.requests.items()):
        outcomes = run_with(Memory(rng.choice(numbers)), evaluator, plan)
        assert outcomes in (None, expected), line
        num_equal += outcomes is not None
        if place % 8 == 0:
            assert run_with(Memory(rng.choice(numbers), stays_full=True), evaluator, plan) in (None, expected), line
        assert_unchanged(loaded, before, line)
    assert num_equal > len(memory.requests) / 2
    evaluator._decoder.limits = LIMITS
    assert evaluator.run().outcomes == unpruned


@pytest.mark.parametrize("line", ["dimensions/healed.py", "models/qwen3_omni_moe", "evaluation/draft_pools.py"])
def test_a_device_that_stays_full_gets_its_own_weights_back(
    plan: PruningPlan, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """What is copied to it and back must need no memory there, for none may be left."""
    with VirtualDevice().present(monkeypatch):
        loaded = load(open_model("tiny"), device="cuda", dtype="float32")
        evaluator, before = few_rows(loaded), bits_of(loaded)
        memory = Memory()
        assert run_with(memory, evaluator, plan) is not None
        numbers = [number for name, asked in memory.requests.items() if name.startswith(line) for number in asked]
        assert run_with(Memory(numbers[len(numbers) // 2], stays_full=True), evaluator, plan) is None
        assert_unchanged(loaded, before, line)
