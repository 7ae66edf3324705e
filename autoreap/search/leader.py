"""One process leads a search: it alone asks, tells and writes. Scorers get plans and return outcomes.

Optuna's storage is the truth. A trial is told to it once everything about it is known; MLflow follows, and what it
missed is logged when the search resumes.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import optuna
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from autoreap.candidate import control
from autoreap.errors import DeviceLostError, InputError, ScoringError
from autoreap.evaluation.comparison import compare_outcomes
from autoreap.evaluation.outcomes import OUTCOMES_NAME, Evaluation, load_outcomes
from autoreap.scores import Metric
from autoreap.search import records
from autoreap.search.candidates import PlannedCandidate, Planner, metric_values, objective_values
from autoreap.search.constraints import is_static
from autoreap.search.failures import FailuresInARow, RepeatedFailureError
from autoreap.search.front import best_so_far, pareto
from autoreap.search.neighbours import Neighbour, Neighbourhood
from autoreap.search.non_inferiority import margin_limits, nearest_to_non_inferior, non_inferior_points
from autoreap.search.racing import MIN_POPULATION, Incumbent, Limit, Numerators
from autoreap.search.records import BASELINE, ScoredModel, TrialRecord, TrialStatus
from autoreap.search.samplers import make_sampler
from autoreap.search.sampling import enqueue_presets, sample
from autoreap.search.scorers import Drafts, Job, JobResult, ScorerPool
from autoreap.search.search_log import SearchLog, trial_line
from autoreap.search.signals import Signals
from autoreap.search.space import SpaceConfig
from autoreap.search.tracking import Tracker

logger = logging.getLogger(__name__)

# The last part of the budget goes to the neighbours of the front, as long as there are untried ones: a sampler finds
# where to look, and leaves plans out that differ by a step from the best ones (benchmarks/search_quality.py).
_SHARE_FOR_NEIGHBOURS = 0.4
# Draws in a row that need no scoring: what is left of the space is not found by drawing.
_MAX_FRUITLESS = 50
_NUM_NEAREST = 3  # candidates around which a smaller one is looked for

OnBaseline = Callable[[Drafts, Mapping[str, Metric]], None]


class Leader:
    """Leads one study of one space on one model.

    Args:
        study: opened, with its identity recorded.
        planner: makes the plans of candidates.
        pool: scores them.
        folder: takes each trial's files, as `<number>/plan.json` and `<number>/outcomes.jsonl`.
        on_baseline: gets the answers and the metrics of the unpruned model, before any candidate is scored.
    """

    def __init__(
        self,
        space: SpaceConfig,
        study: optuna.Study,
        planner: Planner,
        pool: ScorerPool,
        folder: Path,
        log: SearchLog,
        on_baseline: OnBaseline = lambda _answers, _metrics: None,
    ) -> None:
        self._space = space
        self._study = study
        self._planner = planner
        self._pool = pool
        self._folder = folder
        self._log = log
        self._objectives = space.objectives
        self._trials: dict[int, TrialRecord] = {}  # finished ones, by number
        # The first scored or pruned trial of each plan, by its digest.
        self._of_plan: dict[str, TrialRecord] = {}
        self._running: dict[int, tuple[Trial, PlannedCandidate]] = {}
        # For the result of an equal plan that is running.
        self._waiting: list[tuple[Trial, PlannedCandidate]] = []
        self._numerators: dict[int, Numerators] = {}
        self._unpruned: dict[str, float] = {}
        self._answers: Drafts = {}  # of the unpruned model
        self._limits: Mapping[str, Limit] = {}
        self._on_baseline = on_baseline
        self._num_fruitless = 0
        self._queued: set[str] = set()  # digests of neighbours to try
        self._neighbourhood = Neighbourhood(space, planner)

    def run(self, tracker: Tracker, signals: Signals, *, num_trials: int, deadline: float) -> None:
        """Score plans until the study has `num_trials` scored ones or `deadline` (`time.monotonic`) has passed.

        A plan that is drawn again costs nothing. Towards the end the neighbours of the front are tried.

        Raises:
            RepeatedFailureError: trials fail one after the other.
            DeviceLostError: this process can score nothing more; the trial that it happened to is tried again.
            Interrupted: a signal came; the trials it interrupted are tried first next time.
            one of `STORAGE_ERRORS`: the storage can't be read or written.
        """
        self._recover([])
        try:
            self._score_baseline()
            self._score_controls()
            enqueue_presets(self._study, self._space, self._planner.shape)
            self._begin_session()
            baseline = records.read_baseline(self._study)
            assert baseline is not None
            tracker.log_baseline(baseline.metrics)
            # Those that an earlier run could not log are missing in MLflow.
            for trial in self._trials.values():
                self._track(tracker, trial)
            self._score_trials(tracker, signals, num_trials, deadline)
            self._note_untried()
        except (KeyboardInterrupt, RepeatedFailureError, DeviceLostError) as error:
            begun = [*self._running, *(trial.number for trial, _ in self._waiting)]
            # What runs is marked as interrupted now, so that the next run and MLflow don't find it running. A candidate
            # that is running when the device is lost may be what broke it, so that counts against it.
            spared = [] if isinstance(error, DeviceLostError) else begun
            self._recover(spared)
            for number in begun:
                self._track(tracker, self._trials[number])
            raise
        finally:
            self._log.close()

    def _score_baseline(self) -> None:
        """Have the unpruned model scored, or its answers read; they are the drafts of all candidates."""
        path = self._folder / BASELINE / OUTCOMES_NAME
        baseline = records.read_baseline(self._study)
        size_bytes, static = self._planner.unpruned()
        outcomes: Drafts | None = None
        if baseline is not None and path.is_file():
            try:
                outcomes = load_outcomes(path)
            except InputError as error:
                logger.warning("%s; scoring the unpruned model again", error)
        if outcomes is None:
            result = self._score_alone(Job(BASELINE, None, metric_values(size_bytes, static)))
            evaluation, metrics = _evaluation_of(result, static)
            # A baseline without a number can't be a baseline.
            objective_values(self._objectives, size_bytes, metrics)
            if baseline is not None:
                _check_same_scores(metrics, baseline.metrics)
            # The files before the record: a study with a baseline but no answers would have no drafts.
            evaluation.save(path.parent)
            outcomes = evaluation.outcomes
            if baseline is None:
                baseline = ScoredModel(metrics, size_bytes)
                records.record_baseline(self._study, baseline)
                self._log.model_scored(BASELINE, baseline, list(self._objectives), evaluation.seconds)
        assert baseline is not None
        assert outcomes is not None
        self._pool.draft_from(outcomes)
        self._answers = outcomes
        self._unpruned = metric_values(baseline.size_bytes, baseline.metrics)
        self._limits = margin_limits(baseline.metrics, self._space.margins)
        self._on_baseline(outcomes, baseline.metrics)
        # A missing metric is found before any candidate is scored.
        for constraint in self._space.constraints:
            constraint.violation(self._unpruned, self._unpruned)

    def _score_controls(self) -> None:
        """Score the controls that the study has no scores of. They are no trials: no sampler may learn from them."""
        num_layers = self._planner.shape.components["thinker"].num_layers
        for name in self._space.controls:
            if name in records.read_controls(self._study):
                continue
            planned = self._planner.plan(control(name, num_layers))
            result = self._score_alone(Job(f"control {name}", planned.plan, planned.static_values))
            try:
                evaluation, metrics = _evaluation_of(result, planned.static)
            except ScoringError as error:  # nothing depends on it; a resumed search tries again
                logger.warning("control %s is not scored: %s", name, error)
                continue
            planned.plan.save(self._folder / name / "plan.json")
            evaluation.save(self._folder / name)
            scored = ScoredModel(metrics, planned.size_bytes)
            records.record_control(self._study, name, scored)
            self._log.model_scored(f"control {name}", scored, list(self._objectives), evaluation.seconds)

    def _score_alone(self, job: Job) -> JobResult:
        """Score what is no trial, while nothing else is scored."""
        self._log.begin(str(job.key))
        self._pool.start(job)
        return self._pool.wait()[1]

    def _begin_session(self) -> None:
        # After the presets are queued, for they count: the record of a session says what to draw again.
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = make_sampler(self._space, number)
        records.record_session(self._study, number, self._space.seed, self._space.sampler)

    def _score_trials(self, tracker: Tracker, signals: Signals, num_trials: int, deadline: float) -> None:
        failures = FailuresInARow()
        while True:
            signals.check()
            self._start_waiting()
            # All scorers get work before the first result is waited for.
            while self._pool.has_idle and self._num_taken < num_trials and time.monotonic() < deadline:
                trial = self._ask(num_trials)
                if trial is None:
                    break
                self._begin(trial)
                # Of one that is settled without being scored.
                self._finish(tracker, failures, trial.number)
            if not self._running:
                return
            self._log.beat(len(self._running))
            job, result = self._pool.wait()
            assert isinstance(job.key, int)
            trial, planned = self._running[job.key]
            self._take_result(trial, planned, result)
            # Only now: a signal in between must find it among what runs.
            del self._running[trial.number]
            self._finish(tracker, failures, trial.number)
            # Others drew an equal plan while this one ran: its result is theirs, too.
            for duplicate in self._settle_waiting(planned.digest):
                self._finish(tracker, failures, duplicate.number)

    @property
    def _num_taken(self) -> int:
        """What is spent of the budget, or about to be."""
        return sum(trial.is_spent for trial in self._trials.values()) + len(self._running)

    def _ask(self, num_trials: int) -> Trial | None:
        """The next trial. Towards the end of the budget, or where drawing finds nothing new, an untried neighbour.

        None where neither finds anything.
        """
        if records.has_waiting(self._study):  # presets, and what was interrupted, come first
            return self._study.ask()
        is_exhausted = self._num_fruitless >= _MAX_FRUITLESS
        if is_exhausted or self._num_taken >= (1 - _SHARE_FOR_NEIGHBOURS) * num_trials:
            neighbour = self._next_neighbour()
            if neighbour is not None:
                records.enqueue_neighbour(self._study, neighbour.params, neighbour.origin)
                self._queued.add(neighbour.digest)
            elif is_exhausted:
                return None
        return self._study.ask()

    def _next_neighbour(self) -> Neighbour | None:
        """The untried neighbour that comes first.

        A smaller candidate that is as good as the unpruned model is worth most: first come neighbours of the smallest
        non-inferior one that are smaller than it, then those of what fails by little; of each size only the best. Then
        come the neighbours of the front, smallest first.
        """
        nearest = nearest_to_non_inferior(self._points, self._space.margins)
        trials = [*nearest, *self._trials.values()]
        best_of_size: dict[int, TrialRecord] = {}
        for point in nearest:
            best_of_size.setdefault(point.size_bytes, point)
        limit = self._smallest_non_inferior
        # One iterator a point: neighbours are planned as they are looked at, and most never are.
        offered = []
        for point in list(best_of_size.values())[:_NUM_NEAREST]:
            offered.append(self._neighbourhood.around(point, limit, trials))
        for point in pareto(self._points, self._objectives):
            offered.append(self._neighbourhood.of(point))
        tried = self._tried
        for neighbour in chain.from_iterable(offered):
            if neighbour.digest not in tried:
                return neighbour
        return None

    @property
    def _tried(self) -> set[str]:
        """Digests of the plans that were tried, are being scored, or are queued."""
        # What was interrupted counts once it is tried again: until then its plan has no score.
        tried = {trial.plan_digest for trial in self._trials.values() if trial.status is not TrialStatus.INTERRUPTED}
        return tried | {planned.digest for _, planned in self._running.values()} | self._queued

    def _note_untried(self) -> None:
        untried = set()
        for point in pareto(self._points, self._objectives):
            untried |= {neighbour.digest for neighbour in self._neighbourhood.of(point)}
        num_untried = len(untried - self._tried)
        records.record_untried(self._study, num_untried)
        if num_untried:
            logger.info("the front may not be complete: %d of its one-step neighbours are untried", num_untried)
        else:
            logger.info("the front is locally complete: each of its one-step neighbours was tried, none improves it")

    @property
    def _smallest_non_inferior(self) -> float:
        """Size of the smallest non-inferior candidate so far, in bytes; infinity where there is none."""
        points = non_inferior_points(self._points, self._space.margins)
        return points[0].size_bytes if points else math.inf

    def _begin(self, trial: Trial) -> None:
        """Plan the trial. It is settled at once if nothing must be scored for it; else a scorer gets it."""
        try:
            planned = self._planner.plan(sample(trial, self._space, self._planner.shape))
        except Exception as error:  # one bad candidate must not end a night; the reason is kept and shown
            records.record_failure(self._study, trial, f"{type(error).__name__}: {error}")
            return
        records.record_plan(trial, planned.plan, planned.digest)
        broken = self._judge(trial, planned.static_values, static=True)
        if broken:
            records.record_infeasible(self._study, trial, broken)
            self._num_fruitless += 1
        elif self._is_running(planned):  # two scorers must not answer one plan
            self._waiting.append((trial, planned))
            self._num_fruitless += 1
        elif self._settle_as_duplicate(trial, planned):
            self._num_fruitless += 1
        else:
            self._num_fruitless = 0
            self._start(trial, planned)

    def _start(self, trial: Trial, planned: PlannedCandidate) -> None:
        self._log.begin(f"trial {trial.number}")
        self._running[trial.number] = (trial, planned)
        incumbents: tuple[Incumbent, ...] = ()
        if self._space.racing and self._may_prune(trial):
            incumbents = self._incumbents()
        # What ships is the smallest non-inferior candidate, so one that may be it is not pruned for being dominated.
        limits: Mapping[str, Limit] = {}
        if planned.size_bytes < self._smallest_non_inferior:
            limits = self._limits
        self._pool.start(Job(trial.number, planned.plan, planned.static_values, incumbents, limits))

    def _settle_as_duplicate(self, trial: Trial, planned: PlannedCandidate) -> bool:
        """Tell the study what is known of an equal plan, at no cost. Whether there is one."""
        earlier = self._of_plan.get(planned.digest)
        if earlier is None:
            return False
        if earlier.is_scored:
            self._judge(trial, metric_values(earlier.size_bytes, earlier.metrics), static=False)
            scored = ScoredModel(earlier.metrics, earlier.size_bytes)
            values = list(earlier.values.values())
            if earlier.plan is not None:  # with the digest of its healed weights
                records.record_plan(trial, earlier.plan, planned.digest)
            differences = earlier.against_baseline
            records.record_result(self._study, trial, values, scored, differences, duplicate_of=earlier.number)
            return True
        if not self._may_prune(trial):  # the equal plan was stopped, but this trial needs a score
            return False
        details = {"reason": earlier.reason, "num_utterances": earlier.num_utterances}
        records.record_pruned(self._study, trial, details, duplicate_of=earlier.number)
        return True

    def _may_prune(self, trial: Trial) -> bool:
        # Presets are what others are compared with, so they are scored to the end.
        # Optuna's GP ignores pruned trials, so it would draw the same values again.
        return not isinstance(self._study.sampler, GPSampler) and not records.is_preset(trial)

    def _take_result(self, trial: Trial, planned: PlannedCandidate, result: JobResult) -> None:
        if result.pruned is not None:
            records.record_pruned(self._study, trial, result.pruned.as_dict())
            return
        try:
            evaluation, metrics = _evaluation_of(result, planned.static)
            values = objective_values(self._objectives, planned.size_bytes, metrics)
            self._judge(trial, metric_values(planned.size_bytes, metrics), static=False)
        except ScoringError as error:
            records.record_failure(self._study, trial, result.error or f"{type(error).__name__}: {error}")
            return
        # The files before the result: a finished trial without its answers could be neither compared nor shipped.
        folder = self._folder / str(trial.number)
        plan = replace(planned.plan, heal=result.healing)
        plan.save(folder / "plan.json")
        evaluation.save(folder)
        if result.healing is not None:
            records.record_plan(trial, plan, planned.digest)
        scored = ScoredModel(metrics, planned.size_bytes)
        differences = compare_outcomes(self._answers, evaluation.outcomes).differences
        records.record_result(self._study, trial, values, scored, differences, seconds=evaluation.seconds)

    def _is_running(self, planned: PlannedCandidate) -> bool:
        return any(other.digest == planned.digest for _, other in self._running.values())

    def _settle_waiting(self, digest: str) -> list[Trial]:
        """The trials that waited for the result of an equal plan and are settled by it."""
        settled = []
        for trial, planned in list(self._waiting):
            if planned.digest == digest and self._settle_as_duplicate(trial, planned):
                self._waiting.remove((trial, planned))
                settled.append(trial)
        return settled

    def _start_waiting(self) -> None:
        """Score trials that waited for a result that didn't settle them, one of each plan."""
        for trial, planned in list(self._waiting):
            if self._pool.has_idle and not self._is_running(planned):
                self._waiting.remove((trial, planned))
                self._start(trial, planned)

    def _judge(self, trial: Trial, values: Mapping[str, float], *, static: bool) -> str:
        """Tell the study by how much `trial` violates the static constraints, or the others.

        Returns the violated ones in words. A sampler learns from violations, of a pruned trial too.
        """
        violated = []
        for constraint in self._space.constraints:
            if is_static(constraint.metric) == static:
                violation = constraint.violation(values, self._unpruned)
                trial.set_constraint(constraint.text, violation)
                if violation > 0:
                    violated.append(constraint.with_value(values))
        return "; ".join(violated)

    def _incumbents(self) -> tuple[Incumbent, ...]:
        front = pareto(self._points, self._objectives)
        members = {point.number for point in front}
        # Of a large eval set they take memory, and who has left the front comes back no more.
        for number in self._numerators.keys() - members:
            del self._numerators[number]
        incumbents = []
        for point in front:
            incumbents.append(Incumbent(point.number, point.values, point.metrics, self._numerators_of(point)))
        return tuple(incumbents)

    def _numerators_of(self, point: TrialRecord) -> Numerators:
        """What `point` scored, utterance by utterance, where there are enough of them for a sample to decide."""
        large = [name for name, metric in point.metrics.items() if (metric.num_samples or 0) >= MIN_POPULATION]
        if not large:
            return {}
        if point.number not in self._numerators:
            numerators: dict[str, dict[str, int]] = {}
            try:
                outcomes = load_outcomes(self._folder / str(point.number) / OUTCOMES_NAME)
            except (InputError, OSError) as error:
                logger.warning("candidates are not compared with trial %d by samples: %s", point.number, error)
                outcomes = {}
            # Only what a race needs of them: the answers themselves would be sent to every actor with every job.
            for metric, listed in outcomes.items():
                numerators[metric] = {outcome.id: outcome.counts.numerator for outcome in listed}
            self._numerators[point.number] = numerators
        return self._numerators[point.number]

    def _finish(self, tracker: Tracker, failures: FailuresInARow, number: int) -> None:
        # Optuna numbers trials from 0 on, without gaps.
        frozen = self._study.get_trials(deepcopy=False)[number]
        if not frozen.state.is_finished():
            return
        trial = self._note(frozen)
        self._track(tracker, trial)
        counted = [each for each in self._trials.values() if each.is_spent]
        seconds = [each.seconds for each in counted if each.seconds]
        best = best_so_far(self._points, self._objectives)
        self._log.trial_finished(trial_line(trial, list(self._objectives)), len(counted), best, seconds)
        failures.note(trial.reason if trial.status is TrialStatus.FAILED else None)

    @property
    def _points(self) -> list[TrialRecord]:
        return [trial for trial in self._of_plan.values() if trial.is_scored]

    def _note(self, frozen: FrozenTrial) -> TrialRecord:
        trial = records.read_trial(frozen, list(self._objectives))
        self._trials[trial.number] = trial
        earlier = self._of_plan.get(trial.plan_digest)
        if earlier is None:
            counts = trial.is_scored or trial.status is TrialStatus.PRUNED
        else:  # scores say more than a bound
            counts = trial.is_scored and not earlier.is_scored
        if counts:
            self._of_plan[trial.plan_digest] = trial
        return trial

    def _track(self, tracker: Tracker, trial: TrialRecord) -> None:
        tracker.log_trial(trial, self._folder / str(trial.number))

    def _recover(self, spared: list[int]) -> None:
        """Read what is finished. Trials that were interrupted are tried again; a stored result is kept.

        Safe because one process leads a study: what is running has no owner any more.

        Args:
            spared: trials whose process ends by itself, which is no fault of theirs.
        """
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            result = records.stored_result(frozen)
            if result is None:
                self._study.tell(frozen.number, state=TrialState.FAIL)
            else:  # killed between the result and the state
                values = objective_values(self._objectives, result.size_bytes, result.metrics)
                self._study.tell(frozen.number, list(values))
        for number in records.enqueue_retries(self._study, spared):
            logger.info("trial %d was interrupted; its values will be tried again", number)
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state.is_finished():
                self._note(frozen)


def _evaluation_of(result: JobResult, static: Mapping[str, Metric]) -> tuple[Evaluation, dict[str, Metric]]:
    """The evaluation, and all metrics of the candidate; `ScoringError` with the reason where nothing was scored."""
    evaluation = result.evaluation
    if evaluation is None:
        raise ScoringError(result.error or "nothing was scored")
    # Static ones before timed ones, as they have always been stored: tables and JSON have them in this order.
    metrics = evaluation.metrics()
    timed = {name: metrics.pop(name) for name in evaluation.costs}
    return evaluation, {**metrics, **static, **timed}


def _check_same_scores(metrics: Mapping[str, Metric], earlier: Mapping[str, Metric]) -> None:
    """Raise `InputError` if a score of the baseline lies outside the interval that was measured before."""
    for name, before in earlier.items():
        now = metrics.get(name)
        if before.denominator is None or now is None:  # not a rate: times differ from run to run
            continue
        if not before.low <= now.value <= before.high:
            problem = f"{name} is {now.value:.2%} now, it was {before.value:.2%} [{before.low:.2%}, {before.high:.2%}]"
            raise InputError(problem, where=BASELINE, fix="resume with the same versions, type and kind of device")
