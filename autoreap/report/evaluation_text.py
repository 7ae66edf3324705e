"""An evaluation as a table for people."""

from collections import Counter

from autoreap.evaluation.outcomes import Evaluation, with_languages
from autoreap.formatting import metric_text
from autoreap.report.tables import text_table


def evaluation_table(evaluation: Evaluation) -> str:
    """One line a metric: rate and interval, the counts behind it, and why what failed did."""
    outcomes = with_languages(evaluation.outcomes)
    rows = []
    for name, metric in evaluation.metrics().items():
        row = [name, metric_text(name, metric), "", "", ""]
        if metric.denominator is not None:  # a rate of counts; a time or a size has none
            reasons: Counter[str] = Counter()
            for outcome in outcomes.get(name, ()):
                if outcome.failed:
                    reasons[outcome.reason or "failed"] += 1
            failed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
            counts = f"{metric.numerator:,.0f}/{metric.denominator:,}"
            row[2:] = [counts, f"{metric.num_samples:,}", failed or "none"]
        rows.append(row)
    return text_table(["", "rate [95% interval]", "counts", "utterances", "failed"], rows, left=(0, 4))
