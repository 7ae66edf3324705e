"""Everything that a study knows of one trial, in words and as plain values."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoreap.evaluation.comparison import Comparison, compare_outcomes
from autoreap.evaluation.outcomes import load_outcomes
from autoreap.formatting import duration, metric_text, parameter_text, size_text, visible_metrics
from autoreap.plan import COMPONENTS
from autoreap.report.comparison_text import comparison_text
from autoreap.scores import metrics_as_dict
from autoreap.search.front import front_of, to_minimise, violations_text
from autoreap.search.non_inferiority import quality_lines
from autoreap.search.records import StudyRecord, TrialRecord, TrialStatus
from autoreap.search.storage import DEFAULT_ROOT

NUM_WORST = 3


@dataclass(frozen=True)
class TrialDetails:
    """One trial of `study`.

    Attributes:
        reason: of its status, or how it compares with the front.
        comparison: against the unpruned model; None where it was not scored or its answers are gone, see `missing`.
    """

    study: StudyRecord
    trial: TrialRecord
    reason: str
    comparison: Comparison | None
    missing: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        document = {"study": self.study.name, **trial_as_dict(self.trial)}
        held_out = self.study.held_out_of(self.trial.number)
        if held_out is not None:
            document["held_out"] = held_out.as_dict()
        document["reason"] = self.reason
        if self.trial.stored_plan is not None:
            document["plan"] = self.trial.stored_plan
        if self.comparison is not None:
            document["against_baseline"] = self.comparison.as_dict(NUM_WORST)
        return document


def trial_details(study: StudyRecord, number: int, root: Path = DEFAULT_ROOT) -> TrialDetails:
    """All about trial `number`; `InputError` if there is none."""
    trial = study.trial(number)
    comparison, missing = None, ""
    if trial.is_scored:
        baseline, own = study.outcomes_path(None, root), study.outcomes_path(number, root)
        # Scores are in the study, answers in files beside it, which may have been cleared away.
        gone = [path for path in (baseline, own) if not path.is_file()]
        if gone:
            missing = f"its answers can't be compared: {gone[0]} is missing"
        else:
            comparison = compare_outcomes(load_outcomes(baseline), load_outcomes(own))
    return TrialDetails(study, trial, _reason(study, trial), comparison, missing)


def trial_as_dict(trial: TrialRecord) -> dict[str, Any]:
    """What a list of trials says of one, as plain values."""
    document = {"trial": trial.number, "state": trial.status, "origin": trial.origin, "params": trial.params}
    if trial.is_scored:
        document |= {"metrics": metrics_as_dict(trial.metrics), "size_bytes": trial.size_bytes}
        document["seconds"] = trial.seconds
        if trial.duplicate_of is not None:
            document["duplicate_of"] = trial.duplicate_of
    return document


def details_text(details: TrialDetails, *, width: int) -> str:
    """All about the trial in lines of about `width` columns."""
    trial, study = details.trial, details.study
    values = [f"{name} {parameter_text(value)}" for name, value in trial.params.items()]
    lines = [
        f"trial {trial.number} of {study.name}: {trial.status}; {details.reason}",
        f"values   {', '.join(values) or 'none sampled'} ({trial.origin})",
        *_scores(details),
        *_retained(trial, width),
    ]
    if details.comparison:
        lines += ["", "A is the unpruned model, B this trial:"]
        lines += [comparison_text(details.comparison, NUM_WORST, width=width)]
    if details.missing:
        lines.append(details.missing)
    if trial.is_scored:
        lines += ["", how_to_write(study, trial)]
    return "\n".join(lines)


def how_to_write(study: StudyRecord, trial: TrialRecord) -> str:
    """The command that writes the checkpoint of a scored trial."""
    name = f"{study.name}-trial-{trial.number}"
    return f"to write it: autoreap materialise {study.name} --trial {trial.number} -o {name}"


def _reason(study: StudyRecord, trial: TrialRecord) -> str:
    match trial.status:
        case TrialStatus.WAITING:
            return "not yet tried"
        case TrialStatus.RUNNING:
            return "not finished, or interrupted"
        case TrialStatus.INTERRUPTED:
            return "interrupted (duration unknown)"
        case TrialStatus.INFEASIBLE:
            return f"violates {trial.reason}"
        case TrialStatus.PRUNED | TrialStatus.FAILED:
            return str(trial.reason)
    if trial.duplicate_of is not None:
        return f"same plan as trial {trial.duplicate_of}"
    if trial.violations:
        return f"violates {violations_text(trial)}"
    # It was scored, so what there is to say is how it compares with the front.
    front = front_of(study)
    if any(point.number == trial.number for point in front):
        return "on the front"
    costs = to_minimise(trial.values, study.objectives)
    for point in front:
        other = to_minimise(point.values, study.objectives)
        if all(other[name] <= costs[name] for name in costs):
            return f"dominated by trial {point.number}"
    return "not on the front"


def _scores(details: TrialDetails) -> list[str]:
    trial, baseline = details.trial, details.study.baseline
    if not trial.is_scored:
        return []
    share = trial.size_bytes / baseline.size_bytes
    lines = [f"size     {size_text(trial.size_bytes)}, {share:.1%} of {size_text(baseline.size_bytes)}"]
    for name in visible_metrics(trial.metrics, details.study.objectives):
        unpruned = metric_text(name, baseline.metrics[name])
        lines.append(f"{name:<8} {metric_text(name, trial.metrics[name])}, unpruned {unpruned}")
    lines += quality_lines(details.study, trial)
    lines.append(f"took     {duration(trial.seconds)}")
    # What healing gave, where the same plan was scored without it.
    unhealed = details.study.unhealed(trial)
    if unhealed is not None:
        scores = []
        for name in visible_metrics(unhealed.metrics, details.study.objectives):
            if name != "size_bytes":
                scores.append(metric_text(name, unhealed.metrics[name]))
        lines.append(f"healing  without it (trial {unhealed.number}): {', '.join(scores)}")
    return lines


def _retained(trial: TrialRecord, width: int) -> list[str]:
    """What is retained, by original numbers: layers, and the experts of each."""
    plan = trial.plan
    if plan is None:
        return []
    lines = []
    if plan.strip_vision:
        lines.append("vision   stripped")
    if plan.drop_speech:
        lines.append("speech   dropped")
    for name in COMPONENTS:
        edit = plan.component(name)
        if edit is None:
            continue
        cut = [layer for layer in range(len(edit.experts)) if layer not in edit.layers]
        layers = "none cut"
        if cut:
            layers = f"without {spans(cut)}"
        heading = f"{name}: {len(edit.layers)} of {len(edit.experts)} layers, {layers}"
        if edit.num_retained_experts == 0:
            lines += ["", f"{heading}; it is dense"]
            continue
        lines += ["", f"{heading}; {edit.num_retained_experts} experts in each"]
        for layer in edit.layers:
            text = f"layer {layer:>2}  experts {spans(edit.experts[layer])}"
            # No narrower than this, whatever the terminal: one number a line would be worse to read than broken lines.
            lines += textwrap.wrap(text, max(width - 2, 40), initial_indent="  ", subsequent_indent=" " * 20)
    return lines


def spans(numbers: Sequence[int]) -> str:
    """Sorted numbers in a compact form: `0-3, 7, 9-10`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = []
    for run in runs:
        text = str(run[0])
        if len(run) > 1:
            text += f"-{run[-1]}"
        texts.append(text)
    return ", ".join(texts)
