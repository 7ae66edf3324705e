"""Does the checkpoint answer as what was measured did? The same utterances, the same text, so the same scores.

What is compared here was answered by a masked model in memory; the checkpoint is loaded by the stock class from its
files. A few of the utterances travel with the checkpoint, so that `autoreap verify` can ask them again elsewhere.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from autoreap.data.columns import TEXTS
from autoreap.data.conditions import NOISES
from autoreap.data.eval_set import EvalSet, EvalTask, open_evals
from autoreap.data.evals_config import TaskConfig
from autoreap.data.samples import Sample
from autoreap.errors import InputError, VerificationError, first_line
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import OUTCOMES_NAME, Evaluation, Outcome, load_outcomes
from autoreap.evaluation.passes import Passes, load_passes, unrecorded
from autoreap.models.faults import is_device_lost, is_out_of_memory
from autoreap.models.loading import Loaded, ModelInfo, load, open_model, release, shortage
from autoreap.models.places import choose_device
from autoreap.plan import PruningPlan
from autoreap.scores import paired_difference
from autoreap.writing.verification import FOLDER, Record, Verified

logger = logging.getLogger(__name__)

DEFAULT_CARRIED = 16
_WIDER = 1.5  # than the 95% interval is what chance may explain
_EVALS = "evals.yaml"

Outcomes = Mapping[str, tuple[Outcome, ...]]


@dataclass(frozen=True)
class Expected:
    """What a checkpoint must answer.

    Attributes:
        evals: what was asked.
        outcomes: the answers, by metric.
        passes: in which they were computed; others round otherwise.
        is_exact: what is checked has the weights that answered, to the bit.
        drafts: the unpruned model's answers, if they were its drafts; with others the passes have other shapes, and
            round otherwise. None: the references were.
    """

    evals: EvalSet
    outcomes: Outcomes
    passes: Passes
    drafts: Outcomes | None = None
    is_exact: bool = True

    @classmethod
    def of(cls, evals: EvalSet, evaluation: Evaluation) -> "Expected":
        """What a model answered whose drafts were the references."""
        assert evaluation.passes is not None  # a model did
        return cls(answered(evals, evaluation.outcomes), evaluation.outcomes, evaluation.passes)


def answered(evals: EvalSet, outcomes: Outcomes) -> EvalSet:
    """`evals` without the rows that have no outcome, since their media could not be read.

    They may be readable later: a pruned model leaves more memory to a long recording.
    """
    tasks = []
    for task in evals.tasks:
        known = {outcome.id for outcome in outcomes[task.metric]}
        tasks.append(replace(task, samples=tuple(sample for sample in task.samples if sample.id in known)))
    return replace(evals, tasks=tuple(tasks))


def check_behaviour(checkpoint: Path, expected: Expected, *, carried: int = DEFAULT_CARRIED) -> Verified:
    """Load `checkpoint`, compare its answers, and leave `carried` utterances with it for later.

    In the passes of `expected`, on a CPU, every answer must be the same. Where these can't be run, and on an
    accelerator, an answer may differ, but no score by more than chance. Where memory is too small or the device fails,
    the result says that nothing was compared: that is no fault of the checkpoint.

    Raises:
        VerificationError: an answer differs, or a score differs by more than chance.
    """
    try:
        return _check_behaviour(checkpoint, expected, carried)
    except Exception as error:
        if not (is_out_of_memory(error) or is_device_lost(error)):
            raise
        reason = first_line(error)
    # Out of the handler: while it runs, the error holds the frames that hold the model.
    release()
    logger.warning("%s: its answers are not compared: %s", checkpoint, reason)
    return Verified(None, f"the device failed while it answered: {reason}")


def _check_behaviour(checkpoint: Path, expected: Expected, carried: int) -> Verified:
    model_info = open_model(str(checkpoint))
    release()  # of an earlier model: `shortage` counts what memory there is
    device, dtype = choose_device(expected.passes.where)
    reason = shortage(model_info, device, dtype)
    if reason:
        return Verified(None, reason)
    loaded = load(model_info, device=device, dtype=dtype)
    if carried:
        # Before the comparison, which may find memory too small: one utterance at a time takes least.
        folder = checkpoint / FOLDER
        evals = write_utterances(folder, expected.evals.tasks, carried)
        Evaluator(loaded.model, loaded.inputs, evals, batch_size=1).run().save(folder)
    return _compare(checkpoint, loaded, expected)


def answers_of_mask(model_info: ModelInfo, plan: PruningPlan, evals: Path) -> Expected:
    """The answers of the masked model on the search split of `evals`."""
    opened = open_evals(evals).search
    loaded = load(model_info)
    return Expected.of(opened, Evaluator(loaded.model, loaded.inputs, opened).run(plan))


def answers_to_calibration(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], plan: PruningPlan, scratch: Path
) -> Expected | str:
    """The answers of the masked model to some calibration rows, or why there are none.

    `scratch` takes copies of these rows.
    """
    spoken = tuple(sample for sample in data["audio"] if sample.audio is not None and sample.text)
    if not spoken:
        return "no calibration row holds speech with its text"
    task = EvalTask(TaskConfig(task="asr", label="", dataset_path=""), spoken)
    evals = write_utterances(scratch, [task], DEFAULT_CARRIED)
    return Expected.of(evals, Evaluator(loaded.model, loaded.inputs, evals, batch_size=1).run(plan))


def check_carried(checkpoint: Path, record: Record) -> Verified:
    """Ask again what the checkpoint carries, one utterance at a time; see `check_behaviour`."""
    folder = checkpoint / FOLDER
    if not (folder / OUTCOMES_NAME).is_file():
        return Verified(None, "it carries no utterances")
    expected = Expected(
        evals=open_evals(folder / _EVALS).search,
        outcomes=load_outcomes(folder / OUTCOMES_NAME),
        passes=load_passes(folder) or unrecorded(record.behaviour.where, num_rows=1),
    )
    return check_behaviour(checkpoint, expected, carried=0)


def _compare(checkpoint: Path, loaded: Loaded, expected: Expected) -> Verified:
    try:
        evaluator = Evaluator(loaded.model, loaded.inputs, expected.evals, replay=expected.passes)
    except InputError as error:
        # Such as less memory than the trial had: no fault of the checkpoint.
        return Verified(None, f"its utterances can't be read now: {error}")
    if expected.drafts is not None:
        evaluator.draft_from(expected.drafts)
    evaluation = evaluator.run(likelihoods=expected.passes.likelihoods, first=expected.passes.first)
    assert evaluation.passes is not None
    metrics = evaluation.metrics()
    num_unread = sum(evaluator.num_unreadable.values())
    recorded = expected.outcomes
    if num_unread:
        # When they were answered there was more memory, or a file that is gone now: the others are compared.
        recorded = _same_rows(recorded, evaluation.outcomes)
    if _utterances_of(evaluation.outcomes) != _utterances_of(recorded):
        raise VerificationError(f"{checkpoint}: the recorded answers are not to the utterances that were asked")
    num_answers = 0
    different = []
    for metric, outcomes in evaluation.outcomes.items():
        num_answers += len(outcomes)
        for own, other in zip(outcomes, recorded[metric], strict=True):
            if own != other:
                different.append(f"{metric} {own.id}: {own.output!r} instead of {other.output!r}")
    change = expected.passes.difference(evaluation.passes)
    are_same_passes = expected.passes.are_exact and not change and not num_unread
    if different and expected.is_exact and are_same_passes:
        raise VerificationError(
            f"{checkpoint}: {len(different)} of {num_answers} answers differ, such as {different[0]}"
        )
    check_scores(checkpoint, evaluation.outcomes, recorded)
    detail = evaluator.where
    if num_unread:
        detail += f"; {num_unread} could not be read now"
    if different:
        detail += f"; {len(different)} differ from those computed on {expected.passes.where}"
    if change:
        detail += f"; computed {change}"
    return Verified(num_answers - len(different), detail, metrics, evaluator.where, len(different))


def _same_rows(outcomes: Outcomes, others: Outcomes) -> Outcomes:
    """Those of `outcomes` whose rows are among `others`."""
    same = {}
    for metric, listed in outcomes.items():
        known = {other.id for other in others[metric]}
        same[metric] = tuple(outcome for outcome in listed if outcome.id in known)
    return same


def _utterances_of(outcomes: Outcomes) -> dict[str, list[tuple[str, str]]]:
    """Id and reference of each utterance in order, by metric."""
    utterances = {}
    for metric, listed in outcomes.items():
        utterances[metric] = [(outcome.id, outcome.reference) for outcome in listed]
    return utterances


def check_scores(checkpoint: Path, own: Outcomes, other: Outcomes) -> None:
    """Raise `VerificationError` where a score of `own` differs from that of `other` by more than chance.

    Chance alone leaves a 95% interval once in twenty times, and then a night would end without its checkpoint. It
    leaves one half as wide again three times in a thousand, and what was written wrongly is further off.
    """
    for metric, outcomes in own.items():
        own_counts = [outcome.counts for outcome in outcomes]
        other_counts = [outcome.counts for outcome in other[metric]]
        difference, low, high = paired_difference(own_counts, other_counts)
        low = difference + _WIDER * (low - difference)
        high = difference + _WIDER * (high - difference)
        if not low <= 0 <= high:
            raise VerificationError(
                f"{checkpoint}: {metric} is {difference:+.4f} from what was expected, more than chance: "
                f"{low:+.4f} to {high:+.4f}"
            )


def write_utterances(folder: Path, tasks: Sequence[EvalTask], limit: int) -> EvalSet:
    """Write at most `limit` rows of `tasks`, evenly spread, with their media, as an evals file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    share = max(1, limit // len(tasks))
    entries = []
    for number, task in enumerate(tasks[:limit]):  # one of each, if there are more tasks than that
        step = max(1, len(task.samples) // share)
        name = f"utterances-{number}.jsonl"
        lines = []
        for place, sample in enumerate(task.samples[::step][:share]):
            row = _write_media(folder, f"{number}-{place}", sample)
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / name).write_text("".join(lines), encoding="utf-8")
        entries.append({**_write_task(folder, number, task.config), "dataset_path": name})
    path = folder / _EVALS
    path.write_text(yaml.safe_dump({"search": entries}, allow_unicode=True), encoding="utf-8")
    # Opened from the files, so that what is asked now is what will be asked of them later.
    return open_evals(path).search


def _write_task(folder: Path, number: int, task: TaskConfig) -> dict[str, Any]:
    """A task as an evals file names it, but for its rows; a recording of noise is copied into `folder`."""
    entry: dict[str, Any] = {"task": task.task}
    if task.label:
        entry["label"] = task.label
    if task.doc_to_text:
        entry["doc_to_text"] = task.doc_to_text
    if task.max_new_tokens:
        entry["max_new_tokens"] = task.max_new_tokens
    if task.condition:
        condition = {key: value for key, value in asdict(task.condition).items() if value is not None}
        if task.condition.noise not in NOISES:
            condition["noise"] = f"{number}-noise{Path(task.condition.noise).suffix}"
            shutil.copyfile(task.condition.noise, folder / condition["noise"])
        entry["condition"] = condition
    if task.metric:
        entry["metric_list"] = [{"metric": task.metric}]
    return entry


def _write_media(folder: Path, name: str, sample: Sample) -> dict[str, Any]:
    """A sample as a JSONL row, its media copied beside it under `name`."""
    row: dict[str, Any] = {"id": sample.id}
    for key in TEXTS:
        if getattr(sample, key):
            row[key] = getattr(sample, key)
    for key, media in (("audio", sample.audio), ("image", sample.image)):
        if media is None:
            continue
        encoded, suffix = media, ""
        if isinstance(media, Path):
            encoded, suffix = media.read_bytes(), media.suffix
        row[key] = f"{name}-{key}{suffix}"
        (folder / row[key]).write_bytes(encoded)
    if sample.choices:
        row["choices"] = list(sample.choices)
    if sample.answers:
        row["answer"] = [sample.answer, *sample.answers]
    return row
