"""autoreap evaluate: score a model, or a model under a plan."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result, add_loading_options, add_model, check_output, positive

SUMMARY = "score a model or a plan"
EXAMPLE = "autoreap evaluate tiny --evals evals/tiny.yaml --split report"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_model(add)
    add("--plan", type=Path, metavar="FILE", help="score the model under this plan")
    add("--evals", type=Path, metavar="FILE", required=True, help="a file of evals/")
    add("--split", choices=("search", "report"), default="search", help="default: search")
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="utterances decoded together (default: 32; on an accelerator 256, halved until they fit)",
    )
    add_loading_options(add)
    add("--latency", action="store_true", help="time answers, too, in turns with the unpruned model")
    add("--likelihood", action="store_true", help="measure how likely the references are, too, in nats a token")
    add("--outcomes", type=Path, metavar="FILE", help="write one JSON line an utterance")


def run(options: Arguments) -> Result:
    """Score, with intervals."""
    from autoreap import jobs
    from autoreap.models.loading import describe
    from autoreap.plan import load_plan
    from autoreap.report.evaluation_text import evaluation_table
    from autoreap.scores import metrics_as_dict

    if options.outcomes:  # a place that can't be written is found before the model is loaded
        check_output(options.outcomes, "--outcomes")
    plan = load_plan(options.plan) if options.plan else None
    described = describe(options.model)
    evaluation = jobs.evaluate(
        described,
        options.evals,
        plan,
        split=options.split,
        latency=options.latency,
        likelihoods=options.likelihood,
        batch_size=options.batch_size,
        device=options.device,
        dtype=options.dtype,
    )
    if options.outcomes:
        evaluation.save_outcomes(options.outcomes)
    return {"metrics": metrics_as_dict(evaluation.metrics())}, evaluation_table(evaluation)
