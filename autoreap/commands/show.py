"""autoreap show: the trials of a study, or all about one of them."""

from typing import Annotated

from typer import Option

from autoreap.commands.options import Json, Storage, Study, load_study, print_result, terminal_width


def show(
    study: Study,
    storage: Storage = None,
    trial: Annotated[
        int | None, Option(metavar="N", min=0, help="all details of this trial (default: one line for each)")
    ] = None,
    json: Json = False,
) -> None:
    """List the trials of a study, or tell all about one.

    Example:
        autoreap show tiny-tiny --trial 7
    """
    from autoreap.report.trial_text import details_text, trial_as_dict, trial_details
    from autoreap.search.search_log import trial_line

    recorded = load_study(study, storage)
    if trial is not None:
        details = trial_details(recorded, trial)
        print_result(details.as_dict(), details_text(details, width=terminal_width()), as_json=json)
        return
    document = {"study": recorded.name, "trials": [trial_as_dict(each) for each in recorded.trials]}
    lines = [trial_line(each, list(recorded.objectives)) for each in recorded.trials]
    print_result(document, "\n".join(lines) or f"study {recorded.name} has no trial yet", as_json=json)
