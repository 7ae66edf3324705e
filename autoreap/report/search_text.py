"""What a search came to, for a terminal: the front, the files that were made, and what was shipped."""

from autoreap.report.front_table import front_table
from autoreap.search.front import explain_empty_front
from autoreap.search.non_inferiority import quality_lines
from autoreap.search.run import SearchResult
from autoreap.writing.verification import behaviour_text


def search_text(result: SearchResult) -> str:
    """The front as a table, then a line for each file that was drawn, and all about the checkpoint."""
    study, shipped = result.study, result.shipped
    lines = [front_table(study, result.front), ""]
    if not result.front:
        lines.append(explain_empty_front(study))
    for path in result.drawn:
        label = "report"
        if path.suffix == ".png":
            label = "front"
        lines.append(f"{label:<8} {path}")
    if shipped is not None:
        plan = study.plan(shipped.trial)
        lines += [
            f"shipped  {shipped.path}",
            f"         trial {shipped.trial} with {', '.join([plan.thinker.description, *plan.treatments])}",
            f"         why: {shipped.reason}",
            f"         stock transformers loads it; {behaviour_text(shipped.verified)}",
        ]
        for line in quality_lines(study, study.trial(shipped.trial)):
            lines.append(f"         {line}")
    if result.not_shipped:
        lines.append(f"shipped  nothing: {result.not_shipped}")
    for what in result.missing:
        lines.append(f"missing  {what}")
    return "\n".join(lines)
