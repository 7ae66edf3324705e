"""What is wrong with a checkpoint is found, whether it was just written or has travelled."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl, random_component, wav_bytes
from safetensors.torch import load_file, save_file

from autoreap.data.eval_set import EvalSet, open_evals
from autoreap.errors import InputError, VerificationError
from autoreap.evaluation.draft_passes import DraftPasses
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import Outcome, load_outcomes
from autoreap.evaluation.passes import load_passes, unrecorded
from autoreap.models.families.qwen3_omni import RunningQwen3Omni
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import PruningPlan
from autoreap.scores import Counts
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing import shards
from autoreap.writing.behaviour import Expected, check_behaviour, check_carried, check_scores
from autoreap.writing.materialiser import Materialised, materialise
from autoreap.writing.verification import Verified, behaviour_text, check_content, check_structure, load_record

EVALS = as_jsonl("evals/tiny")
ROWS = {"asr_search": 6, "qa_search": 4}
NUM_ANSWERS = 16  # recordings of speech are heard twice, once in a car
YAML = """\
search:
  - {task: asr, dataset_path: asr_search.jsonl, doc_to_text: transcribe}
  - {task: asr, label: car, dataset_path: asr_search.jsonl, condition: {noise: cabin.wav, snr_db: 0, room_seconds: 0.2}}
  - {task: audio_qa, dataset_path: qa_search.jsonl, max_new_tokens: 9}
"""


@pytest.fixture(scope="module")
def base() -> Loaded:
    return load(open_model(str(CHECKPOINT)))


@pytest.fixture(scope="module")
def plan(base: Loaded) -> PruningPlan:
    thinker = random_component(base.model_info.shape.components["thinker"], num_experts=9, layers=(0, 1, 2, 4, 5, 7))
    return PruningPlan(base.model_info.base_model, True, thinker, drop_speech=True)


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> EvalSet:
    folder = tmp_path_factory.mktemp("evals")
    for name, limit in ROWS.items():
        rows = [json.loads(line) for line in (EVALS / f"{name}.jsonl").read_text().splitlines()[:limit]]
        for row in rows:
            row["audio"] = str((EVALS / row["audio"]).resolve())
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evals.yaml").write_text(YAML)
    (folder / "cabin.wav").write_bytes(wav_bytes(20_000))
    return open_evals(folder / "evals.yaml").search


@pytest.fixture(scope="module")
def expected(base: Loaded, plan: PruningPlan, evals: EvalSet) -> Expected:
    return Expected.of(evals, Evaluator(base.model, base.inputs, evals, batch_size=4).run(plan))


@pytest.fixture(scope="module")
def pristine(plan: PruningPlan, expected: Expected, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pristine") / "model"
    written = write(plan, expected, target, carried=6)
    assert written.record.behaviour.num_compared == NUM_ANSWERS
    return target


def write(plan: PruningPlan, expected: Expected, target: Path, *, carried: int = 0) -> Materialised:
    def behaviour(checkpoint: Path) -> Verified:
        assert not target.exists()
        return check_behaviour(checkpoint, expected, carried=carried)

    return materialise(CHECKPOINT, plan, target, behaviour=behaviour)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_checkpoint_answers_to_the_letter_as_a_trial_whose_drafts_were_the_baselines(
    plan: PruningPlan, evals: EvalSet, tmp_path: Path, dtype: str
) -> None:
    """Rounded as coarsely as bfloat16 is, an answer may depend on the shapes of the passes, and so on the drafts."""
    loaded = load(open_model(str(CHECKPOINT)), dtype=dtype)
    evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=4)
    baseline, trial = evaluator.run(), evaluator.run(plan)
    expected = replace(Expected.of(evals, trial), drafts=baseline.outcomes)
    verified = write(plan, expected, tmp_path / "model").record.behaviour
    assert verified.num_compared == NUM_ANSWERS
    assert verified.where == evaluator.where


@pytest.fixture
def written(pristine: Path, tmp_path: Path) -> Path:
    """A copy somewhere else, to be damaged."""
    shutil.copytree(pristine, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.mark.slow
def test_a_checkpoint_carries_all_it_takes_to_verify_it_elsewhere(written: Path) -> None:
    record = load_record(written)
    check_content(check_structure(written), record)
    verified = check_carried(written, record)
    assert verified.num_compared == 6
    assert set(verified.metrics) == {"wer", "wer.car", "accuracy"}
    carried = load_outcomes(written / "verification" / "outcomes.jsonl")
    assert [o.output for o in carried["wer"]] != [o.output for o in carried["wer.car"]]  # the noise is heard, too


def test_a_flipped_bit_anywhere_is_found(written: Path) -> None:
    path = written / "model.safetensors"
    intact = path.read_bytes()
    start = len(intact) - open_model(str(written)).checkpoint.num_bytes
    for position in (start, (start + len(intact)) // 2, len(intact) - 1):
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
        with pytest.raises(VerificationError, match="differs from its source"):
            check_content(check_structure(written), load_record(written))


@pytest.mark.parametrize("fault", ["missing", "more", "shape"])
def test_tensors_that_the_stock_class_does_not_expect_are_found(written: Path, fault: str) -> None:
    tensors = load_file(written / "model.safetensors")
    name = "thinker.model.layers.1.mlp.gate.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "more":
        tensors["thinker.model.layers.1.mlp.gate.bias"] = torch.zeros(9)
    else:
        tensors[name] = tensors[name][:-1]
    save_file(tensors, written / "model.safetensors")
    with pytest.raises(VerificationError, match="stock class expects"):
        check_structure(written)


@pytest.mark.parametrize("name", ["config.json", "plan.json", "tokenizer.json", "generation_config.json"])
def test_a_file_beside_the_weights_that_changed_or_is_gone_is_found(written: Path, name: str) -> None:
    record = load_record(written)
    path = written / name
    path.write_text(path.read_text() + "\n")  # the same JSON: no other level can see it
    with pytest.raises(VerificationError, match=f"{name}: is not as it was written"):
        check_content(check_structure(written), record)
    if name != "config.json":
        path.unlink()
        with pytest.raises(VerificationError, match=f"{name}: is missing"):
            check_content(check_structure(written), record)


def test_a_model_card_may_be_edited(written: Path) -> None:
    (written / "README.md").write_text("mine")
    (written / "notes.txt").write_text("mine")
    check_content(check_structure(written), load_record(written))


def test_a_record_made_before_files_were_summed_is_read(written: Path) -> None:
    path = written / "verification" / "record.json"
    document = json.loads(path.read_text())
    del document["files"]
    path.write_text(json.dumps(document))
    assert load_record(written).files == {}


def test_a_truncated_file_is_bad_input(written: Path) -> None:
    path = written / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        check_structure(written)


def test_a_type_that_changed_is_found(written: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(written / "model.safetensors").items()}
    save_file(tensors, written / "model.safetensors")
    with pytest.raises(VerificationError, match="differs from its source"):
        check_content(check_structure(written), load_record(written))


def test_another_answer_is_found_before_the_checkpoint_gets_its_name(
    plan: PruningPlan, expected: Expected, tmp_path: Path
) -> None:
    first = expected.outcomes["wer"][0]
    other = {**expected.outcomes, "wer": (replace(first, output="said otherwise"), *expected.outcomes["wer"][1:])}
    with pytest.raises(VerificationError, match=r"1 of 16 answers differ, such as wer .*'said otherwise'"):
        write(plan, replace(expected, outcomes=other), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_answers_computed_elsewhere_may_differ_within_their_interval(pristine: Path, expected: Expected) -> None:
    first = expected.outcomes["wer"][0]
    other = {**expected.outcomes, "wer": (replace(first, output="said otherwise"), *expected.outcomes["wer"][1:])}
    elsewhere = replace(expected, outcomes=other, passes=unrecorded("cuda (a card, 9.0), bfloat16", 4))
    verified = check_behaviour(pristine, elsewhere, carried=0)
    assert verified.num_compared == 15
    assert verified.num_different == 1
    assert behaviour_text(verified).startswith("15 of 16 outputs match, the scores within chance")
    assert "computed on cpu, float32 instead of cuda (a card, 9.0), bfloat16" in verified.detail
    perfect = tuple(replace(o, counts=replace(o.counts, numerator=o.counts.denominator)) for o in other["accuracy"])
    wrong = {**other, "accuracy": tuple(replace(o, counts=replace(o.counts, numerator=0)) for o in perfect)}
    if not any(outcome.counts.numerator for outcome in expected.outcomes["accuracy"]):
        wrong = {**other, "accuracy": perfect}
    with pytest.raises(VerificationError, match="accuracy is"):
        check_behaviour(pristine, replace(elsewhere, outcomes=wrong), carried=0)


def test_one_slip_elsewhere_is_chance_even_after_a_perfect_record() -> None:
    """The interval of a perfect score is a single point, which another machine's rounding would miss."""

    def answers(num_wrong: int) -> dict[str, tuple[Outcome, ...]]:
        return {"wer": tuple(Outcome(str(i), "", "one two", Counts(int(i < num_wrong), 2), False) for i in range(16))}

    check_scores(Path("here"), answers(1), answers(0))
    with pytest.raises(VerificationError, match=r"wer is \+0\.2500 from what was expected, more than chance"):
        check_scores(Path("here"), answers(8), answers(0))


@contextmanager
def short_of_memory(model: Any, most: int) -> Iterator[None]:
    """The decoder of `model` runs out of memory where more than `most` rows are in its first pass."""

    def refuse(_module: Any, _arguments: Any, output: torch.Tensor) -> None:
        if len(output) > most:
            raise torch.OutOfMemoryError("not enough memory")

    handle = model.thinker.model.language_model.layers[-1].register_forward_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def halved(plan: PruningPlan, evals: EvalSet) -> Expected:
    """What a trial answers in bfloat16 where memory is full beside the unpruned model, as it is not beside its own."""
    loaded = load(open_model(str(CHECKPOINT)), dtype="bfloat16")
    evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=6)
    with short_of_memory(loaded.model, 2):
        baseline, trial = evaluator.run(), evaluator.run(plan)
    assert baseline.passes is not None
    assert baseline.passes.refused
    return replace(Expected.of(evals, trial), drafts=baseline.outcomes)


@pytest.mark.slow
def test_the_passes_of_a_trial_that_ran_out_of_memory_are_run_again_and_answer_to_the_letter(
    plan: PruningPlan, halved: Expected, tmp_path: Path
) -> None:
    verified = write(plan, halved, tmp_path / "model").record.behaviour
    assert (verified.num_compared, verified.num_different) == (NUM_ANSWERS, 0)
    assert verified.detail == "cpu, bfloat16"


@pytest.mark.slow
def test_where_the_passes_of_a_trial_can_not_be_run_again_the_checkpoint_ships_and_says_so(
    plan: PruningPlan, halved: Expected, tmp_path: Path
) -> None:
    """As on a device with less memory: what the trial's passes were is not what can be run."""
    passes = replace(halved.passes, refused=(*halved.passes.refused, 10**6))
    first = halved.outcomes["wer"][0]
    outcomes = {**halved.outcomes, "wer": (replace(first, output="rounded"), *halved.outcomes["wer"][1:])}
    expected = replace(halved, passes=passes, outcomes=outcomes)
    verified = write(plan, expected, tmp_path / "model").record.behaviour
    assert verified.num_different == 1
    assert "in passes of other sizes, as memory allows" in verified.detail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory is too small for a single"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "memory is too small for a single prompt of"),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), "CUDA error: an illegal memory access"),
    ],
)
@pytest.mark.slow
def test_a_device_that_fails_in_verification_costs_no_checkpoint(
    plan: PruningPlan,
    expected: Expected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    def fail(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(DraftPasses, "begin", fail)
    written = write(plan, expected, tmp_path / "model", carried=2)
    assert written.record.behaviour.num_compared is None
    levels = load_record(tmp_path / "model").levels(check_structure(tmp_path / "model"))
    assert levels["behaviour"].startswith(f"not run: the device failed while it answered: {reason}")


@pytest.mark.parametrize(("max_unreadable", "reason"), [(0.9, "could not be read now"), (0.0, "can't be read now")])
@pytest.mark.slow
def test_recordings_for_which_memory_is_too_small_now_cost_no_checkpoint(
    plan: PruningPlan,
    expected: Expected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_unreadable: float,
    reason: str,
) -> None:
    hear = RunningQwen3Omni.audio_embeddings

    def hear_what_is_short(running: Any, model: Any, mel: torch.Tensor, num_frames: int) -> torch.Tensor:
        if num_frames > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hear(running, model, mel, num_frames)

    monkeypatch.setattr(RunningQwen3Omni, "audio_embeddings", hear_what_is_short)
    tasks = []
    for task in expected.evals.tasks:
        tasks.append(replace(task, config=replace(task.config, max_unreadable=max_unreadable)))
    evals = replace(expected.evals, tasks=tuple(tasks))
    verified = write(plan, replace(expected, evals=evals), tmp_path / "model").record.behaviour
    assert reason in verified.detail
    assert verified.num_compared is None or 0 < verified.num_compared < NUM_ANSWERS


def test_what_is_carried_says_in_which_passes_it_was_answered(written: Path) -> None:
    passes = load_passes(written / "verification")
    assert passes is not None
    assert (passes.where, passes.limits.rows) == ("cpu, float32", 1)
    (written / "verification" / "passes.json").unlink()  # as of a checkpoint that was written before there were any
    verified = check_carried(written, load_record(written))
    assert (verified.num_compared, verified.num_different) == (6, 0)
    assert "their passes are not recorded" in verified.detail


def test_passes_of_another_form_are_refused(written: Path) -> None:
    path = written / "verification" / "passes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"refused": [-1]}))
    with pytest.raises(InputError, match=re.escape(f"{path}: refused.0: must be at least 0")):
        check_carried(written, load_record(written))


@pytest.mark.parametrize("damage", ["shorter", "other metric"])
@pytest.mark.slow
def test_recorded_answers_to_other_utterances_are_found(written: Path, damage: str) -> None:
    path = written / "verification" / "outcomes.jsonl"
    text = path.read_text()
    path.write_text(text.split("\n", 1)[1] if damage == "shorter" else text.replace('"wer"', '"cer"'))
    with pytest.raises(VerificationError, match="not to the utterances that were asked"):
        check_carried(written, load_record(written))


def test_recorded_answers_that_were_damaged_are_bad_input(written: Path) -> None:
    path = written / "verification" / "outcomes.jsonl"
    path.write_text(path.read_text()[:-9] + "\n")
    with pytest.raises(InputError, match=r"outcomes\.jsonl:\d+: not JSON"):
        check_carried(written, load_record(written))


def test_fewer_utterances_than_tasks_can_be_carried(plan: PruningPlan, expected: Expected, tmp_path: Path) -> None:
    write(plan, expected, tmp_path / "out", carried=1)
    carried = [path.read_text().count("\n") for path in (tmp_path / "out" / "verification").glob("utterances-*.jsonl")]
    assert carried == [1]


def test_a_changed_weight_that_changes_answers_is_found_by_behaviour(written: Path) -> None:
    path = written / "model.safetensors"
    tensors = load_file(path)
    tensors["thinker.lm_head.weight"] = tensors["thinker.lm_head.weight"].flip(0)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(VerificationError, match="answers differ"):
        check_carried(written, load_record(written))


def test_a_checkpoint_that_carries_nothing_says_so(written: Path) -> None:
    record = load_record(written)
    (written / "verification" / "outcomes.jsonl").unlink()
    assert check_carried(written, record) == Verified(None, "it carries no utterances")
    (written / "verification" / "record.json").unlink()
    with pytest.raises(InputError, match=r"carries no verification/record\.json"):
        load_record(written)


METRIC = {"value": 0.5, "low": 0.25, "high": 1}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format": 9}, "is not a record of format 1"),
        ({"checksum": "md5"}, "is not a record of format 1 with xxh3_128"),
        ({"behaviour": []}, "behaviour: must be a mapping, got []"),
        ({"behaviour": {"num_compared": -1, "detail": ""}}, "behaviour.num_compared: must be at least 0, got -1"),
        ({"behaviour": {"num_compared": 1}}, "behaviour: key detail is missing"),
        (
            {"behaviour": {"num_compared": 1, "detail": "", "metrics": {"wer": METRIC | {"low": "0"}}}},
            "behaviour.metrics.wer.low: must be a number, got '0'",
        ),
        ({"checksums": {"a.weight": 1}}, "checksums.a.weight: must be a string, got 1"),
        ({"fils": {}}, "fils: unknown key"),
    ],
)
def test_a_record_of_another_form_is_refused(written: Path, edit: dict[str, object], message: str) -> None:
    path = written / "verification" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
        load_record(written)


def test_a_record_is_read_as_it_was_written_and_written_as_it_was_read(written: Path) -> None:
    path = written / "verification" / "record.json"
    before = path.read_bytes()
    load_record(written).save(written)
    assert path.read_bytes() == before


def test_what_does_not_fit_in_memory_is_not_loaded_and_says_so(
    pristine: Path, expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((pristine / "config.json").read_text())
    names = {"thinker.model.embed_tokens.weight": (40_000_000_000, 1)}  # 160 GB in float32; a hole on the disk
    from builders import write_sparse_checkpoint

    verified = check_behaviour(write_sparse_checkpoint(tmp_path, config, names), expected)
    assert verified.num_compared is None
    assert verified.detail.startswith("it needs 176.0 GB of memory on")


def test_the_checksum_is_of_the_bytes_alone(pristine: Path, tmp_path: Path) -> None:
    import xxhash

    record, tensors = load_record(pristine), load_file(pristine / "model.safetensors")
    assert shards.CHECKSUM == "xxh3_128"
    for name, tensor in tensors.items():
        assert xxhash.xxh3_128(tensor.view(torch.uint8).numpy().tobytes()).hexdigest() == record.checksums[name]
