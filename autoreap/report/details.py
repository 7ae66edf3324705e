"""What the morning report shows of one candidate: what it keeps, what it needs, and what it hears worse."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from autoreap.comparison.comparison import Comparison, Pair, compare_outcomes
from autoreap.comparison.page import utterance
from autoreap.described import Described
from autoreap.errors import InputError
from autoreap.outcomes import load_outcomes
from autoreap.plan import COMPONENTS, ComponentPlan, PruningPlan, plan_from_dict
from autoreap.progress import log
from autoreap.report.memory import GIGABYTES, memory_of, opened_model, stored_type
from autoreap.report.recordings import Wanted, recordings
from autoreap.study.trials import PLAN, RESULT, Point

MAX_DETAILED = 40  # to compare two sides over thousands of utterances takes a second
NUM_WORST = 3  # utterances of each metric
MAX_AUDIO_BYTES = 1_500_000  # as text in the page
MAX_PLAN_BYTES = 2_500_000  # as text in the page; a plan of the 30B model takes 2.5 kB
_FILES = {"search": "outcomes.jsonl", "report": "report.jsonl"}  # split -> the answers to it, in a trial's folder
_MAX_RUN = 240  # characters of a run of words; an output may be a book


def details_of(
    study: optuna.Study, points: Sequence[Point], front: Sequence[Point], picked: Sequence[int], root: Path
) -> dict[str, Any]:
    """What is known of a trial beside its scores, and what they all share.

    `plans` say what a trial keeps and what memory that takes; `details`, of fewer, what it hears worse. Of a study too
    large to tell all, the trials that `picked` names come first, then the front, the presets and the others.
    """
    folder, described = root / "trials" / study.study_name, opened_model(study)
    num_experts = _num_experts(study, described)
    wanted: list[Wanted] = []
    details = {}
    numbers = _ordered(study, points, [*picked, *(point.trial for point in front)])
    for number in numbers[:MAX_DETAILED]:
        compared = _compared(folder, number)
        wanted += [_wanted(split, pair) for split, comparison in compared.items() for pair in _worst(comparison)]
        details[str(number)] = {split: _split(split, comparison) for split, comparison in compared.items()}
    return {
        "details": details,
        "plans": _plans(study, numbers, num_experts, described),
        "experts": num_experts,
        "memory": {
            "gigabytes": GIGABYTES,
            "baseline": memory_of(described, None, study.user_attrs["baseline"]),
            "stored": stored_type(described),
        },
        "recordings": recordings(study, wanted, MAX_AUDIO_BYTES),
    }


def _ordered(study: optuna.Study, points: Sequence[Point], first: Sequence[int]) -> list[int]:
    """The trials with a plan of their own: `first`, the presets, the others."""
    trials = study.get_trials(deepcopy=False)
    distinct = [
        point.trial for point in points if point.duplicate_of is None and PLAN in trials[point.trial].user_attrs
    ]
    presets = [number for number in distinct if "preset" in trials[number].user_attrs]
    known = set(distinct)
    return [number for number in dict.fromkeys([*first, *presets, *distinct]) if number in known]


def _compared(folder: Path, trial: int) -> dict[str, Comparison]:
    """Split -> the trial against the baseline, where the answers of both are still there."""
    found = {}
    for split, name in _FILES.items():
        paths = (folder / "baseline" / name, folder / str(trial) / name)
        if all(path.is_file() for path in paths):
            try:
                found[split] = compare_outcomes(*map(load_outcomes, paths))
            except InputError as error:
                log(f"warning: trial {trial} is not compared on the {split} split: {error}")
    return found


def _wanted(split: str, pair: Pair) -> Wanted:
    return Wanted(split, pair.metric, pair.first.id, pair.first.reference)


def _split(split: str, comparison: Comparison) -> dict[str, Any]:
    return {
        "differences": {
            metric: {**found.difference.as_dict(), "better": found.num_better, "worse": found.num_worse}
            for metric, found in comparison.metrics.items()
        },
        "worst": [_clipped(utterance(pair)) | {"recording": _wanted(split, pair).key} for pair in _worst(comparison)],
    }


def _worst(comparison: Comparison) -> Iterator[Pair]:
    for metric in comparison.pairs:
        yield from comparison.worst(metric)[:NUM_WORST]


def _clipped(shown: dict[str, Any]) -> dict[str, Any]:
    """An utterance whose runs are of bounded length; what is left out is marked."""
    sides = [
        {**side, "runs": [[kind, _short(reference), _short(output)] for kind, reference, output in side["runs"]]}
        for side in shown["sides"]
    ]
    return {**shown, "reference": _short(shown["reference"]), "sides": sides}


def _short(text: str) -> str:
    return text if len(text) <= _MAX_RUN else f"{text[:_MAX_RUN]} […]"


def _num_experts(study: optuna.Study, described: Described | None) -> dict[str, int]:
    """Experts a layer of each decoder; where the model is gone, as many as any plan of the study proves."""
    if described is not None:
        return {name: shape.num_experts for name, shape in described.shape.components.items()}
    plans = [trial.user_attrs[PLAN] for trial in study.get_trials(deepcopy=False) if PLAN in trial.user_attrs]
    return {
        name: 1
        + max(
            (expert for plan in plans if plan.get(name) for row in plan[name]["experts"] for expert in row), default=0
        )
        for name in COMPONENTS
    }


def _plans(
    study: optuna.Study, numbers: Sequence[int], num_experts: Mapping[str, int], described: Described | None
) -> dict[str, Any]:
    """What each trial keeps and needs, the first ones first, as many as there is room for."""
    trials, plans, spent = study.get_trials(deepcopy=False), {}, 0
    for number in numbers:
        known = trials[number].user_attrs
        plan = plan_from_dict(known[PLAN], where=f"trial {number}")
        told = _plan(plan, num_experts) | {"memory": memory_of(described, plan, known[RESULT])}
        spent += len(json.dumps(told))
        if spent > MAX_PLAN_BYTES:
            break
        plans[str(number)] = told
    return plans


def _plan(plan: PruningPlan, num_experts: Mapping[str, int]) -> dict[str, Any]:
    edits = {name: edit for name in COMPONENTS if (edit := plan.component(name)) is not None}
    maps = {name: _map(edit, num_experts[name]) for name, edit in edits.items()}
    dense = [name for name, edit in edits.items() if edit.num_retained_experts == 0]
    return {"maps": maps, "dense": dense, "strip_vision": plan.strip_vision, "drop_speech": plan.drop_speech}


def _map(edit: ComponentPlan, num_experts: int) -> list[str]:
    """One string a layer of the original model: a hexadecimal digit for four experts, of which 1 is kept and 0 cut.

    The first expert is the highest bit of the first digit. A dense layer counts as one expert; a cut layer is empty.
    """
    layers, num_digits = set(edit.layers), -(-max(num_experts, 1) // 4)
    return [
        f"{sum(1 << (4 * num_digits - 1 - expert) for expert in kept or [0]):0{num_digits}x}" if layer in layers else ""
        for layer, kept in enumerate(edit.experts)
    ]
