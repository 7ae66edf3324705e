"""What comes after the last trial: the front is scored on the report split, drawn, and its choice shipped."""

from collections.abc import Sequence
from pathlib import Path

import optuna

from autoreap.data.evals_data import evals_digest
from autoreap.described import load, release
from autoreap.errors import InputError
from autoreap.evaluate import Evaluator
from autoreap.jobs.search_run import SearchResult, SearchRun
from autoreap.jobs.shipping import ship
from autoreap.outcomes import load_outcomes
from autoreap.progress import log
from autoreap.report.page import write_report
from autoreap.report.table import plot_front
from autoreap.study.baselines import check_same_scores
from autoreap.study.confirmation import Confirmation, answerable, is_confirmed
from autoreap.study.confirmed import CONFIRMED
from autoreap.study.confirmed import SPLIT as REPORT_SPLIT
from autoreap.study.front import pareto
from autoreap.study.mlflow_records import trial_record
from autoreap.study.selection import select
from autoreap.study.storage import STORAGE_ERRORS
from autoreap.study.trials import Point, objectives_of, open_study, outcomes_path, plan_of, points_of
from autoreap.terminal.signals import Interrupted
from autoreap.tracking import Tracker

_CONCLUDED = "concluded"  # of a study: how many trials had finished when its front was drawn and shipped


def conclude(run: SearchRun, tracker: Tracker, *, status: str = "FINISHED") -> SearchResult:
    """Draw and ship. Of several workers the last one does it, for all, and once."""
    seat, space, options = run.seat, run.space, run.options
    study = open_study(seat.study, seat.storage)
    company = seat.pulse is not None
    with seat.group.last() as last:
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if options.is_worker or not last or (company and study.user_attrs.get(_CONCLUDED) == len(finished)):
            return SearchResult(study, pareto(points_of(study), objectives_of(study)), None, None, None, is_last=False)
        if company or options.is_led:  # what others have logged, a tracker learns when it is made
            tracker = Tracker(options.root, seat.study, tracking_uri=options.tracking_uri)
            for trial in finished:
                tracker.log_trial(trial_record(trial, list(space.objectives), run.folder))
        interrupted = None
        is_judged = not space.confirm  # with --no-confirm a later run may still do it
        if status == "FINISHED" and options.confirm and space.confirm:
            try:
                is_judged = _confirm_front(study, run)
            except Interrupted as error:
                status, interrupted = "KILLED", error
            release()  # of its model; the checkpoint that ships needs its place
        front, picture, report = _drawn(study, run, tracker, status)
        if interrupted:
            raise interrupted
        shipped = None
        if space.materialise and status == "FINISHED" and _can_ship(study, space.materialise):
            if company:
                _bring_answers(study, space.materialise, run)
            shipped = ship(study, space.materialise, run.described, options.root)
        if status == "FINISHED" and is_judged:
            study.set_user_attr(_CONCLUDED, len(finished))
        return SearchResult(study, front, picture, report, shipped)


def _confirm_front(study: optuna.Study, run: SearchRun) -> bool:
    """Score the front and the baseline on the report split, unless that was done before. One process does it, once.

    Returns whether nothing is left to do. A failure leaves the study as it was: what the search has found does not
    depend on it.

    Raises:
        Interrupted: a signal came; the next call goes on from there.
        one of `STORAGE_ERRORS`: the study can't be read or written.
    """
    try:
        front = pareto(points_of(study), objectives_of(study))
        if not front or not run.evals.splits[REPORT_SPLIT]:
            log("nothing is confirmed: " + ("the evals have no report split" if front else "the front is empty"))
            return True
        digest = evals_digest(run.evals, REPORT_SPLIT)
        if is_confirmed(study, front, digest):
            return True
        loaded = load(run.described, device=run.options.device, dtype=run.options.dtype)
        evals = answerable(run.evals, [plan_of(study, point.trial) for point in front])
        evaluator = Evaluator(loaded.model, loaded.inputs, evals, split=REPORT_SPLIT, batch_size=run.space.batch_size)
        log(
            f"baseline and front ({len(front)}) are scored on the report split, {evaluator.num_answers} answers each; "
            "--hours does not end this, --no-confirm leaves it out"
        )
        confirmation = Confirmation(study, evaluator, digest, run.folder, run.signals)
        with run.signals.deferred():
            confirmation.run(front)
        return True
    except STORAGE_ERRORS:
        raise
    except Exception as error:  # the night's work is whole without it; the reason is shown
        log(f"warning: the front is not confirmed, the same command tries again: {type(error).__name__}: {error}")
        return False


def _can_ship(study: optuna.Study, rule: str) -> bool:
    """Whether `rule` picks a trial; a night that found none of use has still found its front."""
    try:
        select(study, rule)
    except InputError as error:
        log(f"warning: no checkpoint is written: {error}")
        return False
    return True


def _bring_answers(study: optuna.Study, rule: str, run: SearchRun) -> None:
    """Have the answers of the trial that ships on this machine; if they are on another one, it is scored again."""
    point, _ = select(study, rule)
    path = outcomes_path(study, point.trial, run.options.root)
    if path.is_file():
        return
    log(f"the answers of trial {point.trial} are on another machine: it is scored again here")
    loaded = load(run.described, device=run.options.device, dtype=run.options.dtype)
    evaluator = Evaluator(loaded.model, loaded.inputs, run.evals, batch_size=run.space.batch_size)
    evaluator.draft_from(load_outcomes(outcomes_path(study, None, run.options.root)))
    evaluation = evaluator.run(plan_of(study, point.trial))
    check_same_scores(evaluation.metrics(), point.metrics, f"trial {point.trial}")
    evaluation.save_outcomes(path)
    release()


def _drawn(
    study: optuna.Study, run: SearchRun, tracker: Tracker, status: str
) -> tuple[Sequence[Point], Path | None, Path | None]:
    """The front, its picture and the report, which the tracker takes too; without a trial there are none."""
    front = pareto(points_of(study), objectives_of(study))
    picture, report = (run.folder / "front.png", run.folder / "report.html") if front else (None, None)
    if picture and report:
        plot_front(study, picture)
        write_report(study, report, run.options.root)
        log(f"front of {len(front)}: {picture}, {report}")
    if confirmed := study.user_attrs.get(CONFIRMED):
        tracker.log_confirmed(confirmed)
    pictures = [path for path in (picture, report) if path is not None]
    tracker.close([point.trial for point in front], pictures, status=status)
    return front, picture, report
