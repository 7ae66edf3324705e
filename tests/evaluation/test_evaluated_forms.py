"""A model is scored the same in every form: whole, under a plan, materialised, without speech, thinker alone."""

import json
import shutil
from pathlib import Path

import pytest
from builders import as_jsonl, random_component

from autoreap import cli
from autoreap.evaluation.outcomes import Outcome, load_outcomes
from autoreap.models.loading import load, open_model
from autoreap.plan import PruningPlan
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing.materialiser import materialise
from autoreap.writing.verification import Verified

EVALS = as_jsonl("evals/tiny")
Answers = dict[str, tuple[Outcome, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows; the embedded model's thinker saved alone, with the files beside its weights."""
    folder = tmp_path_factory.mktemp("forms")
    rows = [json.loads(line) for line in (EVALS / "asr_search.jsonl").read_text().splitlines()[:4]]
    for row in rows:
        row["audio"] = str((EVALS / row["audio"]).resolve())
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evals.yaml").write_text("search: [{task: asr, dataset_path: rows.jsonl, doc_to_text: transcribe}]")
    shutil.copytree(CHECKPOINT, folder / "thinker", ignore=shutil.ignore_patterns("model*", "config.json"))
    loaded = load(open_model("tiny"))
    loaded.model_info.family.running.thinker(loaded.model).save_pretrained(folder / "thinker")
    return folder


def answers(folder: Path, model: str, plan: PruningPlan | None = None) -> Answers:
    """What `autoreap evaluate` writes."""
    arguments = ["evaluate", model, "--evals", str(folder / "evals.yaml"), "--outcomes", str(folder / "out.jsonl")]
    if plan:
        plan.save(folder / "plan.json")
        arguments += ["--plan", str(folder / "plan.json")]
    assert cli.main(arguments) == 0
    return load_outcomes(folder / "out.jsonl")


def half_of(model: str, *, drop_speech: bool = False) -> PruningPlan:
    model_info = open_model(model)
    thinker = random_component(model_info.shape.components["thinker"], num_experts=8, layers=(0, 1, 2, 4, 5, 6, 7))
    return PruningPlan(model_info.base_model, True, thinker, drop_speech=drop_speech)


def test_a_thinker_saved_alone_answers_as_the_whole_model_does(folder: Path) -> None:
    assert answers(folder, str(folder / "thinker")) == answers(folder, "tiny")


@pytest.mark.parametrize("form", ["whole", "without speech", "thinker alone"])
@pytest.mark.slow
def test_what_a_plan_leaves_answers_as_the_masked_model_did(folder: Path, tmp_path: Path, form: str) -> None:
    model = str(folder / "thinker") if form == "thinker alone" else "tiny"
    plan = half_of(model, drop_speech=form == "without speech")
    masked = answers(folder, model, plan)
    materialise(
        open_model(model).checkpoint.path, plan, tmp_path / "pruned", behaviour=lambda _: Verified(None, "not asked")
    )
    assert answers(folder, str(tmp_path / "pruned")) == masked
    assert masked != answers(folder, model)
