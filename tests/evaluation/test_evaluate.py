"""Scoring must give what the stock model gives, one utterance at a time; nothing here depends on how good that is."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl, saliency_of, wav_bytes
from PIL import Image

from autoreap.candidate import PRESETS, preset
from autoreap.data.eval_set import open_evals, read_task
from autoreap.data.evals_config import load_evals
from autoreap.data.samples import Sample
from autoreap.data.tasks import task_named
from autoreap.errors import InputError, ScoringError
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import Evaluation, Outcome, load_outcomes
from autoreap.masking import masked
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import ComponentPlan, PruningPlan
from autoreap.planning import make_plan
from autoreap.scores import Counts
from autoreap.tiny_omni import CHECKPOINT

EVALS = as_jsonl("evals/tiny")
ROWS = {"asr": "asr_search", "qa": "qa_search", "caption": "caption_report", "mixed": "mixed_report"}
METRICS = {"asr": "wer", "qa": "accuracy", "caption": "accuracy.caption", "mixed": "accuracy.mixed"}
NUM_ROWS = 3
MAX_NEW_TOKENS = 12
BOUNDED = f"""\
search:
  - {{task: asr, dataset_path: asr.jsonl, doc_to_text: transcribe, max_new_tokens: {MAX_NEW_TOKENS}}}
  - {{task: audio_qa, dataset_path: qa.jsonl, max_new_tokens: {MAX_NEW_TOKENS}}}
  - {{task: audio_qa, label: caption, dataset_path: caption.jsonl, max_new_tokens: {MAX_NEW_TOKENS}}}
  - {{task: audio_qa, label: mixed, dataset_path: mixed.jsonl, max_new_tokens: {MAX_NEW_TOKENS}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows of each kind of the shipped evals."""
    folder = tmp_path_factory.mktemp("evals")
    for name, source in ROWS.items():
        lines = (EVALS / f"{source}.jsonl").read_text().splitlines()[:NUM_ROWS]
        rows = [json.loads(line) for line in lines]
        for row in rows:
            row |= {key: str((EVALS / row[key]).resolve()) for key in ("audio", "image") if key in row}
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluator(loaded: Loaded, folder: Path, text: str, *, split: str = "search", **options: Any) -> Evaluator:
    path = folder / f"{len(list(folder.glob('*.yaml')))}.yaml"
    path.write_text(text)
    evals = open_evals(path)
    return Evaluator(loaded.model, loaded.inputs, evals.search if split == "search" else evals.report, **options)


@pytest.fixture(scope="module")
def bounded(loaded: Loaded, folder: Path) -> Evaluator:
    return evaluator(loaded, folder, BOUNDED, batch_size=4)


@pytest.fixture(scope="module")
def baseline(bounded: Evaluator) -> Evaluation:
    return bounded.run()


@pytest.fixture(scope="module")
def pruned(bounded: Evaluator, baseline: Evaluation, plan: PruningPlan) -> Evaluation:
    return bounded.run(plan)


def rows_of(folder: Path, name: str) -> list[Sample]:
    (folder / "rows.yaml").write_text(BOUNDED)
    config = load_evals(folder / "rows.yaml").splits["search"][list(ROWS).index(name)]
    return read_task(config, folder)


def asked(name: str, sample: Sample) -> str:
    return "transcribe" if name == "asr" else str(sample.question)


@torch.inference_mode()
def stock_tokens(loaded: Loaded, sample: Sample, question: str) -> torch.Tensor:
    """The answer of the stock model, which hears the features themselves, to this sample alone."""
    inputs = loaded.inputs.collate([loaded.inputs.encode(sample, question)])
    assert ("input_features" in inputs) == (sample.audio is not None)
    thinker: Any = loaded.model.thinker
    sequences: torch.Tensor = thinker.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=loaded.inputs.end_token_id,
        pad_token_id=loaded.inputs.pad_token_id,
    )
    return sequences[0, inputs["input_ids"].shape[1] :]


def stock_answers(loaded: Loaded, folder: Path, name: str) -> list[str]:
    samples = rows_of(folder, name)
    return [loaded.inputs.decode(stock_tokens(loaded, sample, asked(name, sample))) for sample in samples]


@pytest.mark.parametrize("name", ROWS)
def test_outputs_equal_stock_generation_one_utterance_at_a_time(
    loaded: Loaded, folder: Path, baseline: Evaluation, name: str
) -> None:
    outcomes = baseline.outcomes[METRICS[name]]
    assert [outcome.output for outcome in outcomes] == stock_answers(loaded, folder, name)


@pytest.mark.parametrize("name", ROWS)
def test_outputs_under_a_plan_equal_stock_generation_of_the_masked_model(
    loaded: Loaded, folder: Path, pruned: Evaluation, plan: PruningPlan, name: str
) -> None:
    outcomes = pruned.outcomes[METRICS[name]]
    with masked(loaded.model, plan):
        assert [outcome.output for outcome in outcomes] == stock_answers(loaded, folder, name)


@pytest.mark.parametrize("name", ROWS)
def test_outcomes_come_in_the_order_of_the_rows_with_the_judgement_of_their_task(
    folder: Path, baseline: Evaluation, name: str
) -> None:
    task = task_named("asr" if name == "asr" else "audio_qa")
    samples, outcomes = rows_of(folder, name), baseline.outcomes[METRICS[name]]
    assert [outcome.id for outcome in outcomes] == [sample.id for sample in samples]
    for sample, outcome in zip(samples, outcomes, strict=True):
        assert outcome.reference == task.reference(sample)
        assert outcome.counts == task.judge(sample, outcome.output)[0]
        assert outcome.language == sample.language


def test_outcomes_do_not_depend_on_the_batch_size(loaded: Loaded, folder: Path) -> None:
    each_bounded_by_its_reference = BOUNDED.replace(f", max_new_tokens: {MAX_NEW_TOKENS}", "")
    one, eight = (evaluator(loaded, folder, each_bounded_by_its_reference, batch_size=size).run() for size in (1, 8))
    assert one.outcomes == eight.outcomes


@pytest.mark.parametrize("batch_size", [1, 2, 8, 64])
@pytest.mark.slow
def test_outcomes_under_a_plan_do_not_depend_on_the_batch_size_nor_on_who_drafted(
    loaded: Loaded, folder: Path, pruned: Evaluation, plan: PruningPlan, batch_size: int
) -> None:
    fresh = evaluator(loaded, folder, BOUNDED, batch_size=batch_size)
    assert fresh.run(plan).outcomes == pruned.outcomes  # drafted from the references
    fresh.run()
    assert fresh.run(plan).outcomes == pruned.outcomes  # drafted from the baseline's answers


@pytest.mark.parametrize("draft", ["", "one", "x " * 40, "transcribe this, and then answer", "<answer>"])
def test_outcomes_do_not_depend_on_the_drafts(
    loaded: Loaded, folder: Path, pruned: Evaluation, plan: PruningPlan, draft: str
) -> None:
    fresh = evaluator(loaded, folder, BOUNDED, batch_size=8)
    fresh.draft_from(
        {name: [replace(outcome, output=draft) for outcome in listed] for name, listed in pruned.outcomes.items()}
    )
    assert fresh.run(plan).outcomes == pruned.outcomes


@pytest.mark.parametrize("drafted_from", ["references", "own answers", "the plan's answers"])
@pytest.mark.slow
def test_answers_that_never_end_run_to_their_bound_as_those_of_stock_do(
    loaded: Loaded, folder: Path, plan: PruningPlan, drafted_from: str
) -> None:
    """With one expert in each layer hardly an answer ends."""
    experts = tuple((layer % 2,) for layer in range(len(plan.thinker.experts)))
    narrow = replace(plan, thinker=replace(plan.thinker, experts=experts))
    fresh = evaluator(loaded, folder, BOUNDED, batch_size=3)
    if drafted_from == "own answers":
        fresh.run()
    if drafted_from == "the plan's answers":
        fresh.draft_from(fresh.run(narrow).outcomes)
    outcomes = fresh.run(narrow).outcomes["wer"]
    assert any(outcome.failed for outcome in outcomes)
    with masked(loaded.model, narrow):
        assert [outcome.output for outcome in outcomes] == stock_answers(loaded, folder, "asr")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.slow
def test_outputs_under_a_preset_equal_stock_generation_of_the_masked_model(
    loaded: Loaded, folder: Path, name: str
) -> None:
    """Measured at random, so that the presets change the answers."""
    shape = loaded.model_info.shape
    base_model = loaded.model_info.base_model
    saliency = saliency_of(shape, fingerprint=base_model.fingerprint)
    candidate = preset(name, shape.components["thinker"].num_layers)
    plan = make_plan(candidate, saliency, shape, base_model)
    heard = "\n".join(BOUNDED.splitlines()[:3])  # a preset strips vision
    fresh = evaluator(loaded, folder, heard, batch_size=4)
    fresh.run()
    outcomes = fresh.run(plan).outcomes
    for task in ("asr", "qa"):
        with masked(loaded.model, plan):
            assert [outcome.output for outcome in outcomes[METRICS[task]]] == stock_answers(loaded, folder, task)


def test_a_masked_evaluation_leaves_the_baselines_outcomes_as_they_were(
    bounded: Evaluator, baseline: Evaluation, pruned: Evaluation, plan: PruningPlan
) -> None:
    assert pruned.outcomes != baseline.outcomes
    assert bounded.run().outcomes == baseline.outcomes
    assert bounded.run(plan).outcomes == pruned.outcomes


def test_a_plan_that_keeps_everything_gives_the_baselines_outcomes(
    loaded: Loaded, bounded: Evaluator, baseline: Evaluation
) -> None:
    keep_all = ComponentPlan.identity(loaded.model_info.shape.components["thinker"])
    identity = PruningPlan(loaded.model_info.base_model, False, keep_all)
    assert bounded.run(identity).outcomes == baseline.outcomes


def test_penalties_in_a_checkpoints_generation_config_change_nothing_here_as_they_do_not_in_the_stock_model(
    loaded: Loaded, folder: Path, baseline: Evaluation, tmp_path: Path
) -> None:
    """The stock class reads the file for the whole model; its thinker, which writes the text, never sees it."""
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    penalties = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "suppress_tokens": [1, 2, 3]}
    path.write_text(json.dumps(json.loads(path.read_text()) | penalties))
    penalised = load(open_model(str(tmp_path / "model")))
    assert penalised.model.generation_config.repetition_penalty == 9.0
    outcomes = evaluator(penalised, folder, BOUNDED).run().outcomes
    assert outcomes == baseline.outcomes
    for sample, outcome in zip(rows_of(folder, "asr"), outcomes["wer"], strict=True):
        inputs = penalised.inputs.collate([penalised.inputs.encode(sample, "transcribe")])
        bounds = {"thinker_max_new_tokens": MAX_NEW_TOKENS, "thinker_eos_token_id": penalised.inputs.end_token_id}
        sequences: Any = penalised.model.generate(**inputs, return_audio=False, thinker_do_sample=False, **bounds)
        assert penalised.inputs.decode(sequences[0, inputs["input_ids"].shape[1] :]) == outcome.output


def test_an_image_task_under_a_plan_without_vision_is_refused_and_the_model_sees_again_afterwards(
    loaded: Loaded, bounded: Evaluator, baseline: Evaluation, plan: PruningPlan
) -> None:
    blind = PruningPlan(plan.base_model, True, plan.thinker)
    with pytest.raises(InputError, match="vision was stripped"):
        bounded.run(blind)
    assert bounded.run().outcomes == baseline.outcomes


def test_an_answer_cut_by_its_bound_has_failed_and_one_that_ended_has_not(loaded: Loaded, folder: Path) -> None:
    text = "search:\n  - {task: asr, dataset_path: asr.jsonl, doc_to_text: transcribe, max_new_tokens: 1}\n"
    outcomes = evaluator(loaded, folder, text).run().outcomes["wer"]
    first_tokens = [int(stock_tokens(loaded, sample, "transcribe")[0]) for sample in rows_of(folder, "asr")]
    assert [outcome.failed for outcome in outcomes] == [token != loaded.inputs.end_token_id for token in first_tokens]
    assert any(outcome.failed for outcome in outcomes)


def test_each_metric_has_its_score_with_interval_and_counts(baseline: Evaluation) -> None:
    metrics = baseline.metrics()
    assert list(metrics) == list(METRICS.values())
    for measured in metrics.values():
        assert measured.low <= measured.value <= measured.high
        assert measured.numerator is not None
        assert measured.denominator is not None
        assert measured.value == measured.numerator / measured.denominator
        assert measured.num_samples == NUM_ROWS
    assert baseline.seconds > 0


def test_a_limit_scores_the_first_rows_alone(loaded: Loaded, folder: Path, baseline: Evaluation) -> None:
    outcomes = evaluator(loaded, folder, BOUNDED.replace("asr.jsonl", "asr.jsonl, limit: 2")).run().outcomes
    assert outcomes["wer"] == baseline.outcomes["wer"][:2]


def test_the_splits_are_scored_apart(loaded: Loaded, folder: Path) -> None:
    text = (
        "search: [{task: asr, dataset_path: asr.jsonl}]\nreport: [{task: audio_qa, dataset_path: qa.jsonl, limit: 1}]\n"
    )
    assert list(evaluator(loaded, folder, text, split="report").run().outcomes) == ["accuracy"]


def test_a_split_without_tasks_is_refused_with_its_file(loaded: Loaded, folder: Path) -> None:
    with pytest.raises(InputError, match=r"\.yaml: split 'report' has no tasks"):
        evaluator(loaded, folder, BOUNDED, split="report")


def test_a_row_without_what_its_task_needs_is_refused_with_its_place(loaded: Loaded, folder: Path) -> None:
    write_rows(folder / "silent.jsonl", [{"id": "a", "text": "one"}])
    with pytest.raises(InputError, match=r"silent\.jsonl:1: key 'audio' is missing"):
        evaluator(loaded, folder, "search: [{task: asr, dataset_path: silent.jsonl}]")


def test_outcomes_are_read_back_as_they_were_saved(baseline: Evaluation, tmp_path: Path) -> None:
    baseline.save_outcomes(tmp_path / "new" / "outcomes.jsonl")
    assert load_outcomes(tmp_path / "new" / "outcomes.jsonl") == baseline.outcomes


@pytest.mark.parametrize("output", ["", "two\nlines", "a line\u2028separator", "next\x85line", 'a "quote" \\', "你好"])
def test_any_text_survives_saving(output: str, tmp_path: Path) -> None:
    outcomes = {"wer": (Outcome("a", output, "one", Counts(1, 1), True), Outcome("b", "", "one", Counts(0, 1), False))}
    Evaluation(outcomes, 0.0).save_outcomes(tmp_path / "outcomes.jsonl")
    assert load_outcomes(tmp_path / "outcomes.jsonl") == outcomes


def test_nothing_scored_is_an_error_and_not_a_perfect_score() -> None:
    with pytest.raises(ScoringError, match="nothing was scored"):
        Evaluation({"wer": ()}, 0.0).metrics()


# ---------------------------------------------------------------- splits


def splits(folder: Path, search: Mapping[str, Any], report: Mapping[str, Any], *, task: str = "asr") -> Path:
    """An evals file of one row in each split."""
    write_rows(folder / "search.jsonl", [search])
    write_rows(folder / "report.jsonl", [report])
    path = folder / "evals.yaml"
    path.write_text(
        f"search: [{{task: asr, dataset_path: search.jsonl}}]\nreport: [{{task: {task}, dataset_path: report.jsonl}}]\n"
    )
    return path


def test_one_recording_in_both_splits_under_two_names_is_refused_naming_both_rows(tmp_path: Path) -> None:
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).write_bytes(wav_bytes())
    evals = splits(
        tmp_path,
        {"id": "a", "audio": "one.wav", "text": "one"},
        {"id": "b", "audio": "two.wav", "text": "two"},
    )
    with pytest.raises(InputError) as caught:
        open_evals(evals).check_splits_apart()
    assert str(caught.value).startswith(f"{tmp_path}/report.jsonl:1: is in the search split too")
    assert f"{tmp_path}/search.jsonl:1" in str(caught.value)


def test_a_recording_of_the_search_split_beside_a_picture_in_the_report_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.wav").write_bytes(wav_bytes())
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    question = {"question": "first word", "answer": "one"}
    evals = splits(
        tmp_path,
        {"id": "a", "audio": "one.wav", "text": "one"},
        {"id": "b", "audio": "one.wav", "image": "black.png", **question},
        task="audio_qa",
    )
    with pytest.raises(InputError, match="is in the search split too"):
        open_evals(evals).check_splits_apart()


def test_different_recordings_may_have_the_same_words(tmp_path: Path) -> None:
    for name, num_samples in (("one.wav", 1600), ("two.wav", 1700)):
        (tmp_path / name).write_bytes(wav_bytes(num_samples))
    evals = splits(
        tmp_path,
        {"id": "a", "audio": "one.wav", "text": "one"},
        {"id": "a", "audio": "two.wav", "text": "one"},
    )
    open_evals(evals).check_splits_apart()


def test_questions_without_media_in_both_splits_are_no_recording_in_common(tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "one and one?", "answer": "two"}, {"id": "b", "question": "why?", "answer": "so"}]
    for name, row in zip(("search", "report"), rows, strict=True):
        write_rows(tmp_path / f"{name}.jsonl", [row])
    (tmp_path / "evals.yaml").write_text(
        "search: [{task: audio_qa, dataset_path: search.jsonl}]\nreport: [{task: audio_qa, dataset_path: report.jsonl}]"
    )
    open_evals(tmp_path / "evals.yaml").check_splits_apart()
