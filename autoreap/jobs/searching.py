"""The main job: all from a file of a space to a checkpoint."""

import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from autoreap.calibrate import Options
from autoreap.config.evals import load_evals
from autoreap.config.space import load_space
from autoreap.constraints import check_measured
from autoreap.data.evals_data import check_splits_apart, evals_digest
from autoreap.described import default_device, describe, load, release
from autoreap.errors import InputError
from autoreap.evaluate import Evaluator
from autoreap.jobs.calibrating import calibrated, read_calibration
from autoreap.jobs.concluding import conclude
from autoreap.jobs.search_run import SearchResult, SearchRun
from autoreap.objective import Objective, check_device, check_objectives, measured
from autoreap.scoring.latency import NUM_UTTERANCES, Stopwatch, needs_stopwatch
from autoreap.search import Search
from autoreap.study.failures import RepeatedFailureError
from autoreap.study.identity import Identity, check_resumed
from autoreap.study.mlflow_records import study_record
from autoreap.study.options import SearchOptions
from autoreap.study.sampling import check_space, check_vision
from autoreap.study.storage import stored
from autoreap.study.trials import SCORING, default_storage, study_names
from autoreap.study.workers import code_digest, measuring_alone, run_workers, seated
from autoreap.terminal.signals import Interrupted, Signals
from autoreap.tracking import Tracker
from autoreap.writing.behaviour import place


def search(space_path: Path, options: SearchOptions) -> SearchResult:
    """Calibrate once, search, draw the front, and ship the selected candidate if the space says so.

    Raises:
        InputError: the space can't be searched on this model, or not by this study.
        RepeatedFailureError: trials fail one after the other.
        Interrupted: a signal came. The same call goes on with what is left to do, after a failure too.
    """
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
    facts = {"model": described.checkpoint.fingerprint, "evals": evals_digest(evals), "code": code_digest()}
    identity = Identity(facts, may_change=("code",) if options.allow_other_code else ())
    with seated(options) as seat, Signals() as signals, stored():
        check_resumed(space, seat, identity)
        tracker = Tracker(options.root, name, tracking_uri=options.tracking_uri, alone=partial(seat.group.only, "runs"))
        run = SearchRun(space, evals, described, options, seat, signals)
        own = None if options.is_led else _prepared(run, identity, tracker)
        try:
            with signals.deferred():
                if own:
                    own.run(tracker, signals, trials=options.trials or space.trials, deadline=deadline)
                else:
                    run_workers(space_path, options, signals.check)
        except (Interrupted, RepeatedFailureError) as error:
            if own or seat.study in study_names(seat.storage):
                conclude(run, tracker, status="KILLED" if isinstance(error, Interrupted) else "FAILED")
            raise
        del own
        release()  # of the searched model; the checkpoint that ships needs its place
        return conclude(run, tracker)


def _prepared(run: SearchRun, identity: Identity, tracker: Tracker) -> Search:
    """Load and calibrate: all that comes before the first trial. `identity` is what is known without the model."""
    space, evals, described, options = run.space, run.evals, run.described, run.options
    check = run.signals.check
    searches_talker = any(parameter.startswith("talker.") for parameter in space.parameters)
    data = read_calibration(space.calibration)
    loaded = load(described, speech=searches_talker, device=options.device, dtype=options.dtype)
    components = ["thinker", "talker"] if searches_talker else ["thinker"]
    measuring = Options.of(space.calibration)
    with measuring_alone(options.root):
        saliency = calibrated(loaded, data, components, options=measuring, cache=options.root / "saliency")
    evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=space.batch_size, check=check)
    stopwatch = None
    if needs_stopwatch(space.needs):
        stopwatch = Stopwatch(loaded.model, loaded.inputs, evaluator.prompts(NUM_UTTERANCES), check=check)
    objective = Objective(described, saliency, evaluator, space.objectives, stopwatch)
    identity = replace(identity, facts={**identity.facts, "saliency": saliency.digest()})
    search = Search(space, objective, run.seat, identity, run.folder)
    scoring = {"evals": str(evals.path.resolve()), "batch_size": evaluator.batch_size, "where": place(loaded)}
    search.study.set_user_attr(SCORING, scoring)
    tracker.log_study(study_record(space, described, evals, saliency))
    return search
