"""The negative log-likelihood of the references equals what the logits of the stock model give."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl

from autoreap.data.eval_set import open_evals
from autoreap.data.samples import Sample
from autoreap.errors import ScoringError
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.likelihood import reference_nll
from autoreap.masking import masked
from autoreap.models.loading import Loaded
from autoreap.plan import PruningPlan
from autoreap.scores import Metric, score

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
    return Evaluator(loaded.model, loaded.inputs, open_evals(folder / "evals.yaml").search, **options)


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


def test_a_check_can_end_the_pass_between_two_batches_and_leaves_no_mask(
    loaded: Loaded, folder: Path, plan: PruningPlan
) -> None:
    passed: list[int] = []

    def check() -> None:
        passed.append(len(passed))
        raise StoppedError

    stopped = evaluator(loaded, folder, batch_size=1, check=check)
    stopped.run()  # its answers are the drafts from here on, so that references need a pass of their own
    before = nll(evaluator(loaded, folder))
    with pytest.raises(StoppedError):
        stopped.run(plan, likelihoods=True)
    assert len(passed) == 1
    assert nll(evaluator(loaded, folder)) == before


def nll(evaluator: Evaluator, plan: PruningPlan | None = None) -> dict[str, Metric]:
    """The scores of the references, by task metric."""
    scores = evaluator.run(plan, likelihoods=True).metrics()
    return {name.removeprefix("nll."): value for name, value in scores.items() if name.startswith("nll.")}


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.slow
def test_the_score_is_what_the_stock_models_logits_say(
    loaded: Loaded, folder: Path, plan: PruningPlan, is_masked: bool, batch_size: int
) -> None:
    scores = nll(evaluator(loaded, folder, batch_size=batch_size), plan if is_masked else None)
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


def test_the_nll_does_not_depend_on_the_drafts(loaded: Loaded, folder: Path, plan: PruningPlan) -> None:
    drafted = evaluator(loaded, folder, batch_size=3)
    from_references = drafted.run(plan, likelihoods=True)
    assert from_references.outcomes == drafted.run(plan).outcomes
    assert list(from_references.metrics()) == ["wer", "accuracy", "nll.wer", "nll.accuracy"]
    drafted.run()  # from here on the unpruned model's answers are the drafts
    for metric, after in nll(drafted, plan).items():
        before = from_references.metrics()[f"nll.{metric}"]
        assert (after.denominator, after.num_samples) == (before.denominator, NUM_ROWS)
        assert after.value == pytest.approx(before.value, rel=1e-4)


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


def test_what_is_no_number_counts_as_a_guess_and_never_ranks_well() -> None:
    references = {"wer": [[1, 2, 3], [4]]}
    measured = score(reference_nll({("wer", 0): math.nan, ("wer", 1): -0.5}, references, 100)["wer"])
    assert measured.numerator == pytest.approx(4 * math.log(100) + 0.5)
    assert measured.denominator == 6


def test_a_metric_of_which_nothing_is_a_number_is_an_error() -> None:
    references = {"wer": [[1, 2, 3], [4]]}
    with pytest.raises(ScoringError, match="wer: the model's output is not a number for any of 2 rows"):
        reference_nll({("wer", 0): math.nan, ("wer", 1): -math.inf}, references, 100)
