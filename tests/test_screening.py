"""The likelihood of references: that of the stock model, on rows that are the same for every candidate."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl

from autoreap.config.evals import load_evals
from autoreap.described import Loaded
from autoreap.errors import ScoringError
from autoreap.evaluate import Evaluator
from autoreap.masking import masked
from autoreap.media.samples import Sample
from autoreap.plan import PruningPlan
from autoreap.scoring.screening import screened

DATA = as_jsonl("evals/tiny")
NUM_ROWS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evals")
    for task in ("asr", "qa"):
        listed = [json.loads(line) for line in (DATA / f"{task}_search.jsonl").read_text().splitlines()]
        rows = [row for row in listed if "audio" in row][:NUM_ROWS]
        lines = [json.dumps({**row, "audio": str((DATA / row["audio"]).resolve())}) + "\n" for row in rows]
        (folder / f"{task}.jsonl").write_text("".join(lines))
    text = "search: [{task: asr, dataset_path: asr.jsonl}, {task: audio_qa, dataset_path: qa.jsonl}]\n"
    (folder / "evals.yaml").write_text(text)
    return folder


def evaluator(loaded: Loaded, folder: Path, **options: Any) -> Evaluator:
    return Evaluator(loaded.model, loaded.inputs, load_evals(folder / "evals.yaml"), **options)


@torch.inference_mode()
def stock_nats(loaded: Loaded, folder: Path, task: str, numbers: list[int]) -> tuple[float, int]:
    """From the logits of the stock model, which hears the features itself; one row at a time."""
    rows = [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()]
    nats, num_tokens = 0.0, 0
    for row in (rows[number] for number in numbers):
        sample = Sample(id=row["id"], where="here", audio=Path(row["audio"]))
        question = row.get("question", "Transcribe the audio into text.")
        encoded = loaded.inputs.encode(sample, question, row["text"] if task == "asr" else row["answer"])
        thinker: Any = loaded.model.thinker
        logits = thinker(**loaded.inputs.collate([encoded])).logits[0].log_softmax(dim=-1)
        answer = range(encoded.num_prompt_tokens, len(encoded.input_ids))
        nats -= sum(float(logits[place - 1, encoded.input_ids[place]]) for place in answer)
        num_tokens += len(answer)
    return nats, num_tokens


class StoppedError(Exception):
    """What a check raises."""


@pytest.mark.parametrize(("ends", "at"), [("screen", 3), ("run", 1)])
def test_a_check_can_end_a_pass_between_two_batches_and_leaves_no_mask(
    loaded: Loaded, folder: Path, plan: PruningPlan, ends: str, at: int
) -> None:
    passed: list[int] = []

    def check() -> None:
        passed.append(len(passed))
        if len(passed) == at:
            raise StoppedError

    stopped = evaluator(loaded, folder, batch_size=1, check=check)
    stopped.run()  # its answers are the drafts from here on, so that references need a pass of their own
    before = evaluator(loaded, folder).screen(None)
    with pytest.raises(StoppedError):
        stopped.screen(plan, 1.0) if ends == "screen" else stopped.run(plan, likelihoods=True)
    assert len(passed) == at
    assert evaluator(loaded, folder).screen(None) == before


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_score_is_what_the_stock_models_logits_say(
    loaded: Loaded, folder: Path, plan: PruningPlan, is_masked: bool, batch_size: int
) -> None:
    scores = evaluator(loaded, folder, batch_size=batch_size).screen(plan if is_masked else None, 1.0)
    assert list(scores) == ["wer", "accuracy"]
    for task, metric in (("asr", "wer"), ("qa", "accuracy")):
        if is_masked:
            with masked(loaded.model, plan):
                nats, num_tokens = stock_nats(loaded, folder, task, list(range(NUM_ROWS)))
        else:
            nats, num_tokens = stock_nats(loaded, folder, task, list(range(NUM_ROWS)))
        score = scores[metric]
        assert (score.denominator, score.num_samples, score.num_failed) == (num_tokens, NUM_ROWS, 0)
        assert score.numerator == pytest.approx(nats, rel=1e-4)
        assert score.value == pytest.approx(nats / num_tokens, rel=1e-4)
        assert score.low <= score.value <= score.high


def test_a_share_is_of_each_task_and_the_same_rows_whoever_answered_before(
    loaded: Loaded, folder: Path, plan: PruningPlan
) -> None:
    screening = evaluator(loaded, folder)
    before = screening.screen(plan, 0.25)
    assert {metric: score.num_samples for metric, score in before.items()} == {"wer": 2, "accuracy": 2}
    screening.run()  # from here on the baseline's answers are drafts
    assert screening.screen(plan, 0.25) == before
    assert list(screening.screen(plan, 0.25, metrics=["wer"])) == ["wer"]


@pytest.mark.parametrize("drafted_from", ["references", "own answers"])
def test_a_run_measures_the_likelihood_that_screening_all_rows_does(
    loaded: Loaded, folder: Path, plan: PruningPlan, drafted_from: str
) -> None:
    scored = evaluator(loaded, folder, batch_size=3)
    if drafted_from == "own answers":
        scored.run()
    evaluation = scored.run(plan, likelihoods=True)
    assert evaluation.outcomes == scored.run(plan).outcomes
    assert list(evaluation.scores()) == ["wer", "accuracy", "nll.wer", "nll.accuracy"]
    for metric, score in scored.screen(plan, 1.0).items():
        whole = evaluation.scores()[f"nll.{metric}"]
        assert (whole.denominator, whole.num_samples) == (score.denominator, NUM_ROWS)
        assert whole.value == pytest.approx(score.value, rel=1e-4)


def test_a_run_takes_no_pass_more_for_likelihoods_where_references_are_the_drafts(
    loaded: Loaded, folder: Path, plan: PruningPlan
) -> None:
    scored = evaluator(loaded, folder)
    passes: list[int] = []
    handle = loaded.model.thinker.base_model.register_forward_pre_hook(lambda *_: passes.append(len(passes)))
    try:
        scored.run(plan, likelihoods=True)
    finally:
        handle.remove()
    assert len(passes) == 2  # the first passes of two tasks; what goes on does so in the decoder


def test_screening_leaves_the_answers_as_they_were(loaded: Loaded, folder: Path, plan: PruningPlan) -> None:
    screening, fresh = evaluator(loaded, folder), evaluator(loaded, folder)
    screening.screen(plan, 0.5)
    assert screening.run(plan).outcomes == fresh.run(plan).outcomes


def test_what_is_no_number_counts_as_a_guess_and_never_ranks_well() -> None:
    references = {"wer": [[1, 2, 3], [4]]}
    score = screened({("wer", 0): math.nan, ("wer", 1): -0.5}, references, 100)["wer"]
    assert score.numerator == pytest.approx(4 * math.log(100) + 0.5)
    assert (score.denominator, score.num_failed) == (6, 1)


def test_a_metric_of_which_nothing_is_a_number_is_an_error() -> None:
    references = {"wer": [[1, 2, 3], [4]]}
    with pytest.raises(ScoringError, match="wer: the model's output is not a number for any of 2 rows"):
        screened({("wer", 0): math.nan, ("wer", 1): -math.inf}, references, 100)
