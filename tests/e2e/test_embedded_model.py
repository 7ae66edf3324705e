"""What the embedded model and its data promise to those who build on them."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from pages import ROOT
from transformers import Qwen3OmniMoeForConditionalGeneration

from autoreap import jobs
from autoreap.candidate import Candidate
from autoreap.data.eval_set import open_evals
from autoreap.evaluation.evaluator import Evaluator
from autoreap.models.loading import load, open_model
from autoreap.planning import make_plan
from autoreap.tiny_omni import CHECKPOINT

FOLDERS = (ROOT / "calibration" / "tiny", ROOT / "evals" / "tiny")


def test_it_is_small_and_loads_in_the_stock_class_with_nothing_missing() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 8_000_000
    model, info = Qwen3OmniMoeForConditionalGeneration.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.bfloat16


def test_the_data_is_small_and_its_manifests_are_true() -> None:
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir()) <= 10_000_000
    for folder in FOLDERS:
        files = json.loads((folder / "MANIFEST.json").read_text())["files"]
        for entry in files:
            assert hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest() == entry["sha256"], entry["path"]
        assert {path.name for path in folder.glob("*.parquet")} == {entry["path"] for entry in files}


def test_no_sentence_is_in_two_of_calibration_search_and_report() -> None:
    def texts(path: Path, **filters: str) -> set[str]:
        kept = [(column, "=", value) for column, value in filters.items()] or None
        return set(pyarrow.parquet.read_table(path, columns=["text"], filters=kept)["text"].to_pylist())

    evals = ROOT / "evals" / "tiny"
    search, report = (
        set().union(*(texts(path) for path in evals.glob(f"asr*{split}.parquet"))) for split in ("search", "report")
    )
    transcribed = texts(ROOT / "calibration/tiny/audio.parquet", question="transcribe")
    assert len(search) >= 200
    assert len(report) >= 200
    assert len(transcribed) >= 50
    assert not search & report
    assert not (search | report) & transcribed


@pytest.mark.slow
def test_it_hears_answers_and_sees_what_it_was_never_shown() -> None:
    evals = open_evals(ROOT / "evals" / "tiny.yaml").report
    loaded = load(open_model("tiny"))
    evaluation = Evaluator(loaded.model, loaded.inputs, evals, batch_size=64).run()
    scores = evaluation.metrics()
    bounds = {"wer": 0.03, "wer.voices": 0.08, "wer.noisy": 0.08}
    assert {name for name, bound in bounds.items() if scores[name].value > bound} == set()
    least = {"accuracy": 0.85, "accuracy.caption": 0.85, "accuracy.mixed": 0.75}
    assert {name for name, bound in least.items() if scores[name].value < bound} == set()


@pytest.mark.slow
def test_its_experts_matter_and_affinity_finds_those_that_do() -> None:
    evals = open_evals(ROOT / "evals" / "tiny.yaml").search.without(["accuracy"])  # experts are judged by what is heard
    loaded = load(open_model("tiny"))
    files = {modality: ROOT / f"calibration/tiny/{modality}.parquet" for modality in ("audio", "video", "mixed")}
    saliency = jobs.calibrated(loaded, jobs.read_calibration(files))
    evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=64)

    def wer(retention: float, ranking: str) -> float:
        candidate = Candidate(retention=retention, saliency=ranking)
        plan = make_plan(candidate, saliency, loaded.model_info.shape, loaded.model_info.base_model)
        return evaluator.run(plan).metrics()["wer"].value

    unpruned = evaluator.run().metrics()["wer"].value
    assert wer(0.5, "affinity") - unpruned < 0.01
    assert wer(0.375, "affinity") - unpruned < (wer(0.375, "random") - unpruned) / 3
