"""The morning report: all about a study in one page."""

from pathlib import Path

from autoreap.report.pages import read_words, write_page
from autoreap.report.study_document import study_document
from autoreap.search.records import StudyRecord
from autoreap.search.storage import DEFAULT_ROOT

LANGUAGES = ("en", "zh")
# In the order in which they use each other: they share one scope in the page.
_SCRIPTS = ("utterance.js", "format.js", "chart.js", "details.js", "night.js", "report.js")


def write_report(study: StudyRecord, path: Path, root: Path = DEFAULT_ROOT) -> None:
    """Write it; `root` holds the outcomes of the study's trials."""
    write_page(
        "report.html",
        path,
        title=study.name,
        document=study_document(study, root),
        words={language: read_words(language) for language in LANGUAGES},
        scripts=_SCRIPTS,
    )
