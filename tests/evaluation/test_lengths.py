"""Recordings of a tenth of a second to two minutes in one eval set: each is answered, and no pass is too large."""

import json
from typing import Any

import numpy as np
import pytest
import soundfile

from autoreap.data.eval_set import EvalSet, open_evals
from autoreap.evaluation.draft_limits import Limits
from autoreap.evaluation.evaluator import Evaluator
from autoreap.models.loading import Loaded
from autoreap.plan import PruningPlan

RATE = 16_000
SECONDS = (0.1, 0.3, 0.7, 1, 2, 2.5, 3, 5, 8, 13, 40, 120)
COLUMNS = 512


def sound(seconds: float, number: int) -> np.ndarray[Any, Any]:
    """Tones that rise, in noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(number).normal(scale=0.05, size=len(time))
    return 0.4 * np.sin(2 * np.pi * (200 + 100 * (number % 5) + 30 * np.sin(time)) * time) + noise


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> EvalSet:
    folder = tmp_path_factory.mktemp("lengths")
    rows = []
    for number, seconds in enumerate(SECONDS):
        soundfile.write(folder / f"{number}.flac", sound(seconds, number), RATE)
        rows.append({"id": f"{seconds:g} s", "audio": f"{number}.flac", "text": "red seven"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = "{task: asr, dataset_path: rows.jsonl, doc_to_text: transcribe, max_new_tokens: 12}"
    (folder / "evals.yaml").write_text(f"search: [{task}]\n")
    return open_evals(folder / "evals.yaml").search


@pytest.mark.slow
def test_all_lengths_are_answered_in_passes_within_the_limits(
    loaded: Loaded, plan: PruningPlan, evals: EvalSet
) -> None:
    decoder: Any = loaded.model_info.family.running.decoder(loaded.model, "thinker")
    shapes: list[tuple[int, int]] = []

    def note(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        shapes.append(tuple(options["inputs_embeds"].shape[:2]))

    together = Evaluator(loaded.model, loaded.inputs, evals, batch_size=8)
    alone = Evaluator(loaded.model, loaded.inputs, evals, batch_size=1)
    together._decoder.limits = Limits(rows=8, first_columns=COLUMNS, pool_columns=COLUMNS)
    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        unpruned, pruned = together.run(), together.run(plan, likelihoods=True)
    finally:
        handle.remove()
    assert [outcome.id for outcome in pruned.outcomes["wer"]] == [f"{seconds:g} s" for seconds in SECONDS]
    assert unpruned.passes is not None
    assert unpruned.passes.refused == ()
    assert max(num_rows for num_rows, _ in shapes) > 1
    assert all(num_rows == 1 or num_rows * width <= COLUMNS for num_rows, width in shapes)
    assert max(width for _, width in shapes) > 13 * max(SECONDS)
    assert (alone.run().outcomes, alone.run(plan).outcomes) == (unpruned.outcomes, pruned.outcomes)
