"""autoreap report: the morning report."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result, add_study_options, check_output
from autoreap.errors import InputError
from autoreap.wording import size_text

SUMMARY = "write the morning report"
EXAMPLE = "autoreap report tiny-tiny -o report.html"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("-o", "--output", type=Path, default=Path("report.html"), help="HTML file (default: report.html)")


def run(options: Arguments) -> Result:
    """Write the page; also of a night on which everything failed, for its reasons."""
    from autoreap.report.page import write_report
    from autoreap.study.front import pareto
    from autoreap.study.trials import objectives_of, open_study, points_of

    check_output(options.output, "-o")
    study = open_study(options.study, options.storage)
    trials = study.get_trials(deepcopy=False)
    if "baseline" not in study.user_attrs or not any(trial.state.is_finished() for trial in trials):
        raise InputError("has no finished trial yet", where=f"study {options.study}", fix="search longer")
    write_report(study, options.output)
    front = [point.trial for point in pareto(points_of(study), objectives_of(study))]
    num_bytes = options.output.stat().st_size
    found = {"study": study.study_name, "num_trials": len(trials), "front": front}
    told = f"{len(trials)} trials, {len(front)} on the front; open it in a browser"
    return (
        {"report": str(options.output), "bytes": num_bytes, **found},
        f"wrote {options.output} ({size_text(num_bytes)}): {told}",
    )
