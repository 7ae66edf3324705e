"""What commands do, for Python callers too.

A job opens the model, does one thing, and returns what there is to show.
"""

from autoreap.jobs.answers import answers_of_mask, answers_of_trial, answers_to_calibration
from autoreap.jobs.calibrating import calibrated, read_calibration
from autoreap.jobs.evaluating import evaluated, evaluator_of
from autoreap.jobs.search_run import SearchResult
from autoreap.jobs.searching import search
from autoreap.jobs.shipping import Shipped, ship
from autoreap.study.options import SearchOptions

__all__ = [
    "SearchOptions",
    "SearchResult",
    "Shipped",
    "answers_of_mask",
    "answers_of_trial",
    "answers_to_calibration",
    "calibrated",
    "evaluated",
    "evaluator_of",
    "read_calibration",
    "search",
    "ship",
]
