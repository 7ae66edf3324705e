"""What the checkpoint of a plan has to answer, as the masked model did."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna

from autoreap.config.evals import TaskConfig, load_evals
from autoreap.data.evals_data import evals_digest
from autoreap.described import Described, Loaded, load
from autoreap.errors import InputError
from autoreap.evaluate import Evaluator
from autoreap.media.samples import Sample
from autoreap.outcomes import load_outcomes
from autoreap.plan import PruningPlan
from autoreap.study.trials import DEFAULT_ROOT, SCORING, outcomes_path
from autoreap.writing.behaviour import DEFAULT_CARRIED, Expected, place, write_utterances


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
