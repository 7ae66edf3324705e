"""autoreap report: the morning report."""

from pathlib import Path
from typing import Annotated

from typer import Option

from autoreap.commands.options import Json, Storage, Study, check_output, load_study, print_result
from autoreap.errors import InputError
from autoreap.formatting import size_text


def report(
    study: Study,
    storage: Storage = None,
    output: Annotated[Path, Option("-o", "--output", metavar="FILE", help="HTML file")] = Path("report.html"),
    json: Json = False,
) -> None:
    """Write the morning report.

    Example:
        autoreap report tiny-tiny -o report.html
    """
    from autoreap.formatting import count_text
    from autoreap.report.study_page import write_report
    from autoreap.search.front import front_of

    check_output(output, "-o")  # before the study is read, and its answers are compared
    recorded = load_study(study, storage)
    if not any(trial.is_finished for trial in recorded.trials):
        raise InputError("has no finished trial yet", where=f"study {study}", fix="search longer")
    write_report(recorded, output)
    front = [point.number for point in front_of(recorded)]
    num_bytes = output.stat().st_size
    document = {"report": str(output), "bytes": num_bytes, "study": recorded.name}
    document |= {"num_trials": len(recorded.trials), "front": front}
    trials = count_text(len(recorded.trials), "trial")
    size = size_text(num_bytes)
    text = f"wrote {output} ({size}): {trials}, {len(front)} on the front; open it in a browser"
    print_result(document, text, as_json=json)
