"""autoreap heal: train routers and norms of a written checkpoint against the unpruned model."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from autoreap.commands.options import Calibration, Device, Dtype, Json, ModelNow, print_result
from autoreap.commands.writing import Writing
from autoreap.errors import HealingError, InputError

if TYPE_CHECKING:
    from autoreap.evaluation.comparison import Comparison
    from autoreap.healing.polish import Polished
    from autoreap.models.loading import Loaded
    from autoreap.plan import PruningPlan
    from autoreap.writing.behaviour import Expected

_CHECKPOINT = "a directory that materialise, prune or search wrote"
_EVALS = "score both on its search split, too, and report the paired difference"


def heal(
    checkpoint: Annotated[Path, Argument(metavar="CHECKPOINT", help=_CHECKPOINT)],
    writing: Writing,
    calibration: Calibration,
    base: ModelNow = None,
    evals: Annotated[Path | None, Option(metavar="FILE", help=_EVALS)] = None,
    steps: Annotated[int, Option(metavar="N", min=1, help="at most so many batches")] = 300,
    learning_rate: Annotated[float, Option(metavar="NUMBER", min=1e-9, max=1.0, help="of AdamW")] = 3e-4,
    batch_tokens: Annotated[int, Option(metavar="N", min=1, help="tokens of a batch, padding included")] = 512,
    seed: Annotated[int, Option(metavar="N", min=0, help="of the order of the batches")] = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Train a checkpoint's routers and norms against its base.

    Example:
        autoreap heal pruned --base tiny --audio calibration/tiny/audio.parquet -o polished
    """
    from autoreap import jobs
    from autoreap.calibration.resume import lock_resume_file
    from autoreap.models.loading import load, open_model, release
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
    written = check_structure(checkpoint)
    check_content(written, record)
    # What was healed in closed form lies in the checkpoint alone: training starts from these very weights.
    plan = jobs.with_written_weights(plan, base_info, written)
    options = jobs.PolishOptions(steps, learning_rate, batch_tokens, seed)
    state = writing.target.with_name(f"{writing.target.name}.polish")  # the writing has a lock of its own
    with lock_resume_file(state) as resume, TemporaryDirectory() as scratch:
        loaded = load(base_info, device=device, dtype=dtype)
        polished = jobs.polish(loaded, plan, data, options, resume)
        if polished.is_better:
            expected, comparison = _compared(loaded, plan, polished, data, evals, writing, Path(scratch))
            del loaded
            release()  # the checkpoint is loaded next, to compare its answers
            document, text = writing.write(base_info, polished.plan, expected=expected)
    if not polished.is_better:
        problem = f"{checkpoint}: polishing does not help significantly, so nothing was written"
        raise HealingError(f"{problem}; {_in_words(polished)}")
    document["polish"] = _as_dict(polished)
    text += f"\n{_in_words(polished)}"
    if comparison is not None:
        from autoreap.report.comparison_text import figures_text

        document["comparison"] = comparison.as_dict(0)
        text += f"\nA as it was, B polished, on the search split:\n{figures_text(comparison)}"
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


def _compared(
    loaded: "Loaded",
    plan: "PruningPlan",
    polished: "Polished",
    data: Any,
    evals: Path | None,
    writing: Writing,
    scratch: Path,
) -> "tuple[Expected | str, Comparison | None]":
    """What the checkpoint must answer, or why there is nothing to compare with; and how both sides answer `evals`."""
    from autoreap import jobs

    if evals is not None:
        return jobs.compare_plans(loaded, plan, polished.plan, evals)
    if not writing.compares:
        return "", None
    return jobs.answers_to_calibration(loaded, data, polished.plan, scratch), None


def _as_dict(polished: "Polished") -> dict[str, Any]:
    assert polished.plan.polish is not None
    return {
        "step": polished.plan.polish.step,
        "num_parameters": polished.num_parameters,
        "num_rows": polished.num_rows,
        "before": polished.before.as_dict(),
        "after": polished.after.as_dict(),
        "difference": polished.difference.as_dict(),
    }


def _in_words(polished: "Polished") -> str:
    assert polished.plan.polish is not None
    before, after, difference = polished.before, polished.after, polished.difference
    return (
        f"KL to the unpruned model on {after.num_samples} held-out rows: {before.value:.4g} "
        f"[{before.low:.4g}, {before.high:.4g}] before, {after.value:.4g} [{after.low:.4g}, {after.high:.4g}] after "
        f"{polished.plan.polish.step} steps, {difference.value:+.2g} [{difference.low:+.2g}, {difference.high:+.2g}] "
        f"paired; {polished.num_parameters:,} weights trained on {polished.num_rows} rows"
    )
