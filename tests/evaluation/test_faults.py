"""One bad recording or one bad answer neither ends an evaluation nor passes for a good one."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl

from autoreap.data.eval_set import open_evals
from autoreap.data.evals_config import load_evals
from autoreap.errors import InputError, ScoringError
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.judging import EMPTY, NOT_A_NUMBER, RUNAWAY, UNPARSEABLE
from autoreap.evaluation.outcomes import Evaluation, Outcome, load_outcomes
from autoreap.models.loading import Loaded
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing.behaviour import Expected, check_behaviour

DATA = as_jsonl("evals/tiny")
NUM_ROWS = 6


def rows(name: str = "asr_search") -> list[dict[str, Any]]:
    """Of the shipped evals, no recording twice."""
    listed = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    chosen = list({row["audio"]: row for row in listed if "audio" in row}.values())[:NUM_ROWS]
    return [{**row, "audio": str((DATA / row["audio"]).resolve())} for row in chosen]


def evaluator(
    loaded: Loaded, folder: Path, listed: list[dict[str, Any]], *, task: str = "task: asr", **options: Any
) -> Evaluator:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    path = folder / "evals.yaml"
    path.write_text(f"search: [{{{task}, dataset_path: rows.jsonl}}]\n")
    return Evaluator(loaded.model, loaded.inputs, open_evals(path).search, **options)


def outcomes_of(evaluation: Evaluation) -> dict[str, Outcome]:
    (outcomes,) = evaluation.outcomes.values()
    return {outcome.id: outcome for outcome in outcomes}


# ---------------------------------------------------------------- rows that can't be read


def broken(row: Mapping[str, Any], folder: Path, how: str) -> dict[str, Any]:
    path = folder / f"{how}.flac"
    encoded = Path(row["audio"]).read_bytes()
    path.write_bytes({"cut short": encoded[:200], "empty": b"", "text": b"no sound\n" * 50}[how])
    return {**row, "id": how, "audio": str(path)}


@pytest.mark.parametrize("how", ["cut short", "empty", "text"])
def test_a_broken_recording_is_left_out_named_and_counted(
    loaded: Loaded, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = rows()
    listed = [*sound[:2], broken(sound[0], tmp_path, how), *sound[2:]]
    mixed = evaluator(loaded, tmp_path, listed, task="task: asr, max_unreadable: 0.2")
    assert f"left out: {tmp_path}/rows.jsonl:3: " in capsys.readouterr().err
    evaluation = mixed.run()
    assert evaluation.outcomes == evaluator(loaded, tmp_path, sound).run().outcomes
    metrics = evaluation.metrics()["wer"]
    assert (metrics.num_samples, metrics.num_unreadable) == (NUM_ROWS, 1)


def test_more_broken_recordings_than_allowed_are_refused_with_the_key_that_allows_more(
    loaded: Loaded, tmp_path: Path
) -> None:
    sound = rows()
    with pytest.raises(InputError, match=r"1 of 7 rows so far can't be read, more than the share 0\.01") as caught:
        evaluator(loaded, tmp_path, [*sound, broken(sound[0], tmp_path, "text")])
    assert f"{tmp_path}/rows.jsonl:7: audio can't be decoded" in str(caught.value)
    assert "max_unreadable: 0.15" in str(caught.value)


def test_no_row_that_can_be_read_is_an_error_whatever_is_allowed(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 1 rows can be read"):
        evaluator(loaded, tmp_path, [broken(rows()[0], tmp_path, "text")], task="task: asr, max_unreadable: 1")


@pytest.mark.parametrize(
    ("value", "rule"),
    [("2", "at most 1, got 2"), ("-0.1", "at least 0"), ("many", "a number, got 'many'"), ("true", "a number")],
)
def test_a_share_that_is_none_is_refused_with_its_line(value: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "evals.yaml"
    path.write_text(f"search:\n  - task: asr\n    dataset_path: rows.jsonl\n    max_unreadable: {value}\n")
    with pytest.raises(InputError, match=rf"evals\.yaml:4: .*max_unreadable: must be {rule}"):
        load_evals(path)


def test_answers_to_other_rows_than_can_be_read_now_are_no_drafts(loaded: Loaded, tmp_path: Path) -> None:
    sound = rows()
    answered = evaluator(loaded, tmp_path, sound).run()
    fewer = [*sound[:-1], {**broken(sound[-1], tmp_path, "text"), "id": sound[-1]["id"]}]
    after = evaluator(loaded, tmp_path, fewer, task="task: asr, max_unreadable: 0.2")
    with pytest.raises(InputError, match=f"wer: 6 rows were answered, 5 can be read now: {sound[-1]['id']}"):
        after.draft_from(answered.outcomes)


def test_a_recording_too_long_for_memory_is_left_out(loaded: Loaded, tmp_path: Path) -> None:
    with hearing_refused(loaded, longest_row()):
        outcomes = outcomes_of(evaluator(loaded, tmp_path, rows(), task="task: asr, max_unreadable: 0.9").run())
    assert longest_row()["id"] not in outcomes
    assert outcomes


def test_what_was_left_out_is_not_asked_of_a_checkpoint_that_leaves_more_memory(loaded: Loaded, tmp_path: Path) -> None:
    with hearing_refused(loaded, longest_row()):
        evaluation = evaluator(loaded, tmp_path, rows(), task="task: asr, max_unreadable: 0.9").run()
    expected = Expected.of(open_evals(tmp_path / "evals.yaml").search, evaluation)
    (outcomes,) = evaluation.outcomes.values()
    assert 0 < len(outcomes) < NUM_ROWS
    assert check_behaviour(CHECKPOINT, expected, carried=0).num_compared == len(outcomes)


def longest_row() -> dict[str, Any]:
    return max(rows(), key=lambda row: Path(row["audio"]).stat().st_size)


@contextmanager
def hearing_refused(loaded: Loaded, row: Mapping[str, Any]) -> Iterator[None]:
    """Memory is too small for the recording of `row`, and for what is as long."""
    limit = loaded.inputs.encode(sample_of(row), "transcribe").mel
    assert limit is not None

    def refuse(_module: Any, _arguments: Any, options: Mapping[str, Any]) -> None:
        if options["feature_lens"].max() >= limit.shape[1]:
            raise torch.OutOfMemoryError("not enough memory")

    tower: Any = loaded.model.thinker.model.audio_tower
    handle = tower.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def sample_of(row: Mapping[str, Any]) -> Any:
    from autoreap.data.samples import Sample

    return Sample(id=row["id"], where="here", audio=Path(row["audio"]), text=row["text"])


# ---------------------------------------------------------------- what is held for all candidates


@pytest.mark.parametrize("name", ["asr_search", "mixed_report"])
def test_embeddings_on_disk_give_the_same_outcomes_and_no_features_are_kept(
    loaded: Loaded, tmp_path: Path, name: str
) -> None:
    """The rows of the second have a picture beside the recording."""
    task = "task: asr" if name == "asr_search" else "task: audio_qa"
    listed = rows(name)
    for row in listed:
        row |= {"image": str((DATA / row["image"]).resolve())} if "image" in row else {}
    in_memory, on_disk = (
        evaluator(loaded, tmp_path, listed, task=task, memory_bytes=size, batch_size=3) for size in (2**30, 0)
    )
    assert in_memory.run().outcomes == on_disk.run().outcomes
    for prepared in on_disk._tasks.values():
        for item in prepared.items:
            assert item.encoded.mel is None or item.encoded.mel.numel() == 0
            assert item.sample.media == ()
            held = [tensor for tensor in (item.audio, item.encoded.pixels) if tensor is not None]
            assert all(tensor.untyped_storage().nbytes() >= 2**28 for tensor in held)  # a part of a mapped segment


# ---------------------------------------------------------------- answers


@contextmanager
def poisoned(loaded: Loaded, text: str) -> Iterator[None]:
    """The embedding of the first token of `text` is not a number."""
    weight = loaded.model.thinker.get_input_embeddings().weight
    token = loaded.inputs.text_tokens(text)[0]
    before = weight[token].clone()
    weight.data[token] = math.nan
    try:
        yield
    finally:
        weight.data[token] = before


def test_an_output_that_is_no_number_fails_its_own_utterance_and_no_other(loaded: Loaded, tmp_path: Path) -> None:
    listed = rows()
    listed[3]["question"] = "zoo"
    other = [{**row, "question": "transcribe"} for row in listed]
    expected = outcomes_of(evaluator(loaded, tmp_path, other).run())
    asked = [{**row, "question": row.get("question", "transcribe")} for row in listed]
    with poisoned(loaded, "zoo"):
        outcomes = outcomes_of(evaluator(loaded, tmp_path, asked).run())
    spoilt = outcomes.pop(listed[3]["id"])
    assert (spoilt.output, spoilt.failed, spoilt.reason) == ("", True, NOT_A_NUMBER)
    assert spoilt.counts.numerator == spoilt.counts.denominator > 0
    assert outcomes == {id: outcome for id, outcome in expected.items() if id != listed[3]["id"]}


def test_a_model_whose_every_output_is_no_number_can_not_be_scored(loaded: Loaded, tmp_path: Path) -> None:
    weight = loaded.model.thinker.model.language_model.layers[2].self_attn.q_proj.weight
    before = weight.data.clone()
    scored = evaluator(loaded, tmp_path, rows())
    weight.data[:] = math.nan
    try:
        with pytest.raises(ScoringError, match="wer: the model's output is not a number for any of 6 rows"):
            scored.run()
    finally:
        weight.data[:] = before
    assert scored.run().metrics()["wer"].num_failed == 0


@contextmanager
def always_choosing(loaded: Loaded, token: int) -> Iterator[None]:
    """Whatever is asked, every token of the answer is this one."""

    def choose(_module: Any, _arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., token] = 1e4
        return logits

    handle = loaded.model.thinker.lm_head.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("task", ["asr", "audio_qa"])
def test_an_empty_answer_is_wrong_and_counted(loaded: Loaded, tmp_path: Path, task: str) -> None:
    with always_choosing(loaded, loaded.inputs.end_token_id):
        listed = rows("asr_search" if task == "asr" else "qa_search")
        evaluation = evaluator(loaded, tmp_path, listed, task=f"task: {task}").run()
    for outcome in outcomes_of(evaluation).values():
        assert (outcome.output, outcome.failed, outcome.reason) == ("", True, EMPTY)
    (metrics,) = evaluation.metrics().values()
    assert metrics.value == (1.0 if task == "asr" else 0.0)
    assert metrics.num_failed == NUM_ROWS


def test_an_answer_that_loops_is_stopped_soon_after_its_reference_and_counted(loaded: Loaded, tmp_path: Path) -> None:
    (word,) = loaded.inputs.text_tokens(" red")[-1:]
    with always_choosing(loaded, word):
        evaluation = evaluator(loaded, tmp_path, rows()).run()
    for outcome in outcomes_of(evaluation).values():
        assert (outcome.failed, outcome.reason) == (True, RUNAWAY)
        bound = 2 * len(loaded.inputs.text_tokens(outcome.reference)) + 8
        assert len(loaded.inputs.text_tokens(outcome.output)) <= bound
        assert outcome.counts.numerator >= outcome.counts.denominator
    assert evaluation.metrics()["wer"].value > 1


def test_an_answer_that_is_right_but_does_not_end_is_not_scored_as_perfect(loaded: Loaded, tmp_path: Path) -> None:
    right = [
        row for row in rows() if outcomes_of(evaluator(loaded, tmp_path, rows()).run())[row["id"]].counts.numerator == 0
    ]
    row = right[0]
    num_tokens = len(loaded.inputs.text_tokens(row["text"]))
    cut = evaluator(loaded, tmp_path, [row], task=f"task: asr, max_new_tokens: {num_tokens}").run()
    (outcome,) = outcomes_of(cut).values()
    assert outcome.output == row["text"]
    assert (outcome.failed, outcome.reason) == (True, RUNAWAY)
    assert outcome.counts.numerator == outcome.counts.denominator


def test_an_answer_that_names_no_choice_is_unparseable(loaded: Loaded, tmp_path: Path) -> None:
    choices = [
        {**row, "choices": ["first choice", "second choice"], "answer": "first choice"} for row in rows("qa_search")
    ]
    outcomes = outcomes_of(evaluator(loaded, tmp_path, choices, task="task: audio_qa").run())
    assert {outcome.reason for outcome in outcomes.values() if outcome.output} <= {UNPARSEABLE, RUNAWAY}
    assert all(outcome.failed and outcome.counts.numerator == 0 for outcome in outcomes.values())


def test_reasons_are_read_back_and_rows_without_one_too(loaded: Loaded, tmp_path: Path) -> None:
    with always_choosing(loaded, loaded.inputs.end_token_id):
        evaluation = evaluator(loaded, tmp_path, rows()).run()
    evaluation.save_outcomes(tmp_path / "outcomes.jsonl")
    assert load_outcomes(tmp_path / "outcomes.jsonl") == evaluation.outcomes
    old = (tmp_path / "outcomes.jsonl").read_text().replace(f', "reason": "{EMPTY}"', "")
    assert "reason" not in old
    (tmp_path / "old.jsonl").write_text(old)
    (outcomes,) = load_outcomes(tmp_path / "old.jsonl").values()
    assert outcomes == tuple(replace(outcome, reason=None) for outcome in evaluation.outcomes["wer"])
