"""The morning report: a study's document with its style and scripts in one file that needs no network.

What models and data sets say is untrusted. It travels as JSON and reaches the page as text alone, never as markup.
"""

import html
import json
from pathlib import Path
from string import Template

import optuna

from autoreap.comparison.page import asset, embedded
from autoreap.report.document import report_document
from autoreap.study.trials import DEFAULT_ROOT

LANGUAGES = ("en", "zh")
_SCRIPTS = ("utterance.js", "format.js", "chart.js", "details.js", "night.js", "report.js")


def write_report(study: optuna.Study, path: Path, root: Path = DEFAULT_ROOT) -> None:
    """Write it; `root` holds the outcomes of the study's trials."""
    page = Template(asset("report.html")).substitute(
        name=html.escape(study.study_name),
        style=asset("style.css") + asset("report.css"),
        data=embedded(report_document(study, root)),
        words=embedded({language: json.loads(asset(f"words.{language}.json")) for language in LANGUAGES}),
        script="".join(map(asset, _SCRIPTS)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
