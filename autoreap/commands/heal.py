"""autoreap heal: train routers and norms of a written checkpoint against the unpruned model."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from autoreap.commands.options import Calibration, Device, Dtype, Json, ModelNow, print_result
from autoreap.commands.writing import Writing
from autoreap.errors import HealingError, InputError

if TYPE_CHECKING:
    from autoreap.data.samples import Sample
    from autoreap.healing.polish import Polished
    from autoreap.models.loading import ModelInfo
    from autoreap.plan import PruningPlan
    from autoreap.writing.behaviour import Expected

_CHECKPOINT = "a directory that materialise, prune or search wrote"
_EVALS = "also score both on its search split, and report the paired difference"


@dataclass(frozen=True)
class Training:
    """How and where weights are trained, and what the result is scored on."""

    evals: Annotated[Path | None, Option(metavar="FILE", help=_EVALS)] = None
    steps: Annotated[int, Option(metavar="N", min=1, help="maximum number of batches")] = 300
    learning_rate: Annotated[float, Option(metavar="NUMBER", min=1e-9, max=1.0, help="learning rate of AdamW")] = 3e-4
    batch_tokens: Annotated[int, Option(metavar="N", min=1, help="tokens of a batch, padding included")] = 512
    seed: Annotated[int, Option(metavar="N", min=0, help="seed of the order of the batches")] = 0
    device: Device = None
    dtype: Dtype = "auto"


def heal(
    checkpoint: Annotated[Path, Argument(metavar="CHECKPOINT", help=_CHECKPOINT)],
    writing: Writing,
    calibration: Calibration,
    base: ModelNow = None,
    *,
    training: Training,
    json: Json = False,
) -> None:
    """Train a checkpoint's routers and norms against its base.

    Example:
        autoreap heal pruned --base tiny --audio calibration/tiny/audio.parquet -o polished
    """
    from autoreap import jobs
    from autoreap.models.loading import open_model
    from autoreap.plan import load_plan
    from autoreap.writing.materialiser import check_target
    from autoreap.writing.rewrite import plan_rewrite
    from autoreap.writing.verification import check_content, check_structure, load_record

    _refuse_idle_options(calibration)
    record = load_record(checkpoint)
    plan = load_plan(checkpoint / "plan.json")
    if plan.polish is not None:
        raise InputError("is polished already", where=checkpoint, fix="name the checkpoint that it was made from")
    base_info = open_model(base or plan.base_model.name)
    plan_rewrite(base_info.checkpoint, plan)  # or the error that says that it is of another base
    if writing.dry_run:
        print_result(*writing.write(base_info, plan, expected=""), as_json=json)
        return
    # Before rows are read and weights are trained: a place that can't be written would cost all of that.
    for source in (checkpoint, base_info.checkpoint.path):
        check_target(writing.target, source)
    data = jobs.answered_rows(jobs.read_calibration(calibration.config()), sees=not plan.strip_vision)
    pruned = check_structure(checkpoint)
    check_content(pruned, record)
    # What was healed in closed form lies in the checkpoint alone: training starts from these very weights.
    plan = jobs.with_written_weights(plan, base_info, pruned)
    polished, written = _polish_and_write(base_info, plan, data, training, writing)
    if written is None:
        problem = f"{checkpoint}: polishing does not help significantly, so nothing was written"
        raise HealingError(f"{problem}; {polished.description}")
    document, text = written
    print_result(document, text, as_json=json)


def _refuse_idle_options(calibration: Calibration) -> None:
    idle = {
        "--tokens": calibration.tokens,
        "--gates": calibration.gates,
        "--max-unreadable": calibration.max_unreadable,
    }
    for option, value in idle.items():
        if value is not None:
            problem = "has no effect: the answers of all rows that can be read are trained on"
            raise InputError(problem, where=option, fix="leave it out")


def _polish_and_write(
    base_info: "ModelInfo",
    plan: "PruningPlan",
    data: "dict[str, list[Sample]]",
    training: Training,
    writing: Writing,
) -> "tuple[Polished, tuple[dict[str, Any], str] | None]":
    """What came of the training, and what is to be printed of the checkpoint; None where it does not help."""
    from autoreap import jobs
    from autoreap.calibration.resume import lock_resume_file
    from autoreap.models.loading import load, release
    from autoreap.report.comparison_text import figures_text

    options = jobs.PolishOptions(training.steps, training.learning_rate, training.batch_tokens, training.seed)
    # The writing has a lock of its own.
    state = writing.target.with_name(f"{writing.target.name}.polish")
    # The state of the training goes at the end of this context, so not before the checkpoint is there.
    with lock_resume_file(state) as resume, TemporaryDirectory() as scratch:
        loaded = load(base_info, device=training.device, dtype=training.dtype)
        polished = jobs.polish(loaded, plan, data, options, resume)
        if not polished.is_better:
            return polished, None
        expected: Expected | str = ""
        comparison = None
        if training.evals is not None:
            expected, comparison = jobs.compare_plans(loaded, plan, polished.plan, training.evals)
        elif writing.compares:
            expected = jobs.answers_to_calibration(loaded, data, polished.plan, Path(scratch))
        del loaded
        release()  # the checkpoint is loaded next, to compare its answers
        document, text = writing.write(base_info, polished.plan, expected=expected)
    document["polish"] = polished.as_dict()
    text += f"\n{polished.description}"
    if comparison is not None:
        document["comparison"] = comparison.as_dict(0)
        text += f"\nA as it was, B polished, on the search split:\n{figures_text(comparison)}"
    return polished, (document, text)
