"""Ray actors that score: their results are those of this process, and what a dead one was scoring is scored again."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import as_jsonl, copy_rows, parse, random_component
from pages import ROOT

from autoreap.data.eval_set import open_evals
from autoreap.errors import DeviceLostError, InputError
from autoreap.models.loading import load, open_model
from autoreap.plan import PruningPlan
from autoreap.search.scorers import Job, RayPool, Scorer, ScorerSetup, make_scorer
from autoreap.search.study import code_digest

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoreap[ray]'")

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray of two processors."""
    settings = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 100 * 2**20}
    ray.init("local", num_cpus=2, num_gpus=0, **settings)
    yield
    ray.shutdown()


@pytest.fixture
def setup(tmp_path: Path) -> ScorerSetup:
    copy_rows(as_jsonl("evals/tiny") / "asr_search.jsonl", tmp_path / "asr_search.jsonl", 6)
    (tmp_path / "evals.yaml").write_text("search: [{task: asr, dataset_path: asr_search.jsonl}]\n")
    return ScorerSetup("tiny", tmp_path / "evals.yaml", {"wer": "minimize"}, ("wer",), batch_size=2)


def half() -> PruningPlan:
    model_info = open_model("tiny")
    shape = model_info.shape.components["thinker"]
    thinker = random_component(shape, num_experts=shape.num_experts // 2, layers=tuple(range(shape.num_layers)))
    return PruningPlan(model_info.base_model, False, thinker)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_actors_score_as_this_process_does_and_the_job_of_a_dead_one_is_scored_again(setup: ScorerSetup) -> None:
    looks: list[int] = []
    pool = RayPool(setup, 2, check=lambda: looks.append(1))
    assert (pool.where, pool.batch_size, pool.num_answers) == ("cpu, float32", 2, 6)
    local = make_scorer(load(open_model("tiny")), setup, open_evals(setup.evals).search)
    baseline = local.score(Job("baseline", None, {})).evaluation
    assert baseline is not None
    local.draft_from(baseline.outcomes)
    pool.start(Job("baseline", None, {}))
    job, found = pool.wait()
    assert found.evaluation is not None
    assert (job.key, found.evaluation.outcomes) == ("baseline", baseline.outcomes)
    pool.draft_from(baseline.outcomes)

    expected = local.score(Job(0, half(), {})).evaluation
    assert expected is not None
    while len(pool._idle) < 2:  # what a look finds of a job that runs already would be lost here
        pool._look()
    for number in (0, 1):
        pool.start(Job(number, half(), {}))
    scorer, _ = next(iter(pool._running.values()))
    ray.kill(scorer, no_restart=False)
    results = {job.key: result for job, result in (pool.wait() for _ in range(2))}
    assert set(results) == {0, 1}
    for result in results.values():
        assert result.evaluation is not None
        assert result.evaluation.outcomes == expected.outcomes
    assert looks
    pool.close()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_an_actor_refuses_is_said_here(setup: ScorerSetup) -> None:
    missing = ScorerSetup("no/such/model", setup.evals, setup.objectives, setup.metrics)
    with pytest.raises(InputError, match="no/such/model"):
        RayPool(missing, 1, check=lambda: None)


def test_a_candidate_that_fails_is_a_result_with_its_reason(setup: ScorerSetup) -> None:
    local = make_scorer(load(open_model("tiny")), setup, open_evals(setup.evals).search)
    plan = half()
    broken = PruningPlan(plan.base_model, False, random_component_of_another_model())
    result = local.score(Job(0, broken, {}))
    assert result.evaluation is None
    assert (result.error or "").startswith("InputError: plan: ")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=str,
)
def test_full_memory_fails_a_candidate_with_one_kind_of_error(setup: ScorerSetup, error: Exception) -> None:
    local = scorer_that_meets(error, setup)
    result = local.score(Job(0, None, {}))
    assert (result.error or "").startswith("OutOfMemoryError: memory is too small for a single prompt of ")


def test_a_device_that_is_lost_is_no_result_of_the_candidate(setup: ScorerSetup) -> None:
    local = scorer_that_meets(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), setup)
    with pytest.raises(DeviceLostError, match="the device is lost to this process: CUDA error: an illegal memory"):
        local.score(Job(0, None, {}))


def scorer_that_meets(error: Exception, setup: ScorerSetup) -> Scorer:
    loaded = load(open_model("tiny"))
    local = make_scorer(loaded, setup, open_evals(setup.evals).search)

    def fail(*_arguments: Any) -> None:
        raise error

    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    decoder.layers[-1].register_forward_pre_hook(fail)
    return local


def random_component_of_another_model() -> Any:
    shape = open_model("tiny").shape.components["thinker"]
    component = random_component(shape, num_experts=2, layers=(0, 1))
    return type(component)(experts=component.experts[:3], layers=(0, 1))


def test_the_code_digest_names_the_version() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest().rpartition("-")[2]) == 12


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.sbatch")), ids=lambda path: path.name)
def test_the_files_to_copy_for_slurm_are_shell_scripts(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize("path", sorted(DOCS.rglob("kubernetes/*.yaml")), ids=lambda path: path.name)
def test_the_files_to_copy_for_kubernetes_name_kinds_and_real_options(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata"} <= document.keys()
        if document["kind"] == "RayJob":
            words = document["spec"]["entrypoint"].split()
            assert words[0] == "autoreap"
            assert parse(words[1:])["workers"] > 1
