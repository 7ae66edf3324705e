"""Write the checkpoint of a trial, and prove that it is the model that was scored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from autoreap.calibration.measure import read_calibration
from autoreap.data.calibration_config import load_calibration
from autoreap.data.eval_set import open_evals
from autoreap.errors import InputError
from autoreap.evaluation.outcomes import load_outcomes
from autoreap.evaluation.passes import load_passes, unrecorded
from autoreap.healing.healer import STREAMS, is_same_fit, refitted
from autoreap.models.loading import ModelInfo, load, release
from autoreap.models.places import choose_device
from autoreap.plan import PruningPlan, load_plan
from autoreap.scores import Difference, Metric, differences_as_dict, metrics_as_dict
from autoreap.search.non_inferiority import quality_lines
from autoreap.search.records import StudyRecord, TrialRecord
from autoreap.search.storage import DEFAULT_ROOT
from autoreap.writing.behaviour import Expected, answered, check_behaviour
from autoreap.writing.materialiser import materialise
from autoreap.writing.model_card import TrialFacts
from autoreap.writing.verification import Verified


@dataclass(frozen=True)
class Shipped:
    """A trial's checkpoint.

    Attributes:
        trial, reason: which one, and why.
        verified: how its answers compare with the trial's.
        against_baseline: for each metric the difference to the unpruned model, paired over the utterances.
    """

    trial: int
    reason: str
    path: Path
    verified: Verified
    metrics: Mapping[str, Metric]
    against_baseline: Mapping[str, Difference]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "trial": self.trial,
            "reason": self.reason,
            "path": str(self.path),
            "verified": self.verified.as_dict(),
            "metrics": metrics_as_dict(self.metrics),
            "against_baseline": differences_as_dict(self.against_baseline),
        }


def ship(study: StudyRecord, point: TrialRecord, reason: str, model_info: ModelInfo, root: Path) -> Shipped:
    """Materialise trial `point`, chosen for `reason`. Loaded by the stock class it must answer as the trial did.

    Raises:
        VerificationError: the checkpoint answers an utterance otherwise than the trial did.
    """
    plan = study.plan(point.number)
    path = root / "checkpoints" / f"{study.name}-trial-{point.number}"
    expected = answers_of_trial(study, point.number, root)
    written_plan = path / "plan.json"
    if written_plan.is_file() and load_plan(written_plan).digest() == plan.digest():
        # A search that was resumed has shipped it before.
        verified = check_behaviour(path, expected, carried=0)
    else:
        facts = trial_facts(study, point)
        fitted = refitted_trial(study, plan, model_info, root)
        # Weights that are fitted on another device differ in their last bits, and answers may then differ too.
        expected = replace(expected, is_exact=is_same_fit(plan, fitted))
        behaviour = partial(check_behaviour, expected=expected)
        written = materialise(model_info.checkpoint.path, fitted, path, facts=facts, behaviour=behaviour)
        verified = written.record.behaviour
    return Shipped(point.number, reason, path, verified, point.metrics, point.against_baseline)


def refitted_trial(study: StudyRecord, plan: PruningPlan, model_info: ModelInfo, root: Path) -> PruningPlan:
    """The plan of a trial with its healed weights, fitted where the trial was scored if this machine has such a device.

    Raises:
        InputError: the calibration set is no longer there, or has changed.
    """
    if not plan.heals:
        return plan
    if study.scoring is None or not study.scoring.space:
        raise InputError("does not record what its candidates are healed on", where=f"study {study.name}")
    data = read_calibration(load_calibration(Path(study.scoring.space)))
    device, dtype = choose_device(study.scoring.where)
    loaded = load(model_info, speech=plan.talker_heal is not None, device=device, dtype=dtype)
    fitted = refitted(loaded, plan, data, root / STREAMS)
    # The checkpoint is loaded next, to compare its answers: both at once may not fit.
    del loaded
    release()
    return fitted


def trial_facts(study: StudyRecord, point: TrialRecord) -> TrialFacts:
    """What the model card of `point` says."""
    return TrialFacts(f"{study.name}/{point.number}", point.metrics, quality_lines(study, point))


def answers_of_trial(study: StudyRecord, number: int, root: Path = DEFAULT_ROOT) -> Expected:
    """The answers of trial `number`, and to what.

    Raises:
        InputError: its outcomes or the evals are no longer there, or the evals have changed.
    """
    path, baseline = study.outcomes_path(number, root), study.outcomes_path(None, root)
    if study.scoring is None:
        raise InputError("does not record how it was scored", where=f"study {study.name}")
    for needed in (path, baseline):
        if not needed.is_file():
            raise InputError("the answers to compare with are missing", where=needed)
    # Answers to other rows could neither be compared nor be drafts.
    evals = open_evals(Path(study.scoring.evals)).search
    if evals.digest != study.evals_digest:
        raise InputError("has changed since the trial was scored", where=evals.path)
    passes = load_passes(path.parent) or unrecorded(study.scoring.where, study.scoring.batch_size)
    outcomes = load_outcomes(path)
    return Expected(answered(evals, outcomes), outcomes, passes, load_outcomes(baseline))
