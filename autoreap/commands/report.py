"""autoreap report: the morning report."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result, add_study_options, check_output
from autoreap.errors import InputError
from autoreap.formatting import size_text

SUMMARY = "write the morning report"
EXAMPLE = "autoreap report tiny-tiny -o report.html"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("-o", "--output", type=Path, default=Path("report.html"), help="HTML file (default: report.html)")


def run(options: Arguments) -> Result:
    """Write the page; also of a night on which everything failed, for its reasons."""
    from autoreap.formatting import count_text
    from autoreap.report.study_page import write_report
    from autoreap.search.front import front_of
    from autoreap.search.records import read_study
    from autoreap.search.storage import open_study

    check_output(options.output, "-o")
    study = read_study(open_study(options.study, options.storage))
    if not any(trial.is_finished for trial in study.trials):
        raise InputError("has no finished trial yet", where=f"study {options.study}", fix="search longer")
    write_report(study, options.output)
    front = [point.number for point in front_of(study)]
    num_bytes = options.output.stat().st_size
    document = {"report": str(options.output), "bytes": num_bytes, "study": study.name}
    document |= {"num_trials": len(study.trials), "front": front}
    trials = count_text(len(study.trials), "trial")
    size = size_text(num_bytes)
    return document, f"wrote {options.output} ({size}): {trials}, {len(front)} on the front; open it in a browser"
