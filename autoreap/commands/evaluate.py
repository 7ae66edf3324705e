"""autoreap evaluate: score a model, or a model under a plan."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from autoreap.commands.options import Calibration, Device, Dtype, Json, Model, Plan, check_output, print_result

_BATCH_SIZE = "utterances decoded together at most (default: 32; on an accelerator 256)"


def evaluate(
    model: Model,
    evals: Annotated[Path, Option(metavar="FILE", help="a file of evals/")],
    calibration: Calibration,
    plan: Plan = None,
    split: Annotated[Literal["search", "report"], Option(help="which split to score")] = "search",
    batch_size: Annotated[int | None, Option(metavar="N", min=1, help=_BATCH_SIZE)] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    latency: Annotated[bool, Option("--latency", help="also time answers, in turns with the unpruned model")] = False,
    likelihood: Annotated[bool, Option("--likelihood", help="also measure nats per token of the references")] = False,
    outcomes: Annotated[Path | None, Option(metavar="FILE", help="write one JSON line per utterance")] = None,
    json: Json = False,
) -> None:
    """Score a model or a plan.

    Example:
        autoreap evaluate tiny --evals evals/tiny.yaml --split report
    """
    from autoreap import jobs
    from autoreap.models.loading import open_model
    from autoreap.plan import load_plan
    from autoreap.report.evaluation_text import evaluation_table
    from autoreap.scores import metrics_as_dict

    if outcomes:  # a place that can't be written is found before the model is loaded
        check_output(outcomes, "--outcomes")
    wanted = None
    if plan:
        wanted = load_plan(plan)
    model_info = open_model(model)
    evaluation = jobs.evaluate(
        model_info,
        evals,
        wanted,
        calibration=calibration.config_if_given(),
        split=split,
        latency=latency,
        likelihoods=likelihood,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    if outcomes:
        evaluation.save_outcomes(outcomes)
    print_result({"metrics": metrics_as_dict(evaluation.metrics())}, evaluation_table(evaluation), as_json=json)
