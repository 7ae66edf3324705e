"""The main job: from a file of a space to a verified checkpoint."""

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import optuna

from autoreap.calibration.calibrator import Options as CalibrationOptions
from autoreap.calibration.measure import measure_saliency, read_calibration
from autoreap.data.eval_set import Evals, open_evals
from autoreap.data.samples import Sample
from autoreap.data.tasks import base_name
from autoreap.errors import AutoreapError, DeviceLostError, InputError, shown
from autoreap.evaluation.evaluator import Evaluator
from autoreap.formatting import duration
from autoreap.healing.healer import STREAMS, Healer
from autoreap.models.loading import Loaded, ModelInfo, default_device, load, open_model, release
from autoreap.saliency import Saliency
from autoreap.search import records
from autoreap.search.candidates import Planner, check_device, check_objectives, measured_metrics
from autoreap.search.constraints import check_measured
from autoreap.search.failures import RepeatedFailureError
from autoreap.search.front import feasible_points, front_of, in_order_of_size
from autoreap.search.held_out import HeldOutScorer, answerable, estimated_seconds, points_as_dicts, unscored_members
from autoreap.search.leader import Leader
from autoreap.search.packed_base import on_packed_base, packed_base, plan_of_base
from autoreap.search.records import ScoringSetup, StudyRecord, TrialRecord
from autoreap.search.sampling import check_groups, check_space, check_vision, num_layers_to_order
from autoreap.search.sanity import warn_if_hopeless, warn_if_weights_have_no_room, warn_of_shared_rows
from autoreap.search.scorers import LocalPool, RayPool, ScorerPool, ScorerSetup, make_scorer
from autoreap.search.search_log import SearchLog
from autoreap.search.search_options import SearchOptions
from autoreap.search.selection import select
from autoreap.search.shipping import Shipped, ship
from autoreap.search.signals import Interrupted, Signals
from autoreap.search.space import SpaceConfig, load_space
from autoreap.search.storage import (
    STORAGE_ERRORS,
    damage_in_one_line,
    default_storage,
    leading,
    open_storage,
    reason_of,
    storage_errors_in_one_line,
)
from autoreap.search.study import Identity, check_stored_study, code_digest, open_or_create_study
from autoreap.search.tracking import Tracker, study_facts

logger = logging.getLogger(__name__)

_STUDY_NAME = re.compile(r"[\w-][\w.-]{0,199}")
# A study, the folder for pictures, the root: the files drawn.
Draw = Callable[[StudyRecord, Path, Path], list[Path]]


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves behind: the study, its pictures, and the checkpoint if the space asked for one.

    Attributes:
        not_shipped: why there is none, though the space asked for one.
        missing: what could not be made, such as on a full disk, and why; the same call makes it.
    """

    study: StudyRecord
    front: Sequence[TrialRecord]
    drawn: Sequence[Path]
    shipped: Shipped | None
    not_shipped: str = ""
    missing: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what there is not is left out."""
        document: dict[str, Any] = {"study": self.study.name, "points": points_as_dicts(self.study, self.front)}
        if self.shipped is not None:
            document["shipped"] = self.shipped.as_dict()
        if self.not_shipped:
            document["not_shipped"] = self.not_shipped
        if self.missing:
            document["missing"] = list(self.missing)
        return document


class _Resident:
    """The model that is searched; it stays in memory until the last score on the report split."""

    def __init__(self, model_info: ModelInfo, options: SearchOptions) -> None:
        self._load = partial(load, model_info, device=options.device, dtype=options.dtype)
        self._loaded: Loaded | None = None

    def get(self) -> Loaded:
        """The model, loaded if it is not there."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def drop(self) -> None:
        """Give its memory back."""
        self._loaded = None
        release()


@dataclass(frozen=True)
class _Run:
    """One run of a search: what it was given, checked and opened."""

    space: SpaceConfig
    evals: Evals
    model_info: ModelInfo
    options: SearchOptions
    name: str
    storage: str
    signals: Signals
    draw: Draw
    resident: _Resident

    @property
    def num_ordered(self) -> int:
        """How many layers are to be ordered by what answers lose without them."""
        return num_layers_to_order(self.space, self.model_info.shape)

    @cached_property
    def calibration(self) -> dict[str, list[Sample]]:
        """The rows to calibrate and heal on."""
        return read_calibration(self.space.calibration, num_ordered=self.num_ordered)

    @property
    def folder(self) -> Path:
        return records.trials_folder(self.name, self.options.root)


def search(space_path: Path, options: SearchOptions, draw: Draw) -> SearchResult:
    """Calibrate once, search, score the front on the report split, `draw` it, and ship the selected candidate.

    Raises:
        InputError: the space can't be searched on this model, or not by this study.
        RepeatedFailureError: trials fail one after the other, and none was scored before.
        DeviceLostError: the device is lost to this process; the same call in a new one goes on.
        Interrupted: a signal came. The same call resumes, after a failure too.
    """
    # `--hours` counts from here: calibration and the baseline are part of the night.
    started = time.monotonic()
    space = load_space(space_path)
    if options.seed is not None:
        space = replace(space, seed=options.seed)
    evals = open_evals(space.evals)
    model = options.model or space.model
    if model is None:
        raise InputError("does not say which model to search", where=space_path, fix="--model MODEL, or a key `model`")
    model_info = open_model(model)
    name = options.study or f"{space.name}-{Path(model).name}"
    base_plan = None
    if options.base_bits is not None:
        base_plan = plan_of_base(model_info, options.base_bits, space)
        space = on_packed_base(space)
        name = options.study or f"{name}-{options.base_bits}-bits"
    _check(space, evals, model_info, options)
    if not _STUDY_NAME.fullmatch(name):  # it names a folder, too
        problem = f"must consist of letters, digits, '.', '_' and '-', and not begin with a dot, got {shown(name)}"
        raise InputError(problem, where="--study")
    if base_plan is not None:
        model_info = packed_base(model_info, base_plan, options.root)
    hours = options.hours or space.hours
    deadline = math.inf
    if hours is not None:
        deadline = started + hours * 3600
    storage = options.storage or default_storage(options.root)
    # The lock comes first and goes last: nobody else may write while signals and errors are still dealt with.
    with leading(name, storage, options.root), Signals() as signals, storage_errors_in_one_line(storage):
        resident = _Resident(model_info, options)
        run = _Run(space, evals, model_info, options, name, storage, signals, draw, resident)
        tracker, study, error = _score_candidates(run, deadline)
        if error is not None:
            resident.drop()  # a lost device answers no more, and what is drawn needs no model
        if isinstance(error, RepeatedFailureError) and _has_scored(study):
            result = _finalise(study, run, tracker)  # what was found is not lost with what failed
            return replace(result, missing=(f"the rest of the trials: {error}", *result.missing))
        if error is not None:
            if records.read_baseline(study) is not None:
                status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
                _draw(study, run, tracker, status)
            raise error
        return _finalise(study, run, tracker)


def _has_scored(study: optuna.Study) -> bool:
    return records.read_baseline(study) is not None and bool(records.read_study(study).points)


def _check(space: SpaceConfig, evals: Evals, model_info: ModelInfo, options: SearchOptions) -> None:
    """All that can be known of a search before a model is loaded; raises `InputError`."""
    check_objectives(space.objectives, evals.search, where=f"{space.path}: objectives")
    directions = measured_metrics(evals.search, space.needs)
    check_measured(space.constraints, directions, where=f"{space.path}: constraints")
    check_device(space.needs, space.path, on_accelerator="cpu" not in (options.device, default_device()))
    evals.check_splits_apart()
    check_space(space, model_info.shape)
    check_groups(space, model_info)
    _check_margins(space, evals)
    check_vision(space, evals.search)


def _check_margins(space: SpaceConfig, evals: Evals) -> None:
    """Raise `InputError` if a margin is of a metric that no split measures."""
    measured = set()
    for task in (*evals.search.tasks, *evals.report.tasks):
        measured |= {task.metric, base_name(task.metric)}
    for metric in space.margins:
        if metric not in measured:
            where, fix = f"{space.path}: margins.{metric}", f"known: {', '.join(sorted(measured))}"
            raise InputError("is for a metric that the evals do not have", where=where, fix=fix)


def _score_candidates(
    run: _Run, deadline: float
) -> tuple[Tracker, optuna.Study, Interrupted | RepeatedFailureError | DeviceLostError | None]:
    """Calibrate and score until the budget is spent; what ended it early is returned, not raised."""
    space, options = run.space, run.options
    storage = open_storage(run.storage)
    # Checked before the model is loaded, which takes minutes; the saliency's digest is known only after that.
    fingerprint, evals_digest = run.model_info.checkpoint.fingerprint, run.evals.search.digest
    facts = {"model": fingerprint, "evals": evals_digest, "code": code_digest()}
    may_change = ("code",) if options.allow_other_code else ()
    identity = Identity(facts, may_change)
    with damage_in_one_line(run.name, run.storage):
        check_stored_study(space, storage, run.name, identity)
    tracker = Tracker(options.root, run.name, tracking_uri=options.tracking_uri)
    log: SearchLog | None = None

    def on_outcome() -> None:
        """Each answer is counted, and is where a signal can end a long trial."""
        run.signals.check()
        if log is not None:
            log.count_answer()

    saliency, pool = _prepare(run, on_outcome)
    try:
        identity = replace(identity, facts={**facts, "saliency": saliency.digest()})
        study = open_or_create_study(space, storage, run.name, identity)
        records.record_margins(study, space.margins)
        evals_path, space_path = str(run.evals.path.resolve()), str(space.path.resolve())
        scoring = ScoringSetup(evals_path, pool.batch_size, pool.where, space_path)
        records.record_scoring(study, scoring)
        tracker.log_study(study_facts(space, run.model_info, run.evals.search, saliency))
        num_trials = options.trials or space.trials
        log = SearchLog(num_trials, deadline, pool.num_answers)
        planner = Planner(run.model_info, saliency, space.constraints)
        on_baseline = partial(warn_if_hopeless, evals=run.evals.search)
        leader = Leader(space, study, planner, pool, run.folder, log, on_baseline)
        with run.signals.deferred():
            leader.run(tracker, run.signals, num_trials=num_trials, deadline=deadline)
    except (Interrupted, RepeatedFailureError, DeviceLostError) as error:
        return tracker, study, error
    finally:
        pool.close()
    return tracker, study, None


def _prepare(run: _Run, on_outcome: Callable[[], None]) -> tuple[Saliency, ScorerPool]:
    """Load the model, calibrate or take a known measurement, and start the scorers."""
    space, options, check = run.space, run.options, run.signals.check
    data = run.calibration
    warn_of_shared_rows(data, run.evals.report)
    searches_talker = any(parameter.startswith("talker.") for parameter in space.parameters)
    components = ["thinker"]
    if searches_talker:
        components.append("talker")
        loaded = load(run.model_info, speech=True, device=options.device, dtype=options.dtype)
    else:
        loaded = run.resident.get()
    measuring = CalibrationOptions.of(space.calibration)
    cache = options.root / "saliency"
    saliency = measure_saliency(loaded, data, components, options=measuring, cache=cache, num_ordered=run.num_ordered)
    setup = ScorerSetup(
        model=run.model_info.name,
        evals=run.evals.path.resolve(),
        objectives=space.objectives,
        metrics=space.needs,
        batch_size=space.batch_size,
        device=options.device,
        dtype=options.dtype,
        calibration=space.calibration if space.heals else None,
        streams=(options.root / STREAMS).resolve(),
    )
    del loaded
    if searches_talker:
        release()  # what is scored does not speak
    if options.workers == 1:
        loaded = run.resident.get()
        warn_if_weights_have_no_room(space, run.model_info)
        scorer = make_scorer(loaded, setup, run.evals.search, check, data)
        return saliency, LocalPool(scorer, on_outcome)
    run.resident.drop()  # the actors load it again, on this device or on others
    return saliency, RayPool(setup, options.workers, check)


def _finalise(study: optuna.Study, run: _Run, tracker: Tracker) -> SearchResult:
    """What comes after the last trial: held-out scores, pictures, and the checkpoint.

    Whatever of it fails, what the search has found is returned.
    """
    missing: list[str] = []
    if run.options.confirm and run.space.confirm:
        try:
            _score_held_out(study, run)
        except Interrupted:
            _draw(study, run, tracker, "KILLED")
            raise
        except STORAGE_ERRORS as error:
            missing.append(f"the scores on the report split: {reason_of(error, run.storage)}")
    run.resident.drop()  # the checkpoint that ships needs its place
    record, front, drawn = _draw(study, run, tracker, "FINISHED")
    run.signals.check()
    shipped, not_shipped = None, ""
    if run.space.materialise is not None:
        try:
            point, reason = select(record, run.space.materialise)
        except InputError as error:  # a night that found nothing useful has still found its front
            logger.warning("no checkpoint is written: %s", error)
            not_shipped = str(error)
        else:
            try:
                shipped = ship(record, point, reason, run.model_info, run.options.root)
            except Exception as error:  # a full disk, or whatever else: the reason is shown after the front
                missing.append(f"the checkpoint of trial {point.number}: {_told(error)}")
    if shipped is not None:
        # Recorded once the checkpoint is verified and has its name: a kill before that leaves it to be shipped again.
        try:
            records.record_shipped(study, shipped.trial)
            drawn = _draw_pictures(records.read_study(study), run)  # now the page can say what shipped
        except STORAGE_ERRORS as error:
            missing.append(f"a note in the study that trial {shipped.trial} shipped: {reason_of(error, run.storage)}")
    if front and not drawn:
        missing.append("front.png and report.html")
    return SearchResult(record, front, drawn, shipped, not_shipped, missing)


def _score_held_out(study: optuna.Study, run: _Run) -> None:
    """Score the front and the baseline on the report split, unless that was done before.

    A failure leaves the study as it was: what the search has found does not depend on it.

    Raises:
        Interrupted: a signal came; the next call goes on from there.
        one of `STORAGE_ERRORS`: the study can't be read or written.
    """
    try:
        record = records.read_study(study)
        front = front_of(record)
        if not front or not run.evals.report.tasks:
            reason = "the evals have no report split" if front else "the front is empty"
            logger.info("nothing is scored on the report split: %s", reason)
            return
        digest = run.evals.report.digest
        members = unscored_members(record, digest)
        if not members:
            return
        loaded = run.resident.get()
        # All that may come to be scored, not the front alone: every member answers the same tasks.
        plans = [record.plan(point.number) for point in feasible_points(record.points)]
        evals = answerable(run.evals.report, plans)
        evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=run.space.batch_size)
        num_searched = sum(len(task.samples) for task in run.evals.search.tasks)
        seconds = estimated_seconds(record, num_searched, evaluator.num_answers, len(front))
        duration_text = "" if seconds is None else f", about {duration(seconds)}"
        deadline, end_text = math.inf, "confirm_hours can end it earlier"
        hours = run.space.confirm_hours
        if hours is not None:
            deadline, end_text = time.monotonic() + hours * 3600, f"confirm_hours ends it after {hours:g} h"
        logger.info(
            "scoring the baseline and the front (%d) on the report split, %d answers each%s; "
            "--hours does not end this, %s, --no-confirm leaves it out",
            *(len(front), evaluator.num_answers, duration_text, end_text),
        )
        healer = None
        if run.space.heals:
            healer = Healer(loaded, run.calibration, run.options.root / STREAMS, run.signals.check)
        scorer = HeldOutScorer(study, evaluator, healer, digest, run.folder, run.signals.check, deadline)
        points = in_order_of_size(front)
        with run.signals.deferred():
            # The smallest safe candidate may lie off the front; where the split refutes it, the next one is asked for.
            while members:
                points = in_order_of_size([*points, *members])
                scorer.run(record, points)
                record = records.read_study(study)
                members = unscored_members(record, digest, [point.number for point in points])
    except STORAGE_ERRORS:
        raise
    except Exception as error:  # the search is complete without it; the reason is shown
        reason = f"{type(error).__name__}: {error}"
        logger.warning("the front is not scored on the report split, the same command tries again: %s", reason)


def _draw_pictures(record: StudyRecord, run: _Run) -> list[Path]:
    """The files of pictures and report; none where they can't be drawn, which costs nothing else."""
    try:
        return run.draw(record, run.folder, run.options.root)
    except Exception as error:  # a full disk, or whatever else
        logger.warning("front and report are not drawn: %s", _told(error))
        return []


def _told(error: Exception) -> str:
    """What went wrong, and of what nobody expects its kind."""
    if isinstance(error, AutoreapError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _draw(
    study: optuna.Study, run: _Run, tracker: Tracker, status: str
) -> tuple[StudyRecord, Sequence[TrialRecord], Sequence[Path]]:
    """The study as it is, its front, and the pictures and reports of it, which MLflow takes too."""
    record = records.read_study(study)
    front = front_of(record)
    drawn: list[Path] = []
    if front:
        drawn = _draw_pictures(record, run)
    if drawn:
        logger.info("front of %d: %s", len(front), ", ".join(map(str, drawn)))
    if record.held_out is not None:
        tracker.log_held_out(record.held_out)
    tracker.close([point.number for point in front], drawn, status=status)
    return record, front, drawn
