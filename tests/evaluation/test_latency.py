"""Timing must time the right thing: stock greedy answers, under the mask that is meant, beside the unpruned model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import as_jsonl

from autoreap.data.eval_set import open_evals
from autoreap.errors import InputError
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.latency import DIRECTIONS, Stopwatch, median, needs_stopwatch, paired_ratio
from autoreap.masking import masked
from autoreap.models.families.encoded import Encoded
from autoreap.models.loading import Loaded
from autoreap.plan import ComponentPlan, PruningPlan
from autoreap.search.scorers import Job, Scorer, ScorerSetup

ASR = as_jsonl("evals/tiny") / "asr_search.jsonl"


@pytest.fixture(scope="module")
def evaluator(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    path = tmp_path_factory.mktemp("evals") / "evals.yaml"
    path.write_text(f"search:\n  - {{task: asr, dataset_path: {ASR}, doc_to_text: transcribe, limit: 6}}\n")
    return Evaluator(loaded.model, loaded.inputs, open_evals(path).search)


@pytest.fixture(scope="module")
def stopwatch(loaded: Loaded, evaluator: Evaluator) -> Stopwatch:
    return Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(4), num_utterances=4)


def cut_to(loaded: Loaded, layers: tuple[int, ...]) -> PruningPlan:
    experts = ComponentPlan.identity(loaded.model_info.shape.components["thinker"]).experts
    return PruningPlan(loaded.model_info.base_model, True, ComponentPlan(experts, layers))


def stock_answer(loaded: Loaded, encoded: Encoded, max_new_tokens: int) -> tuple[int, ...]:
    """Greedy `generate` of the stock model, from the features."""
    inputs = loaded.inputs.collate([encoded])
    thinker: object = loaded.model_info.family.running.thinker(loaded.model)
    ends = {"eos_token_id": loaded.inputs.end_token_id, "pad_token_id": loaded.inputs.pad_token_id}
    written = thinker.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **ends)  # type: ignore[attr-defined]
    return tuple(written[0, len(encoded.input_ids) :].tolist())


def test_what_is_timed_is_the_stock_greedy_answer_and_under_a_mask_the_masked_one(
    loaded: Loaded, evaluator: Evaluator, stopwatch: Stopwatch
) -> None:
    plan = cut_to(loaded, (0, 1, 5, 6, 7))
    answers = []
    for encoded, bound in evaluator.prompts(4):
        timing = stopwatch.answer(encoded, bound)
        assert timing.tokens == stock_answer(loaded, encoded, bound)
        with masked(loaded.model, plan):
            under_mask = stopwatch.answer(encoded, bound)
            assert under_mask.tokens == stock_answer(loaded, encoded, bound)
        answers.append((timing.tokens, under_mask.tokens))
        assert encoded.mel is not None
        assert 0 < timing.first_token_seconds <= timing.real_time_factor * encoded.mel.shape[1] / 100
    assert any(unpruned != pruned for unpruned, pruned in answers)


def test_a_model_of_a_quarter_of_the_layers_is_timed_as_faster_than_the_unpruned_and_leaves_no_mask(
    loaded: Loaded, stopwatch: Stopwatch
) -> None:
    metrics = stopwatch.measure(cut_to(loaded, (0, 7)), weights_bytes=1)
    ratio = metrics["first_token_ratio"]
    assert ratio.low <= ratio.value <= ratio.high < 1
    assert set(metrics) == DIRECTIONS.keys() - {"peak_memory_bytes"} | {"mask_seconds"}
    first = metrics["first_token_seconds"]
    assert first.quartiles is not None
    assert 0 < first.quartiles[0] <= first.value <= first.quartiles[1]
    assert first.num_samples == 4 * 3
    decoder = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    assert decoder is not None
    assert len(decoder.layers) == 8


def test_the_unpruned_model_is_timed_against_itself(stopwatch: Stopwatch) -> None:
    metrics = stopwatch.measure(None, weights_bytes=1)
    assert 0.5 < metrics["first_token_ratio"].value < 2
    assert "mask_seconds" not in metrics


class StoppedError(Exception):
    """What a check raises."""


def test_a_check_can_end_a_measurement_before_any_answer_and_leaves_no_mask(
    loaded: Loaded, evaluator: Evaluator
) -> None:
    left = [None] * 5  # more than warming up takes

    def check() -> None:
        if not left:
            raise StoppedError
        left.pop()

    timed = Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(4), num_utterances=4, check=check)
    with pytest.raises(StoppedError):
        timed.measure(cut_to(loaded, (0, 7)), weights_bytes=1)
    decoder = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    assert decoder is not None
    assert len(decoder.layers) == 8


def test_prompts_without_audio_are_not_timed(loaded: Loaded, evaluator: Evaluator) -> None:
    (encoded, bound), *_ = evaluator.prompts(4)
    with pytest.raises(InputError, match="no task has audio"):
        Stopwatch(loaded.model, loaded.inputs, [(replace(encoded, mel=None), bound)])


def test_a_drift_that_both_sides_share_leaves_the_ratio_and_its_interval_alone() -> None:
    drifting = np.linspace(1, 3, 48)
    measured = paired_ratio(0.8 * drifting, drifting)
    assert [measured.value, measured.low, measured.high] == pytest.approx([0.8] * 3)
    assert median(drifting).low < 2 < median(drifting).high


@pytest.mark.slow
def test_a_scorer_times_the_candidates_where_an_objective_asks_for_it(loaded: Loaded, evaluator: Evaluator) -> None:
    plan = cut_to(loaded, (0, 1, 6, 7))
    for objective, is_timed in (("first_token_ratio", True), ("active_parameters", False)):
        setup = ScorerSetup("tiny", Path("unused"), {objective: "minimize"}, (objective,))
        scorer = Scorer(loaded, evaluator, setup, check=lambda: None)
        for candidate in (None, plan):
            evaluation = scorer.score(Job(0, candidate, {"size_bytes": 1.0})).evaluation
            assert evaluation is not None
            assert "wer" in evaluation.metrics()
            assert ("first_token_ratio" in evaluation.costs) == is_timed
            assert ("mask_seconds" in evaluation.costs) == (is_timed and candidate is not None)


def test_times_are_taken_only_where_they_are_asked_for() -> None:
    assert needs_stopwatch({"size_bytes": "minimize", "real_time_factor_ratio": "minimize"})
    assert not needs_stopwatch({"size_bytes": "minimize", "wer": "minimize", "active_parameters": "minimize"})
