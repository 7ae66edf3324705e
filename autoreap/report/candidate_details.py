"""What the morning report shows of one candidate: what it retains, what it needs, and what it hears worse."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoreap.errors import InputError
from autoreap.evaluation.comparison import Comparison, compare_outcomes
from autoreap.evaluation.outcomes import OUTCOMES_NAME, load_outcomes
from autoreap.models.loading import ModelInfo
from autoreap.plan import COMPONENTS, ComponentPlan
from autoreap.report.comparison_page import utterance
from autoreap.report.memory import GIGABYTES, memory_of, open_searched_model, stored_type
from autoreap.report.recordings import Wanted, read_recordings
from autoreap.search.held_out import OUTCOMES as REPORT_OUTCOMES
from autoreap.search.records import BASELINE, StudyRecord, TrialRecord, trials_folder

logger = logging.getLogger(__name__)

MAX_DETAILED = 40  # to compare two sides over thousands of utterances takes a second
NUM_WORST = 3  # utterances of each metric
MAX_AUDIO_BYTES = 1_500_000  # as text in the page
MAX_PLAN_BYTES = 2_500_000  # as text in the page; a plan of the 30B model takes 2.5 kB
# Split -> the answers to it, in a trial's folder.
_FILES = {"search": OUTCOMES_NAME, "report": REPORT_OUTCOMES}
_MAX_RUN = 240  # characters of a run of words; an output may be a book


def all_details(study: StudyRecord, front: Sequence[TrialRecord], picked: Sequence[int], root: Path) -> dict[str, Any]:
    """What is known of trials beside their scores, and what they share.

    `plans` say what a trial retains and what memory that takes; `details`, of fewer, what it hears worse. Of a study
    too large to show all, the trials in `picked` come first, then the front, the presets and the others.
    """
    folder, model_info = trials_folder(study.name, root), open_searched_model(study)
    num_experts = _num_experts(study, model_info)
    on_front = [point.number for point in front]
    trials = _in_order_of_interest(study, [*picked, *on_front])
    details: dict[str, dict[str, Any]] = {}
    wanted: list[Wanted] = []
    for trial in trials[:MAX_DETAILED]:
        of_trial = details.setdefault(str(trial.number), {})
        for split, comparison in _compare_with_baseline(folder, trial.number).items():
            of_trial[split], of_split = _split_details(split, comparison)
            wanted += of_split
    memory = {"gigabytes": GIGABYTES, "baseline": memory_of(model_info, None), "stored": stored_type(model_info)}
    return {
        "details": details,
        "plans": _plans(trials, num_experts, model_info),
        "experts": num_experts,
        "memory": memory,
        "recordings": read_recordings(study.scoring, wanted, MAX_AUDIO_BYTES),
    }


def _in_order_of_interest(study: StudyRecord, first: Sequence[int]) -> list[TrialRecord]:
    """The trials with a plan of their own: `first`, the presets, the others."""
    distinct = {}
    presets = []
    for point in study.points:
        if point.duplicate_of is None and point.plan is not None:
            distinct[point.number] = point
            if point.preset is not None:
                presets.append(point.number)
    ordered = dict.fromkeys([*first, *presets, *distinct])  # each once, at its first place
    return [distinct[number] for number in ordered if number in distinct]


def _compare_with_baseline(folder: Path, trial: int) -> dict[str, Comparison]:
    """Split -> the trial against the baseline, where the answers of both are still there."""
    found = {}
    for split, name in _FILES.items():
        baseline, own = folder / BASELINE / name, folder / str(trial) / name
        if baseline.is_file() and own.is_file():
            try:
                found[split] = compare_outcomes(load_outcomes(baseline), load_outcomes(own))
            except InputError as error:  # a line that is damaged costs one comparison, not the report
                logger.warning("trial %d is not compared on the %s split: %s", trial, split, error)
    return found


def _split_details(split: str, comparison: Comparison) -> tuple[dict[str, Any], list[Wanted]]:
    """What a trial hears worse on one split, and the recordings that go with it."""
    differences = {}
    for metric, found in comparison.metrics.items():
        differences[metric] = {**found.difference.as_dict(), "better": found.num_better, "worse": found.num_worse}
    worst = []
    wanted = []
    for metric in comparison.pairs:
        for pair in comparison.worst(metric)[:NUM_WORST]:
            recording = Wanted(split, metric, pair.first.id, pair.first.reference)
            shown = utterance(pair)
            _clip(shown)
            shown["recording"] = recording.key
            worst.append(shown)
            wanted.append(recording)
    return {"differences": differences, "worst": worst}, wanted


def _clip(shown: dict[str, Any]) -> None:
    """Bound the length of an utterance's runs; what is left out is marked."""
    shown["reference"] = _shorten(shown["reference"])
    for side in shown["sides"]:
        for run in side["runs"]:
            kind, reference, output = run
            run[:] = [kind, _shorten(reference), _shorten(output)]


def _shorten(text: str) -> str:
    if len(text) <= _MAX_RUN:
        return text
    return f"{text[:_MAX_RUN]} […]"


def _num_experts(study: StudyRecord, model_info: ModelInfo | None) -> dict[str, int]:
    """Experts a layer of each decoder; where the model is gone, as many as any plan of the study proves."""
    if model_info is not None:
        return {name: shape.num_experts for name, shape in model_info.shape.components.items()}
    num_experts = dict.fromkeys(COMPONENTS, 1)
    for trial in study.trials:
        if trial.plan is None:
            continue
        for name in COMPONENTS:
            edit = trial.plan.component(name)
            if edit is None:
                continue
            for retained in edit.experts:
                if retained:
                    num_experts[name] = max(num_experts[name], max(retained) + 1)
    return num_experts


def _plans(
    trials: Sequence[TrialRecord], num_experts: Mapping[str, int], model_info: ModelInfo | None
) -> dict[str, Any]:
    """What each trial retains and needs, the first ones first, as many as there is room for."""
    plans = {}
    spent = 0
    for trial in trials:
        plan = trial.plan
        assert plan is not None
        maps = {}
        dense = []
        for name in COMPONENTS:
            edit = plan.component(name)
            if edit is None:
                continue
            maps[name] = _expert_map(edit, num_experts[name])
            if edit.num_retained_experts == 0:
                dense.append(name)
        entry = {
            "maps": maps,
            "dense": dense,
            "strip_vision": plan.strip_vision,
            "drop_speech": plan.drop_speech,
            "memory": memory_of(model_info, plan),
        }
        spent += len(json.dumps(entry))
        if spent > MAX_PLAN_BYTES:
            break
        plans[str(trial.number)] = entry
    return plans


def _expert_map(edit: ComponentPlan, num_experts: int) -> list[str]:
    """One string a layer of the original model: a hexadecimal digit for four experts, of which 1 is kept and 0 cut.

    The first expert is the highest bit of the first digit. A dense layer counts as one expert; a cut layer is empty.
    """
    layers, num_digits = set(edit.layers), math.ceil(max(num_experts, 1) / 4)
    rows = []
    for layer, retained in enumerate(edit.experts):
        if layer not in layers:
            rows.append("")
            continue
        bits = 0
        for expert in retained or [0]:
            bits |= 1 << (4 * num_digits - 1 - expert)
        rows.append(f"{bits:0{num_digits}x}")
    return rows
