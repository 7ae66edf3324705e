"""What the morning report tells of a study is what the study holds, and what can't be known is left out."""

import base64
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from builders import wav_bytes
from optuna.trial import TrialState
from studies import BASELINE_BYTES, OBJECTIVES, add_ends, add_trial, new_study, plan_of, rate, read, save_answers

from autoreap.models.loading import open_model
from autoreap.plan import BaseModel, ComponentPlan
from autoreap.report.candidate_details import MAX_DETAILED
from autoreap.report.search_stats import MIN_TRIALS_FOR_IMPORTANCE, hypervolumes
from autoreap.report.study_document import study_document
from autoreap.scores import Metric
from autoreap.search import records
from autoreap.search.front import front_of
from autoreap.search.records import HeldOutScores, HeldOutTrial, ScoredModel, ScoringSetup, TrialStatus
from autoreap.writing.footprint import Footprint

REFERENCE = "the big red dog"


def test_every_trial_is_there_with_what_became_of_it_and_why(tmp_path: Path) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    add_trial(study, (30, 0.12), plan=plan_of(0), duplicate_of=0)
    ends = add_ends(study)
    trials = study_document(read(study), tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["scored", "duplicate", *ends]
    assert trials[1]["duplicate_of"] == 0
    assert trials[ends["pruned"]]["reason"] == "dominated by trial 0"
    assert trials[ends["infeasible"]]["broken"] == ["size <= 20 GB"]
    assert trials[ends["failed"]]["reason"] == "ScoringError: <b>nothing</b> was scored"
    assert trials[ends["interrupted"]]["seconds"] is None, "its end is not known"
    assert trials[0]["scores"]["search"] == {
        "size_bytes": [30 * 10**9], "wer": [0.12, 0.11, 0.13], "size_4bit_bytes": [10**10]
    }  # fmt: skip


def test_what_the_night_lost_to_what_is_counted(tmp_path: Path) -> None:
    study = new_study(constraints=["size <= 20 GB"])
    add_trial(study, (30, 0.12))
    add_ends(study)
    night = study_document(read(study), tmp_path)["night"]
    assert night["pruned"] == {"num": 1, "seconds": 7.5, "scored": 40, "answers": 100}
    assert night["constraints"] == [{"text": "size <= 20 GB", "unscored": 1, "scored": 0}]
    assert night["failures"] == [{"reason": "ScoringError: <b>nothing</b> was scored", "trials": [3]}]


def test_the_head_recommends_the_smallest_that_is_as_good_and_names_the_knee(tmp_path: Path) -> None:
    study = new_study()
    for values in ((60, 0.10), (40, 0.10), (10, 0.104), (5, 0.9)):
        add_trial(study, values)
    head = study_document(read(study), tmp_path)["head"]
    assert (head["trial"], head["is_safe"], head["is_shipped"], head["knee"]) == (1, True, False, 1)
    assert [(row["metric"], row["split"], row["margin"], row["verdict"]) for row in head["rows"]] == [
        ("wer", "search", 0.5, "non-inferior")
    ]
    records.record_shipped(study, 1)
    assert study_document(read(study), tmp_path)["head"]["is_shipped"]


def test_where_none_is_as_good_the_head_names_the_nearest(tmp_path: Path) -> None:
    study = new_study()
    for values in ((60, 0.12), (40, 0.107), (10, 0.9)):
        add_trial(study, values)
    head = study_document(read(study), tmp_path)["head"]
    assert (head["trial"], head["is_safe"], head["knee"]) == (1, False, 1)
    assert head["rows"][0]["verdict"] == "worse"
    records.record_margins(study, {"wer": 0.01})
    (row,) = study_document(read(study), tmp_path)["head"]["rows"]
    assert (row["verdict"], row["needed"]) == ("undecided", 278)  # 0.5 points above the loss must shrink to 0.3
    empty = new_study()
    add_ends(empty)
    assert study_document(read(empty), tmp_path)["head"] == {"trial": None, "knee": None}


def test_scores_of_the_report_split_stand_beside_those_that_were_searched(tmp_path: Path) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    add_trial(study, (60, 0.11))
    metrics = {"wer": rate(0.14), "wer.noisy": rate(0.3)}
    trials = {0: HeldOutTrial(metrics, {}, [1]), 1: HeldOutTrial(metrics, {}, [0])}
    records.record_held_out(study, HeldOutScores("digest", metrics, trials))
    document = study_document(read(study), tmp_path)
    assert document["y"] == {"search": ["wer"], "report": ["wer", "wer.noisy"]}
    assert document["trials"][0]["scores"]["report"]["wer.noisy"] == [0.3, 0.29, 0.31]
    assert document["trials"][0]["tied"] == [1]
    assert document["baseline"]["scores"]["search"]["size_bytes"] == [BASELINE_BYTES]


def test_the_hypervolume_grows_to_its_final_value_with_each_new_member_of_the_front() -> None:
    study = new_study()
    for values in ((10, 0.4), (40, 0.1), (40, 0.4), (20, 0.2), (30, 0.3)):
        add_trial(study, values)
    steps = hypervolumes(read(study).points, OBJECTIVES)
    # On logarithms scaled to 0 to 1 the first two lie in corners and span nothing, the third is dominated.
    assert steps == [[0, 0.0], [1, 0.0], [3, 1.0]]
    assert hypervolumes(read(study).points[:1], OBJECTIVES) == []


def test_a_point_beside_the_front_adds_the_area_that_it_alone_dominates() -> None:
    study = new_study()
    for values in ((10, 0.8), (80, 0.1), (40, 0.2), (20, 0.4)):
        add_trial(study, values)
    steps = hypervolumes(read(study).points, OBJECTIVES)
    # In units of log 2 the corner is (3, 3): (2, 1) dominates 1 * 2 of it, and with (1, 2) it is 3.
    assert steps == [[0, 0.0], [1, 0.0], [2, pytest.approx(2 / 3, abs=1e-4)], [3, 1.0]]


def test_importance_is_told_of_large_studies_alone(tmp_path: Path) -> None:
    study = new_study()
    for number in range(MIN_TRIALS_FOR_IMPORTANCE - 1):
        add_trial(study, (10 + number, 0.5 - number / 100))
    assert study_document(read(study), tmp_path)["night"]["importance"] == {}
    add_trial(study, (5, 0.6))
    shares = study_document(read(study), tmp_path)["night"]["importance"]
    assert {name: sorted(of) for name, of in shares.items()} == {
        "size_bytes": ["beta", "retention"],
        "wer": ["beta", "retention"],
    }


def answered(tmp_path: Path, num_trials: int = 1) -> Path:
    """The answers of a baseline that hears all, and of trials that hear more wrong in later utterances."""
    folder = tmp_path / "trials" / "night"
    wrong = ["the big red dog", "the big red cat", "a big red cat", "a pig bed cat"]
    save_answers(folder / "baseline", {f"u{n}": REFERENCE for n in range(4)}, REFERENCE)
    for number in range(num_trials):
        save_answers(folder / str(number), {f"u{n}": output for n, output in enumerate(wrong)}, REFERENCE)
    return folder


def test_the_worst_utterances_come_first_beside_what_the_unpruned_model_heard(tmp_path: Path) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    answered(tmp_path)
    split = study_document(read(study), tmp_path)["details"]["0"]["search"]
    assert [one["id"] for one in split["worst"]] == ["u3", "u2", "u1"]
    assert [side["count"] for side in split["worst"][0]["sides"]] == [0, 4]
    assert split["differences"]["wer"]["value"] == 7 / 16
    assert split["differences"]["wer"]["worse"] == 3


def test_the_map_has_a_row_a_layer_and_a_bit_an_expert(tmp_path: Path) -> None:
    study = new_study()
    plan = plan_of(0)
    add_trial(study, (30, 0.12), plan=plan)
    document = study_document(read(study), tmp_path)
    assert document["experts"]["thinker"] == 8
    rows = document["plans"]["0"]["maps"]["thinker"]
    marks = [f"{int(row, 16):08b}" if row else "" for row in rows]
    kept = {layer: tuple(e for e, mark in enumerate(row) if mark == "1") for layer, row in enumerate(marks) if row}
    assert kept == {layer: plan.thinker.experts[layer] for layer in plan.thinker.layers}
    assert rows.count("") == 1


def test_a_dense_layer_is_one_mark(tmp_path: Path) -> None:
    study = new_study()
    dense = ComponentPlan(experts=((),) * 4, layers=(0, 1, 3))
    add_trial(study, (30, 0.12), plan=replace(plan_of(0), thinker=dense))
    plan = study_document(read(study), tmp_path)["plans"]["0"]
    assert plan["dense"] == ["thinker"]
    assert plan["maps"]["thinker"] == ["8", "8", "", "8"]


@pytest.mark.parametrize("counted", [False, True], ids=["older study", "sizes in the result"])
def test_the_memory_needed_is_that_of_the_model_while_it_is_where_it_was(counted: bool, tmp_path: Path) -> None:
    model_info = open_model("tiny")
    plan = plan_of(0, model_info.shape, model_info.base_model)
    footprint = Footprint.of(model_info.checkpoint, plan)
    study = new_study()
    metrics: dict[str, Metric] = {"wer": rate(0.12), **(footprint.metrics() if counted else {})}
    add_trial(study, (footprint.size_bytes() / 1e9, 0.12), plan=plan, metrics=metrics)
    document = study_document(read(study), tmp_path)
    assert document["memory"]["stored"] == "bf16"
    for entry, (seconds, bits) in zip(
        document["plans"]["0"]["memory"], itertools.product((30, 2400), (16, 8, 4)), strict=True
    ):
        needed = footprint.memory_needed(seconds, bits)
        assert entry == {
            "clip_seconds": seconds, "bits": bits, "weights": needed.weights_bytes, "cache": needed.kv_cache_bytes,
            "working": needed.working_bytes, "tokens": needed.kv_cache_bytes // footprint.kv_bytes(1),
        }  # fmt: skip
    changed = new_study(name="changed")
    add_trial(changed, (30, 0.12), plan=replace(plan, base_model=BaseModel("tiny", "0" * 16)))
    assert study_document(read(changed), tmp_path)["plans"]["0"]["memory"] == []


def test_the_night_tells_when_it_began_and_ended(tmp_path: Path) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    night = study_document(read(study), tmp_path)["night"]
    (trial,) = study.get_trials()
    assert night["began"] == trial.datetime_start.strftime("%Y-%m-%d %H:%M")  # type: ignore[union-attr]
    assert night["ended"] == trial.datetime_complete.strftime("%Y-%m-%d %H:%M")  # type: ignore[union-attr]


def evals_with(tmp_path: Path, text: str) -> Path:
    rows = [{"id": f"u{n}", "audio": f"{n}.wav", "text": text} for n in range(4)]
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(wav_bytes(16_000 + number))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evals.yaml").write_text("search: [{task: asr, dataset_path: rows.jsonl}]\n")
    return tmp_path / "evals.yaml"


def test_the_recordings_of_the_worst_utterances_can_be_heard(tmp_path: Path) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    answered(tmp_path)
    records.record_scoring(study, ScoringSetup(str(evals_with(tmp_path, REFERENCE)), 1, "cpu, float32"))
    document = study_document(read(study), tmp_path)
    found = document["recordings"]
    assert [one["recording"] for one in document["details"]["0"]["search"]["worst"]] == list(found)
    waveform, sampling_rate = soundfile.read(io.BytesIO(base64.b64decode(found["search/wer/u3"])))
    assert sampling_rate == 16_000
    assert len(waveform) / sampling_rate == pytest.approx(1, abs=0.15)
    assert np.abs(waveform).max() > 0.4


@pytest.mark.parametrize("gone", ["evals", "recording", "same text"])
def test_a_recording_that_is_gone_or_another_one_now_is_left_out(gone: str, tmp_path: Path) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    answered(tmp_path)
    path = evals_with(tmp_path, "another text" if gone == "same text" else REFERENCE)
    records.record_scoring(study, ScoringSetup(str(path), 1, "cpu, float32"))
    if gone == "evals":
        path.unlink()
    if gone == "recording":
        (tmp_path / "3.wav").write_bytes(b"no audio")
    found = study_document(read(study), tmp_path)["recordings"]
    assert "search/wer/u3" not in found
    assert len(found) == (2 if gone == "recording" else 0)


def test_of_a_long_night_the_picked_and_the_front_are_told_in_detail_and_every_plan(tmp_path: Path) -> None:
    study = new_study()
    for number in range(MAX_DETAILED + 5):
        add_trial(study, (60 - number, 0.1 + number / 1000))
    document = study_document(read(study), tmp_path)
    front = [point.number for point in front_of(read(study))]
    assert len(front) == MAX_DETAILED + 5
    assert next(iter(document["details"])) == str(document["head"]["trial"])
    assert len(document["details"]) == MAX_DETAILED
    assert len(document["plans"]) == MAX_DETAILED + 5


def test_what_was_set_just_before_a_kill_is_no_end_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study()
    add_trial(study, (30, 0.12))
    add_ends(study)
    before = study_document(read(study), tmp_path)["night"]
    killed = study.ask()
    result = ScoredModel(read(study).trials[0].metrics, 10**9)
    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", lambda *_arguments: None)
        records.record_result(study, killed, (1e9, 0.1), result, {})
    study.tell(killed, state=TrialState.FAIL)
    assert study_document(read(study), tmp_path)["night"]["pruned"] == before["pruned"]
    assert read(study).trials[killed.number].status is TrialStatus.INTERRUPTED
