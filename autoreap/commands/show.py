"""autoreap show: the trials of a study, or all about one of them."""

import shutil

from autoreap.commands.options import Add, Arguments, Result, add_study_options, at_least_zero

SUMMARY = "list the trials of a study, or tell all about one"
EXAMPLE = "autoreap show tiny-tiny --trial 7"

_WIDTH = 100  # where there is no terminal


def add_options(add: Add) -> None:
    """What the command takes."""
    add_study_options(add)
    add("--trial", type=at_least_zero, metavar="N", help="all about this one (default: one line for each)")


def run(options: Arguments) -> Result:
    """A line a trial, or a page about one."""
    from autoreap.report.trial_text import details_text, trial_as_dict, trial_details
    from autoreap.search.records import read_study
    from autoreap.search.search_log import trial_line
    from autoreap.search.storage import open_study

    study = read_study(open_study(options.study, options.storage))
    if options.trial is not None:
        details = trial_details(study, options.trial)
        width = shutil.get_terminal_size((_WIDTH, 0)).columns
        return details.as_dict(), details_text(details, width=width)
    document = {"study": study.name, "trials": [trial_as_dict(trial) for trial in study.trials]}
    lines = [trial_line(trial, list(study.objectives)) for trial in study.trials]
    return document, "\n".join(lines) or f"study {study.name} has no trial yet"
