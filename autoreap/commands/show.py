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
    from autoreap.report.trial_details import details_of, details_text, listed, trial_line
    from autoreap.study.trials import objectives_of, open_study

    study = open_study(options.study, options.storage)
    if options.trial is not None:
        details = details_of(study, options.trial)
        width = shutil.get_terminal_size((_WIDTH, 0)).columns
        return details.as_dict(), details_text(details, width=width)
    trials = study.get_trials(deepcopy=False)
    document = {"study": study.study_name, "trials": [listed(trial) for trial in trials]}
    lines = [trial_line(trial, objectives_of(study)) for trial in trials]
    return document, "\n".join(lines) or f"study {study.study_name} has no trial yet"
