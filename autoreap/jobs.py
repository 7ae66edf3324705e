"""One function a command: the command line and Python callers share them.

A job opens the model, does one thing, and returns what there is to show.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from autoreap import calibration_data
from autoreap.behaviour import DEFAULT_CARRIED, Expected, check_behaviour, place, write_utterances
from autoreap.calibrate import Options, calibrate, identity
from autoreap.calibration_config import CalibrationConfig, CalibrationSet
from autoreap.comparison import compare_outcomes
from autoreap.confirmation import Confirmation, answerable, is_confirmed
from autoreap.confirmed import CONFIRMED
from autoreap.confirmed import SPLIT as REPORT_SPLIT
from autoreap.constraints import check_measured
from autoreap.described import Described, Loaded, default_device, describe, load, release
from autoreap.errors import InputError
from autoreap.evals_config import EvalsConfig, TaskConfig, load_evals
from autoreap.evaluate import Evaluator, check_splits_apart, read_task
from autoreap.failures import RepeatedFailureError
from autoreap.footprint import Footprint
from autoreap.front import (
    DEFAULT_ROOT,
    SCORING,
    Point,
    default_storage,
    objectives_of,
    open_study,
    outcomes_path,
    pareto,
    plan_of,
    points_of,
    select,
    study_names,
)
from autoreap.group import Seat
from autoreap.latency import NUM_UTTERANCES, Stopwatch, needs_stopwatch
from autoreap.materialise import materialise
from autoreap.objective import Objective, check_device, check_objectives, costs, measured
from autoreap.outcomes import Evaluation, load_outcomes
from autoreap.plan import PruningPlan, load_plan
from autoreap.progress import log
from autoreap.recorded import study_record, trial_record
from autoreap.report import plot_front
from autoreap.report_page import write_report
from autoreap.resume import resumable
from autoreap.saliency import Saliency, load_saliency
from autoreap.samples import Sample, digest
from autoreap.sampling import check_space, check_vision
from autoreap.scores import Difference
from autoreap.search import Search, check_resumed, check_same_scores
from autoreap.search_options import SearchOptions as SearchOptions
from autoreap.signals import Interrupted, Signals
from autoreap.space_config import SpaceConfig, load_space
from autoreap.storage import STORAGE_ERRORS, stored
from autoreap.streaming import calibrate_by_layer, spool_beside
from autoreap.tracking import Tracker
from autoreap.verification import Verified
from autoreap.workers import code_digest, measuring_alone, run_workers, seated


def read_calibration(calibration: CalibrationConfig | Mapping[str, Path]) -> dict[str, list[Sample]]:
    """The rows by modality, of sets or of one JSONL file each; a broken row is found before a model is loaded."""
    if isinstance(calibration, CalibrationConfig):
        return calibration_data.read_calibration(calibration)
    sets = {modality: (CalibrationSet(str(path)),) for modality, path in calibration.items()}
    return calibration_data.read_calibration(CalibrationConfig(sets))


def calibrated(
    loaded: Loaded,
    data: Mapping[str, Sequence[Sample]],
    components: Sequence[str] = ("thinker",),
    *,
    options: Options | None = None,
    output: Path | None = None,
    cache: Path | None = None,
) -> Saliency:
    """Measure the model on `data` (rows by modality), or take the same measurement from where it was saved before.

    Saved as `output`, or in the folder `cache` under a name that is its own. A measurement that is to be saved can be
    interrupted: the next call goes on from what is left beside the file. A model of which one layer is in memory at a
    time starts anew; without a place to save, it needs `options.spool`.

    Raises:
        InputError: another process measures for the same file now, and as `calibrate` does.
    """
    described, model = loaded.described, loaded.model
    options = replace(options or Options(), shape=described.shape)
    measure = partial(calibrate, model, described.family, loaded.inputs, described.base_model, data)
    if loaded.streamed:
        measure = partial(calibrate_by_layer, loaded, data)
    known = identity(model, described.family, described.base_model, data, components=components, options=options)
    if output is None and cache is not None:
        output = cache / f"{hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"
    if output is None:
        return measure(components=components, options=options)
    if output.is_dir():
        raise InputError("is a directory", where=output, fix="name a file")
    if saliency := _measured_before(output, known):
        return saliency
    with resumable(output) as resume:
        options = replace(options, resume=resume, spool=options.spool or spool_beside(output))
        saliency = measure(components=components, options=options)
        saliency.save(output)
    return saliency


def _measured_before(path: Path, known: Mapping[str, str]) -> Saliency | None:
    """What is saved in `path`, if it is the measurement of this identity."""
    try:
        saliency = load_saliency(path)
    except InputError:  # what it is then, a measurement may take the place of
        return None
    if not known.items() <= saliency.provenance.items():
        return None
    log(f"saliency measured before: {path}")
    return saliency


def evaluated(
    described: Described,
    evals: Path,
    plan: PruningPlan | None = None,
    *,
    latency: bool = False,
    likelihoods: bool = False,
    **options: Any,
) -> Evaluation:
    """Score the model, under `plan` if there is one.

    Args:
        described: the model.
        evals: an evals file.
        plan: what is masked.
        latency: time answers, too, in turns with the unpruned model.
        likelihoods: measure those of the references, too.
        options: of `evaluator_of`.
    """
    loaded, evaluator = evaluator_of(described, evals, **options)
    stopwatch = Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(NUM_UTTERANCES)) if latency else None
    evaluation = evaluator.run(plan, likelihoods=likelihoods)
    if stopwatch is None:
        return evaluation
    return replace(evaluation, costs=costs(Footprint.of(described.checkpoint, plan), plan, stopwatch))


def evaluator_of(
    described: Described,
    evals: Path,
    *,
    split: str = "search",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
) -> tuple[Loaded, Evaluator]:
    """The model in memory, with what scores it."""
    config = load_evals(evals)
    for task in config.splits[split]:
        read_task(task, evals.parent)  # a broken row is found before a model is loaded
    loaded = load(described, device=device, dtype=dtype)
    return loaded, Evaluator(loaded.model, loaded.inputs, config, split=split, batch_size=batch_size)


_CONCLUDED = "concluded"  # of a study: how many trials had finished when its front was drawn and shipped


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves behind: the study, its pictures, and the checkpoint if the space asked for one.

    Attributes:
        is_last: without it another worker makes pictures and checkpoint, or has made them.
    """

    study: optuna.Study
    front: Sequence[Point]
    picture: Path | None
    report: Path | None
    shipped: "Shipped | None"
    is_last: bool = True


def search(space_path: Path, options: SearchOptions) -> SearchResult:
    """The main job: calibrate once, search, draw the front, and ship the selected candidate if the space says so."""
    started = time.monotonic()
    space = load_space(space_path)
    space = replace(space, seed=space.seed if options.seed is None else options.seed)
    evals = load_evals(space.evals)
    check_objectives(space.objectives, evals, where=f"{space.path}: objectives")
    check_measured(space.constraints, measured(evals, space.needs), where=f"{space.path}: constraints")
    check_device(space.needs, space.path, on_accelerator="cpu" not in (options.device, default_device()))
    check_splits_apart(evals)
    described = describe(options.model)
    check_space(space, described.shape)
    check_vision(space, evals)
    hours = options.hours or space.hours
    deadline = started + hours * 3600 if hours is not None else float("inf")
    name = options.study or f"{space.name}-{Path(options.model).name}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"must be letters, digits, '.', '_' and '-', got {name!r}", where="--study")
    options = replace(options, study=name, storage=options.storage or default_storage(options.root))
    identity = {"model": described.checkpoint.fingerprint, "evals": evals_digest(evals), "code": code_digest()}
    with seated(options) as seat, Signals() as signals, stored():
        check_resumed(space, seat, identity, options.may_change)
        tracker = Tracker(options.root, name, tracking_uri=options.tracking_uri, alone=partial(seat.group.only, "runs"))
        run = None
        if not options.is_led:
            run, saliency = _prepared(space, evals, described, seat, options, identity, signals)
            tracker.log_study(study_record(space, described, evals, saliency))
        conclude = partial(_concluded, seat, space, described, options, signals)
        try:
            with signals.deferred():
                if run:
                    run.run(tracker, signals, trials=options.trials or space.trials, deadline=deadline)
                else:
                    run_workers(space_path, options, signals.check)
        except (Interrupted, RepeatedFailureError) as error:
            if run or seat.study in study_names(seat.storage):
                conclude(tracker, status="KILLED" if isinstance(error, Interrupted) else "FAILED")
            raise
        del run
        release()  # of the searched model; the checkpoint that ships needs its place
        return conclude(tracker)


def _prepared(
    space: SpaceConfig,
    evals: EvalsConfig,
    described: Described,
    seat: Seat,
    options: SearchOptions,
    identity: Mapping[str, str],
    signals: Signals,
) -> tuple[Search, Saliency]:
    """Load and calibrate: all that comes before the first trial. `identity` is what is known without the model."""
    searches_talker = any(parameter.startswith("talker.") for parameter in space.parameters)
    data = read_calibration(space.calibration)
    loaded = load(described, speech=searches_talker, device=options.device, dtype=options.dtype)
    components = ["thinker", "talker"] if searches_talker else ["thinker"]
    measuring = Options.of(space.calibration)
    with measuring_alone(options.root):
        saliency = calibrated(loaded, data, components, options=measuring, cache=options.root / "saliency")
    evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=space.batch_size, check=signals.check)
    stopwatch = None
    if needs_stopwatch(space.needs):
        prompts = evaluator.prompts(NUM_UTTERANCES)
        stopwatch = Stopwatch(loaded.model, loaded.inputs, prompts, check=signals.check)
    objective = Objective(
        described.checkpoint, described.shape, described.base_model, saliency, evaluator, space.objectives, stopwatch
    )
    identity = {**identity, "saliency": saliency.digest()}
    folder = options.root / "trials" / seat.study
    run = Search(space, objective, described.shape, seat, identity, folder, options.may_change)
    scoring = {"evals": str(evals.path.resolve()), "batch_size": evaluator.batch_size, "where": place(loaded)}
    run.study.set_user_attr(SCORING, scoring)
    return run, saliency


def confirm_front(
    study: optuna.Study, space: SpaceConfig, described: Described, options: SearchOptions, signals: Signals
) -> None:
    """Score the front and the baseline on the report split, unless that was done before. One process does it, once.

    A failure leaves the study as it was: what the search has found does not depend on it.

    Raises:
        Interrupted: a signal came; the next call goes on from there.
        one of `STORAGE_ERRORS`: the study can't be read or written.
    """
    try:
        evals = load_evals(space.evals)
        front = pareto(points_of(study), objectives_of(study))
        if not front or not evals.splits[REPORT_SPLIT]:
            log("nothing is confirmed: " + ("the evals have no report split" if front else "the front is empty"))
            return
        digest = evals_digest(evals, REPORT_SPLIT)
        if is_confirmed(study, front, digest):
            return
        loaded = load(described, device=options.device, dtype=options.dtype)
        evals = answerable(evals, [plan_of(study, point.trial) for point in front])
        evaluator = Evaluator(loaded.model, loaded.inputs, evals, split=REPORT_SPLIT, batch_size=space.batch_size)
        log(
            f"baseline and front ({len(front)}) are scored on the report split, {evaluator.num_answers} answers each; "
            "--hours does not end this, --no-confirm leaves it out"
        )
        confirmation = Confirmation(study, evaluator, digest, options.root / "trials" / study.study_name, signals)
        with signals.deferred():
            confirmation.run(front)
    except STORAGE_ERRORS:
        raise
    except Exception as error:  # the night's work is whole without it; the reason is shown
        log(f"warning: the front is not confirmed, the same command tries again: {type(error).__name__}: {error}")


def _concluded(
    seat: Seat,
    space: SpaceConfig,
    described: Described,
    options: SearchOptions,
    signals: Signals,
    tracker: Tracker,
    *,
    status: str = "FINISHED",
) -> SearchResult:
    """What comes after the last trial. Of several workers the last one does it, for all, and once."""
    study = open_study(seat.study, seat.storage)
    company = seat.pulse is not None
    with seat.group.last() as last:
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if options.is_worker or not last or (company and study.user_attrs.get(_CONCLUDED) == len(finished)):
            return SearchResult(study, pareto(points_of(study), objectives_of(study)), None, None, None, is_last=False)
        if company or options.is_led:  # what others have logged, a tracker learns when it is made
            tracker = Tracker(options.root, seat.study, tracking_uri=options.tracking_uri)
            for trial in finished:
                tracker.log_trial(trial_record(trial, list(space.objectives), options.root / "trials" / seat.study))
        interrupted = None
        if status == "FINISHED" and options.confirm and space.confirm:
            try:
                confirm_front(study, space, described, options, signals)
            except Interrupted as error:
                status, interrupted = "KILLED", error
            release()  # of its model; the checkpoint that ships needs its place
        front, picture, report = _drawn(study, tracker, options.root, status=status)
        if interrupted:
            raise interrupted
        shipped = None
        if space.materialise and front and status == "FINISHED":
            if company:
                _bring_answers(study, space, described, options)
            shipped = ship(study, space, described, options.root)
        if status == "FINISHED":
            study.set_user_attr(_CONCLUDED, len(finished))
        return SearchResult(study, front, picture, report, shipped)


def _bring_answers(study: optuna.Study, space: SpaceConfig, described: Described, options: SearchOptions) -> None:
    """Have the answers of the trial that ships on this machine; if they are on another one, it is scored again."""
    point, _ = select(study, space.materialise or "knee")
    path = outcomes_path(study, point.trial, options.root)
    if path.is_file():
        return
    log(f"the answers of trial {point.trial} are on another machine: it is scored again here")
    loaded = load(described, device=options.device, dtype=options.dtype)
    evaluator = Evaluator(loaded.model, loaded.inputs, load_evals(space.evals), batch_size=space.batch_size)
    evaluator.draft_from(load_outcomes(outcomes_path(study, None, options.root)))
    evaluation = evaluator.run(plan_of(study, point.trial))
    check_same_scores(evaluation.metrics(), point.metrics, f"trial {point.trial}")
    evaluation.save_outcomes(path)
    release()


def _drawn(
    study: optuna.Study, tracker: Tracker, root: Path, *, status: str = "FINISHED"
) -> tuple[Sequence[Point], Path | None, Path | None]:
    """The front, its picture and the report, which the tracker takes too; without a trial there are none."""
    folder = root / "trials" / study.study_name
    front = pareto(points_of(study), objectives_of(study))
    picture, report = (folder / "front.png", folder / "report.html") if front else (None, None)
    if picture and report:
        plot_front(study, picture)
        write_report(study, report, root)
        log(f"front of {len(front)}: {picture}, {report}")
    if confirmed := study.user_attrs.get(CONFIRMED):
        tracker.log_confirmed(confirmed)
    pictures = [path for path in (picture, report) if path is not None]
    tracker.close([point.trial for point in front], pictures, status=status)
    return front, picture, report


@dataclass(frozen=True)
class Shipped:
    """A trial's checkpoint.

    Attributes:
        trial, reason: which one, and why.
        verified: how its answers compare with the trial's.
        metrics: its scores as plain values.
        against_baseline: for each metric how it fares against the unpruned model, paired over the utterances.
    """

    trial: int
    reason: str
    path: Path
    verified: Verified
    metrics: Mapping[str, Mapping[str, Any]]
    against_baseline: Mapping[str, Difference]


def ship(study: optuna.Study, space: SpaceConfig, described: Described, root: Path) -> Shipped:
    """Materialise the trial that the space's rule selects; loaded by the stock class it must answer as the trial did.

    Raises:
        VerificationError: the checkpoint answers one utterance otherwise than the trial did.
    """
    point, reason = select(study, space.materialise or "knee")
    plan = plan_of(study, point.trial)
    path = root / "checkpoints" / f"{study.study_name}-trial-{point.trial}"
    expected = answers_of_trial(study, point.trial, root)
    if _holds(path, plan):
        verified = check_behaviour(path, expected, carried=0)
    else:
        facts = {"metrics": point.metrics, "trial": f"{study.study_name}/{point.trial}"}
        behaviour = partial(check_behaviour, expected=expected)
        written = materialise(described.checkpoint.path, plan, path, facts=facts, behaviour=behaviour)
        verified = written.record.behaviour
    baseline = load_outcomes(root / "trials" / study.study_name / "baseline" / "outcomes.jsonl")
    against_baseline = {
        metric: measured.difference
        for metric, measured in compare_outcomes(baseline, expected.outcomes).metrics.items()
    }
    return Shipped(point.trial, reason, path, verified, point.metrics, against_baseline)


def answers_of_trial(study: optuna.Study, number: int, root: Path = DEFAULT_ROOT) -> Expected:
    """What trial `number` answered, and on what.

    Raises:
        InputError: its outcomes or the evals are no longer there, or the evals have changed.
    """
    path, baseline = outcomes_path(study, number, root), outcomes_path(study, None, root)
    scoring = study.user_attrs.get(SCORING)
    missing = [needed for needed in (path, baseline) if not needed.is_file()]
    if scoring is None or missing:
        raise InputError(
            "the trial's answers are not there, or not the baseline's", where=missing[0] if missing else path
        )
    evals = load_evals(Path(scoring["evals"]))
    if evals_digest(evals) != study.user_attrs["evals"]:
        raise InputError("has changed since the trial was scored", where=evals.path)
    return Expected(evals, load_outcomes(path), scoring["batch_size"], scoring["where"], load_outcomes(baseline))


def answers_of_mask(described: Described, plan: PruningPlan, evals: Path) -> Expected:
    """What the masked model answers on the search split of `evals`."""
    config = load_evals(evals)
    loaded = load(described)
    evaluator = Evaluator(loaded.model, loaded.inputs, config)
    return Expected(config, evaluator.run(plan).outcomes, evaluator.batch_size, place(loaded))


def answers_to_calibration(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], plan: PruningPlan, scratch: Path
) -> Expected | None:
    """What the masked model answers to some calibration rows, for a checkpoint to be held to.

    `scratch` takes copies of these rows; None where no row holds speech with its text.
    """
    spoken = [sample for sample in data["audio"] if sample.audio is not None and sample.text]
    if not spoken:
        return None
    task = TaskConfig(task="asr", label="", dataset_path="")
    evals = write_utterances(scratch, [(task, spoken)], DEFAULT_CARRIED)
    evaluation = Evaluator(loaded.model, loaded.inputs, evals, batch_size=1).run(plan)
    return Expected(evals, evaluation.outcomes, 1, place(loaded))


def _holds(path: Path, plan: PruningPlan) -> bool:
    """Whether a search that was resumed has shipped this very plan before."""
    return (path / "plan.json").is_file() and load_plan(path / "plan.json").digest() == plan.digest()


def evals_digest(evals: EvalsConfig, split: str = "search") -> str:
    """Sixteen hex digits of a split: its rows, media and prompts."""
    total = hashlib.sha256()
    for config in evals.splits[split]:
        total.update(repr(replace(config, dataset_path="", condition=None)).encode())
        total.update(config.condition.identity().encode() if config.condition else b"")
        total.update(digest(read_task(config, evals.path.parent)).encode())
    return total.hexdigest()[:16]
