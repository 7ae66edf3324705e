"""autoreap report: the morning report."""

from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result, add_study_options
from autoreap.errors import InputError

SUMMARY = "write the morning report"
EXAMPLE = "autoreap report tiny-tiny -o report.html"


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("-o", "--output", type=Path, default=Path("report.html"), help="HTML file (default: report.html)")


def run(options: Arguments) -> Result:
    """Write the page."""
    from autoreap.report_page import write_report
    from autoreap.study import open_study, points_of

    study = open_study(options.study, options.storage)
    if not points_of(study):
        raise InputError("has no finished trial yet", where=f"study {options.study}", fix="search longer")
    write_report(study, options.output)
    return {"report": str(options.output)}, f"wrote {options.output}"
