"""The steps that commands are made of, for Python callers too.

Each opens what it needs, does one thing, and returns its result.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from autoreap.calibration.measure import measure_saliency, read_calibration
from autoreap.data.calibration_config import CalibrationConfig
from autoreap.data.eval_set import open_evals
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.evaluation.comparison import Comparison, compare_outcomes
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.latency import NUM_UTTERANCES, Stopwatch
from autoreap.evaluation.outcomes import Evaluation
from autoreap.healing.healer import STREAMS, Healer, is_same_fit, refitted
from autoreap.healing.polish import Polished, PolishOptions, answered_rows, polish
from autoreap.healing.read_back import with_written_weights
from autoreap.models.loading import Loaded, ModelInfo, load
from autoreap.plan import PruningPlan
from autoreap.report.front_table import plot_front
from autoreap.report.study_page import write_report
from autoreap.search import run
from autoreap.search.records import StudyRecord
from autoreap.search.run import SearchResult
from autoreap.search.search_options import SearchOptions
from autoreap.search.shipping import Shipped, answers_of_trial, refitted_trial, ship
from autoreap.search.storage import DEFAULT_ROOT
from autoreap.writing.behaviour import Expected, answers_of_mask, answers_to_calibration
from autoreap.writing.footprint import Footprint

__all__ = [
    "PolishOptions",
    "Polished",
    "SearchOptions",
    "SearchResult",
    "Shipped",
    "answered_rows",
    "answers_of_mask",
    "answers_of_trial",
    "answers_to_calibration",
    "calibrated",
    "compare_plans",
    "evaluate",
    "evaluated",
    "evaluator_of",
    "healing_data",
    "is_same_fit",
    "make_evaluator",
    "measure_saliency",
    "polish",
    "read_calibration",
    "refitted",
    "refitted_trial",
    "search",
    "ship",
    "with_written_weights",
]


def search(space: Path, options: SearchOptions) -> SearchResult:
    """Calibrate once, search, draw the front, and ship the selected candidate; see `search.run.search`."""
    return run.search(space, options, _draw)


def _draw(study: StudyRecord, folder: Path, root: Path) -> list[Path]:
    picture, page = folder / "front.png", folder / "report.html"
    plot_front(study, picture)
    write_report(study, page, root)
    return [picture, page]


def evaluate(
    model_info: ModelInfo,
    evals: Path,
    plan: PruningPlan | None = None,
    *,
    calibration: CalibrationConfig | None = None,
    latency: bool = False,
    likelihoods: bool = False,
    **options: Any,
) -> Evaluation:
    """Score the model, under `plan` if there is one.

    Args:
        model_info: the model.
        evals: an evals file.
        plan: what is masked.
        calibration: the rows that it is healed on, where it heals.
        latency: also time answers, in turns with the unpruned model.
        likelihoods: also measure the NLL of the references.
        options: of `make_evaluator`.
    """
    loaded, evaluator = make_evaluator(model_info, evals, **options)
    stopwatch = None
    if latency:
        stopwatch = Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(NUM_UTTERANCES))
    if plan is not None and plan.heal is not None:
        plan = Healer(loaded, healing_data(calibration), DEFAULT_ROOT / STREAMS).fit(plan)
    evaluation = evaluator.run(plan, likelihoods=likelihoods)
    if stopwatch is None:
        return evaluation
    footprint = Footprint.of(model_info.checkpoint, plan)
    timings = stopwatch.measure(plan, footprint.size_bytes())
    return replace(evaluation, costs={**footprint.metrics(), **timings})


def healing_data(calibration: CalibrationConfig | None) -> dict[str, list[Sample]]:
    """The rows that a plan is healed on; `InputError` where they are not given."""
    if calibration is None:
        fix = "give the rows that the saliency was measured on, with --audio or --calibration"
        raise InputError("the plan heals, so it needs its calibration set", where="plan", fix=fix)
    return read_calibration(calibration)


def compare_plans(loaded: Loaded, first: PruningPlan, second: PruningPlan, evals: Path) -> tuple[Expected, Comparison]:
    """What the model under plan `second` answers on the search split, and how that compares with `first`."""
    opened = open_evals(evals).search
    evaluator = Evaluator(loaded.model, loaded.inputs, opened)
    before, after = evaluator.run(first), evaluator.run(second)
    return Expected.of(opened, after), compare_outcomes(before.outcomes, after.outcomes)


def make_evaluator(
    model_info: ModelInfo,
    evals: Path,
    *,
    split: str = "search",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
) -> tuple[Loaded, Evaluator]:
    """The model in memory, with what scores it. A broken row is found before the model is loaded."""
    opened = open_evals(evals)
    eval_set = opened.report
    if split == "search":
        eval_set = opened.search
    loaded = load(model_info, device=device, dtype=dtype)
    return loaded, Evaluator(loaded.model, loaded.inputs, eval_set, batch_size=batch_size)


# The names of 0.3.
calibrated = measure_saliency
evaluated = evaluate
evaluator_of = make_evaluator
