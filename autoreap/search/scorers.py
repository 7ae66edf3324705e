"""Who scores candidates: a scorer in this process, or Ray actors. A scorer gets a plan and returns outcomes."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from autoreap.data.calibration_config import CalibrationConfig
from autoreap.data.calibration_data import read_calibration
from autoreap.data.eval_set import EvalSet, open_evals
from autoreap.data.samples import Sample
from autoreap.errors import AutoreapError, DeviceLostError, InputError, first_line
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.latency import NUM_UTTERANCES, Stopwatch, needs_stopwatch
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.healing.healer import STREAMS, Healer
from autoreap.models.faults import is_device_lost, is_out_of_memory
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import Healing, PruningPlan
from autoreap.search.candidates import needs_likelihoods
from autoreap.search.racing import CandidatePruned, Domination, Incumbent, Limit, Race
from autoreap.search.records import MAX_DEATHS
from autoreap.search.signals import handlers_kept
from autoreap.search.study import code_digest

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5  # between two looks at the actors: a signal is handled there

Drafts = Mapping[str, Sequence[Outcome]]
OnOutcome = Callable[[], None]


@dataclass(frozen=True)
class Job:
    """One candidate to score.

    Attributes:
        key: the trial's number, or the name of a baseline.
        plan: None for the unpruned model.
        static: the candidate's static metrics, `size_bytes` among them.
        incumbents: the front as it is; empty: the candidate is scored to the end.
        limits: see `Race`.
    """

    key: int | str
    plan: PruningPlan | None
    static: Mapping[str, float]
    incumbents: tuple[Incumbent, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """What became of a job: one of the three is there. `error` is `Kind: message`.

    Attributes:
        healing: of a plan that heals, how, with the digest of the weights that were scored.
    """

    evaluation: Evaluation | None = None
    healing: Healing | None = None
    pruned: Domination | None = None
    error: str | None = None


@dataclass(frozen=True)
class ScorerSetup:
    """All that a scorer must know once, as plain values.

    Attributes:
        model, device, dtype: as `load` takes them.
        metrics: names that objectives and constraints are about.
        calibration: what candidates are healed on; None where none is.
        streams: the folder for what the unpruned model computes.
    """

    model: str
    evals: Path
    objectives: Mapping[str, str]
    metrics: tuple[str, ...]
    batch_size: int | None = None
    device: str | None = None
    dtype: str = "auto"
    calibration: CalibrationConfig | None = None
    streams: Path = Path(STREAMS)


@dataclass(frozen=True)
class ScorerFacts:
    """What a scorer says of itself once it has loaded the model.

    Attributes:
        where: device and type that it computes on.
        num_answers: of one run.
        code: digest of the code that scores.
    """

    where: str
    batch_size: int
    num_answers: int
    code: str


class Scorer:
    """Scores one candidate at a time on a model in this process."""

    def __init__(
        self,
        loaded: Loaded,
        evaluator: Evaluator,
        setup: ScorerSetup,
        check: Callable[[], None],
        healer: Healer | None = None,
    ) -> None:
        self.where = evaluator.where
        self.batch_size = evaluator.batch_size
        self.num_answers = evaluator.num_answers
        self._evaluator = evaluator
        self._healer = healer
        self._objectives = setup.objectives
        self._likelihoods = needs_likelihoods(setup.objectives)
        self._stopwatch = None
        if needs_stopwatch(setup.metrics):
            prompts = evaluator.prompts(NUM_UTTERANCES)
            self._stopwatch = Stopwatch(loaded.model, loaded.inputs, prompts, check=check)

    def draft_from(self, drafts: Drafts) -> None:
        """Use these answers of the unpruned model as drafts."""
        self._evaluator.draft_from(drafts)

    def score(self, job: Job, on_outcome: OnOutcome = lambda: None) -> JobResult:
        """Score the candidate of `job`; any failure is a result, with its reason.

        Raises:
            DeviceLostError: this process can score nothing more.
        """
        race = Race(self._objectives, job.static, job.incumbents, job.limits)

        def count(metric: str, outcome: Outcome) -> None:
            on_outcome()
            race.count(metric, outcome)

        try:
            race.check()  # sizes alone may decide, before anything is healed or answered
            plan = job.plan
            if plan is not None and plan.heal is not None:
                assert self._healer is not None  # the space says that candidates may be healed
                plan = self._healer.fit(plan)
            evaluation = self._evaluator.run(
                plan, count, on_sample=race.check_sample, first=self._objectives, likelihoods=self._likelihoods
            )
            if self._stopwatch:
                timings = self._stopwatch.measure(plan, int(job.static["size_bytes"]))
                evaluation = replace(evaluation, costs=timings)
        except CandidatePruned as pruned:
            return JobResult(pruned=pruned.domination)
        except Exception as error:  # one bad candidate must not end a night; the reason is kept and shown
            if is_device_lost(error):
                raise DeviceLostError(f"the device is lost to this process: {first_line(error)}") from error
            kind = "OutOfMemoryError" if is_out_of_memory(error) else type(error).__name__
            return JobResult(error=f"{kind}: {error}")
        return JobResult(evaluation=evaluation, healing=plan.heal if plan else None)


def make_scorer(
    loaded: Loaded,
    setup: ScorerSetup,
    evals: EvalSet,
    check: Callable[[], None] = lambda: None,
    data: Mapping[str, Sequence[Sample]] | None = None,
) -> Scorer:
    """A scorer on `loaded`; `check` is called between passes, and what it raises ends a job.

    Candidates are healed on `data`, the rows of `setup.calibration`, which are read where they are not given.
    """
    evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=setup.batch_size, check=check)
    healer = None
    if setup.calibration is not None:
        healer = Healer(loaded, data or read_calibration(setup.calibration), setup.streams, check)
    return Scorer(loaded, evaluator, setup, check, healer)


class ScorerPool(Protocol):
    """Several scorers, or one. The leader starts jobs while one is idle, and waits for results."""

    where: str
    batch_size: int
    num_answers: int

    @property
    def has_idle(self) -> bool:
        """Whether a job can be started now."""

    def start(self, job: Job) -> None:
        """Give `job` to an idle scorer."""

    def wait(self) -> tuple[Job, JobResult]:
        """The next result. A signal, or what `on_outcome` raises, ends the wait.

        Raises:
            DeviceLostError: nothing more can be scored in this process.
        """

    def draft_from(self, drafts: Drafts) -> None:
        """Have all scorers use these answers of the unpruned model as drafts."""

    def close(self) -> None:
        """Give back the memory of the models."""


class LocalPool:
    """One scorer, in this process. `on_outcome` is called at each answer; what it raises ends the job."""

    def __init__(self, scorer: Scorer, on_outcome: OnOutcome) -> None:
        self.where = scorer.where
        self.batch_size = scorer.batch_size
        self.num_answers = scorer.num_answers
        self._scorer = scorer
        self._on_outcome = on_outcome
        self._job: Job | None = None

    @property
    def has_idle(self) -> bool:
        return self._job is None

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self) -> tuple[Job, JobResult]:
        assert self._job is not None
        job, self._job = self._job, None  # idle from now on, also if a signal ends the job
        return job, self._scorer.score(job, self._on_outcome)

    def draft_from(self, drafts: Drafts) -> None:
        self._scorer.draft_from(drafts)

    def close(self) -> None:
        del self._scorer


class RayPool:
    """Ray actors with a model each, on one machine or many.

    Ray starts a dead actor again, on another node if need be. What it was scoring is scored again by the next idle one.

    Args:
        setup: what each actor must know.
        num_scorers: how many actors.
        check: called twice a second while the leader waits; what it raises ends the wait.

    Raises:
        InputError: Ray is not installed, or an actor refuses its input.
    """

    def __init__(self, setup: ScorerSetup, num_scorers: int, check: Callable[[], None]) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("Ray is not installed", where="--workers", fix="pip install 'autoreap[ray]'") from None
        self._ray = ray
        self._check = check
        self._started_here = not ray.is_initialized()
        if self._started_here:  # joins the cluster of RAY_ADDRESS, or starts one on this machine
            with handlers_kept():
                # Without the logs of the actors: the leader tells what becomes of their jobs.
                ray.init(log_to_driver=False, include_dashboard=False)
        num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # SPREAD, over the nodes: Ray would fill one before it takes the next.
        remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_restarts=MAX_DEATHS, scheduling_strategy="SPREAD")
        actor = remote(_ScorerActor)
        self._actors = [actor.remote(setup, str(Path.cwd())) for _ in range(num_scorers)]
        self._starting = {scorer.load.remote(): scorer for scorer in self._actors}
        self._running: dict[Any, tuple[Any, Job]] = {}
        self._idle: list[Any] = []
        self._waiting: list[Job] = []  # jobs whose actor died
        self._deaths: dict[int | str, int] = {}
        self._drafts: Any = None
        self.where, self.batch_size, self.num_answers = "", 0, 0
        gpu_text = "a GPU each" if num_gpus else "no GPU"
        logger.info("%d scorers on a Ray cluster of %d nodes, %s", num_scorers, len(ray.nodes()), gpu_text)
        while not self._idle:  # the leader must know device and batch size before it begins
            self._look()

    @property
    def has_idle(self) -> bool:
        return bool(self._idle) and not self._waiting

    def start(self, job: Job) -> None:
        scorer = self._idle.pop()
        self._running[scorer.score.remote(job, self._drafts)] = (scorer, job)

    def wait(self) -> tuple[Job, JobResult]:
        while True:
            while self._waiting and self._idle:
                self.start(self._waiting.pop(0))
            assert self._running or self._waiting, "nothing is being scored"
            found = self._look()
            if found is not None:
                return found

    def draft_from(self, drafts: Drafts) -> None:
        self._drafts = self._ray.put(drafts)  # sent to each node once, not with each job

    def close(self) -> None:
        for scorer in self._actors:
            self._ray.kill(scorer)
        if self._started_here:
            self._ray.shutdown()

    def _look(self) -> tuple[Job, JobResult] | None:
        """Look once at what the actors do: one becomes idle, one dies, or a job is finished."""
        self._check()
        pending = [*self._starting, *self._running]
        if not pending:
            if not self._idle:
                raise AutoreapError("all scorers were lost; the same command resumes the search")
            return None
        finished, _ = self._ray.wait(pending, timeout=_POLL_SECONDS)
        for reference in finished:
            if reference in self._starting:
                self._welcome(self._starting.pop(reference), reference)
                return None
            scorer, job = self._running.pop(reference)
            try:
                result: JobResult = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                return self._bury(scorer, job, error)
            self._idle.append(scorer)
            return job, result
        return None

    def _welcome(self, scorer: Any, reference: Any) -> None:
        try:
            facts: ScorerFacts = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # its own exception, such as a model that is not there
            if isinstance(error.cause, AutoreapError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            self._give_up(scorer, error)
            return
        if facts.code != code_digest():
            problem = f"a node has another version of autoreap ({facts.code})"
            raise InputError(problem, where="--workers", fix=f"install {code_digest()} on every node")
        if self.where and facts.where != self.where:
            logger.warning("scorers differ: one computes on %s, another on %s", self.where, facts.where)
        self.where = self.where or facts.where
        self.batch_size, self.num_answers = facts.batch_size, facts.num_answers
        self._idle.append(scorer)

    def _bury(self, scorer: Any, job: Job, error: Exception) -> tuple[Job, JobResult] | None:
        """An actor died while it scored `job`: the job waits for another one, the actor for its restart."""
        # What kills one actor after the other is the candidate: it must not be tried for ever.
        self._deaths[job.key] = self._deaths.get(job.key, 0) + 1
        logger.warning("a scorer was lost (%s) while it scored %s", type(error).__name__, job.key)
        try:
            self._starting[scorer.load.remote()] = scorer
        except self._ray.exceptions.RayError as lost:
            self._give_up(scorer, lost)
        if self._deaths[job.key] >= MAX_DEATHS:
            return job, JobResult(error=f"{type(error).__name__}: {MAX_DEATHS} processes that scored it died")
        self._waiting.append(job)
        return None

    def _give_up(self, scorer: Any, error: Exception) -> None:
        logger.warning("a scorer could not be started again: %s", type(error).__name__)
        self._actors.remove(scorer)


class _ScorerActor:
    """A scorer in a process of Ray's. It loads in `load`, so that bad input is an error of that call."""

    def __init__(self, setup: ScorerSetup, folder: str) -> None:
        self._setup = setup
        self._folder = folder
        self._scorer: Scorer | None = None
        self._has_drafts = False

    def load(self) -> ScorerFacts:
        """Load the model, and say how candidates will be scored on it."""
        # Paths may be relative to the folder that the search was started in; an actor may start in another one.
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise InputError(f"the folder of the search is not on this node: {error}", where=self._folder) from None
        loaded = load(open_model(self._setup.model), device=self._setup.device, dtype=self._setup.dtype)
        scorer = make_scorer(loaded, self._setup, open_evals(self._setup.evals).search)
        self._scorer = scorer
        return ScorerFacts(scorer.where, scorer.batch_size, scorer.num_answers, code_digest())

    def score(self, job: Job, drafts: Drafts | None) -> JobResult:
        """Score one candidate. Where the device is lost to this process it ends, and Ray starts another."""
        assert self._scorer is not None
        # With each job, since an actor that was started again has none; taken once, since they never change.
        if drafts is not None and not self._has_drafts:
            self._scorer.draft_from(drafts)
            self._has_drafts = True
        try:
            return self._scorer.score(job)
        except DeviceLostError:
            os._exit(1)
