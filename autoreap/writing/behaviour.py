"""Does the checkpoint answer as what was measured did? The same utterances, the same text, so the same scores.

What is compared here was answered by a masked model in memory; the checkpoint is loaded by the stock class from its
files. A few of the utterances travel with the checkpoint, so that `autoreap verify` can ask them again elsewhere.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from autoreap.data.columns import TEXTS
from autoreap.data.conditions import NOISES, Condition
from autoreap.data.eval_set import EvalSet, EvalTask, open_evals
from autoreap.data.evals_config import TaskConfig
from autoreap.data.samples import Sample
from autoreap.errors import VerificationError
from autoreap.evaluation.evaluator import Evaluator
from autoreap.evaluation.outcomes import OUTCOMES_NAME, Outcome, load_outcomes
from autoreap.models.loading import Described, Loaded, default_device, describe, load, release, shortage
from autoreap.plan import PruningPlan
from autoreap.scores import paired_difference
from autoreap.writing.verification import FOLDER, Record, Verified

DEFAULT_CARRIED = 16
_EVALS = "evals.yaml"

Outcomes = Mapping[str, tuple[Outcome, ...]]


@dataclass(frozen=True)
class Expected:
    """What a checkpoint must answer.

    Attributes:
        evals: what was asked.
        outcomes: the answers, by metric.
        batch_size: utterances decoded together; others round otherwise.
        where: device and type that they were computed on, as `place` names them; others round otherwise, too.
        drafts: the unpruned model's answers, if they were its drafts; with others the passes have other shapes, and
            round otherwise. None: the references were.
    """

    evals: EvalSet
    outcomes: Outcomes
    batch_size: int
    where: str
    drafts: Outcomes | None = None


def check_behaviour(checkpoint: Path, expected: Expected, *, carried: int = DEFAULT_CARRIED) -> Verified:
    """Load `checkpoint`, compare its answers, and leave `carried` utterances with it for later.

    Computed elsewhere than `expected.where`, an answer may differ; there the interval of each score's difference from
    the expected one, paired over the utterances, must hold 0.

    Raises:
        VerificationError: an answer differs, or a score differs by more than chance.
    """
    described = describe(str(checkpoint))
    release()
    device, dtype = _loadable(expected.where)
    if reason := shortage(described, device, dtype):
        return Verified(None, reason)
    loaded = load(described, device=device, dtype=dtype)
    verified = _compared(checkpoint, loaded, expected)
    if carried:
        folder = checkpoint / FOLDER
        evals = write_utterances(folder, [_readable(task, expected) for task in expected.evals.tasks], carried)
        alone = Evaluator(loaded.model, loaded.inputs, evals, batch_size=1).run()
        alone.save_outcomes(folder / OUTCOMES_NAME)
    return verified


def _readable(task: EvalTask, expected: Expected) -> EvalTask:
    """The task without the rows that can't be read."""
    ids = {outcome.id for outcome in expected.outcomes[task.metric]}
    return replace(task, samples=tuple(sample for sample in task.samples if sample.id in ids))


def answers_of_mask(described: Described, plan: PruningPlan, evals: Path) -> Expected:
    """The answers of the masked model on the search split of `evals`."""
    opened = open_evals(evals).search
    loaded = load(described)
    evaluator = Evaluator(loaded.model, loaded.inputs, opened)
    return Expected(opened, evaluator.run(plan).outcomes, evaluator.batch_size, place(loaded))


def answers_to_calibration(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], plan: PruningPlan, scratch: Path
) -> Expected | None:
    """The answers of the masked model to some calibration rows; None where no row holds speech with its text.

    `scratch` takes copies of these rows.
    """
    spoken = tuple(sample for sample in data["audio"] if sample.audio is not None and sample.text)
    if not spoken:
        return None
    task = EvalTask(TaskConfig(task="asr", label="", dataset_path=""), spoken)
    evals = write_utterances(scratch, [task], DEFAULT_CARRIED)
    evaluation = Evaluator(loaded.model, loaded.inputs, evals, batch_size=1).run(plan)
    return Expected(evals, evaluation.outcomes, 1, place(loaded))


def check_carried(checkpoint: Path, record: Record) -> Verified:
    """Ask again what the checkpoint carries, one utterance at a time; see `check_behaviour`."""
    folder = checkpoint / FOLDER
    if not (folder / OUTCOMES_NAME).is_file():
        return Verified(None, "it carries no utterances")
    expected = Expected(
        evals=open_evals(folder / _EVALS).search,
        outcomes=load_outcomes(folder / OUTCOMES_NAME),
        batch_size=1,
        where=record.behaviour.where,
    )
    return check_behaviour(checkpoint, expected, carried=0)


def place(loaded: Loaded) -> str:
    """Device and type of a loaded model, such as `cuda, bfloat16`; the device is `auto` where it lies on several."""
    several = len(set(getattr(loaded.model, "hf_device_map", {}).values())) > 1
    device = "auto" if several else loaded.described.family.running.device(loaded.model).type
    return f"{device}, {str(loaded.model.dtype).removeprefix('torch.')}"


def _loadable(where: str) -> tuple[str, str]:
    """The device and type that `where` names, or this machine's own where it has no such device."""
    device, _, dtype = where.partition(", ")
    return (device, dtype) if device in ("cpu", "auto", default_device()) else (default_device(), "auto")


def _compared(checkpoint: Path, loaded: Loaded, expected: Expected) -> Verified:
    evaluator = Evaluator(loaded.model, loaded.inputs, expected.evals, batch_size=expected.batch_size)
    if expected.drafts is not None:
        evaluator.draft_from(expected.drafts)
    evaluation = evaluator.run()
    metrics, where = evaluation.metrics(), place(loaded)
    total = sum(map(len, evaluation.outcomes.values()))
    _check_same_utterances(checkpoint, evaluation.outcomes, expected.outcomes)
    different = [
        f"{metric} {own.id}: {own.output!r} instead of {other.output!r}"
        for metric, outcomes in evaluation.outcomes.items()
        for own, other in zip(outcomes, expected.outcomes[metric], strict=True)
        if own != other
    ]
    if different and where == expected.where:
        raise VerificationError(f"{checkpoint}: {len(different)} of {total} answers differ, such as {different[0]}")
    check_scores(checkpoint, evaluation.outcomes, expected.outcomes)
    note = f"{where}; {len(different)} differ from those computed on {expected.where}" if different else where
    return Verified(total - len(different), note, metrics, where=where)


def _check_same_utterances(checkpoint: Path, own: Outcomes, other: Outcomes) -> None:
    """Raise `VerificationError` unless both answer the same utterances with the same references, in the same order."""
    asked, recorded = (
        {metric: [(o.id, o.reference) for o in listed] for metric, listed in outcomes.items()}
        for outcomes in (own, other)
    )
    if asked != recorded:
        raise VerificationError(f"{checkpoint}: the recorded answers are not to the utterances that were asked")


def check_scores(checkpoint: Path, own: Outcomes, other: Outcomes) -> None:
    """Raise `VerificationError` where a score of `own` differs from that of `other` by more than chance."""
    for metric, outcomes in own.items():
        pairs = ([outcome.counts for outcome in listed] for listed in (outcomes, other[metric]))
        difference, low, high = paired_difference(*pairs)
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
    for number, source in enumerate(tasks[:limit]):  # one of each, if there are more tasks than that
        task = source.config
        step = max(1, len(source.samples) // share)
        chosen = source.samples[::step][:share]
        name = f"utterances-{number}.jsonl"
        rows = [_row(folder, f"{number}-{place}", sample) for place, sample in enumerate(chosen)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
        kept = {key: value for key, value in asdict(task).items() if key in ("task", "label", "doc_to_text") and value}
        bound = {"max_new_tokens": task.max_new_tokens} if task.max_new_tokens else {}
        condition = {"condition": _condition(folder, number, task.condition)} if task.condition else {}
        metric = {"metric_list": [{"metric": task.metric}]} if task.metric else {}
        entries.append({**kept, **bound, **condition, **metric, "dataset_path": name})
    path = folder / _EVALS
    path.write_text(yaml.safe_dump({"search": entries}, allow_unicode=True), encoding="utf-8")
    return open_evals(path).search


def _condition(folder: Path, number: int, condition: Condition) -> dict[str, Any]:
    """A condition as an evals file names it, a recording of noise copied beside it."""
    values = {key: value for key, value in asdict(condition).items() if value is not None}
    if condition.noise not in NOISES:
        values["noise"] = f"{number}-noise{Path(condition.noise).suffix}"
        shutil.copyfile(condition.noise, folder / values["noise"])
    return values


def _row(folder: Path, name: str, sample: Sample) -> dict[str, Any]:
    """A sample as a JSONL row, its media copied beside it under `name`."""
    row: dict[str, Any] = {"id": sample.id, **{key: getattr(sample, key) for key in TEXTS if getattr(sample, key)}}
    for key, media in (("audio", sample.audio), ("image", sample.image)):
        if media is not None:
            encoded, suffix = (media, "") if isinstance(media, bytes) else (media.read_bytes(), media.suffix)
            row[key] = f"{name}-{key}{suffix}"
            (folder / row[key]).write_bytes(encoded)
    if sample.choices:
        row["choices"] = list(sample.choices)
    if sample.answers:
        row["answer"] = [sample.answer, *sample.answers]
    return row
