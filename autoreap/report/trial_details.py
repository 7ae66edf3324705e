"""Everything that a study knows of one trial, in words and as plain values."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoreap.comparison.comparison import Comparison, compare_outcomes
from autoreap.comparison.text import comparison_text
from autoreap.errors import InputError
from autoreap.outcomes import load_outcomes
from autoreap.plan import COMPONENTS, ComponentPlan, plan_from_dict
from autoreap.study.confirmed import CONFIRMED, confirmed_lines, with_confirmed
from autoreap.study.front import broken_text, costs_of, pareto
from autoreap.study.trial_text import trial_text
from autoreap.study.trials import (
    DEFAULT_ROOT,
    PLAN,
    RESULT,
    Became,
    fate_of,
    objectives_of,
    outcomes_path,
    points_of,
)
from autoreap.wording import duration, metric_text, shown, size_text

NUM_WORST = 3
_STATES = {
    TrialState.COMPLETE: "scored",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class TrialDetails:
    """One trial of `study`.

    Attributes:
        reason: of its state, or where it stands to the front.
        comparison: against the unpruned model; None where it was not scored or its answers are gone, see `missing`.
    """

    study: optuna.Study
    trial: FrozenTrial
    reason: str
    comparison: Comparison | None
    missing: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        compared = {"against_baseline": self.comparison.as_dict(NUM_WORST)} if self.comparison else {}
        plan = {"plan": self.trial.user_attrs[PLAN]} if PLAN in self.trial.user_attrs else {}
        (known,) = with_confirmed([listed(self.trial)], self.study.user_attrs.get(CONFIRMED))
        return {"study": self.study.study_name, **known, "reason": self.reason, **plan, **compared}


def details_of(study: optuna.Study, number: int, root: Path = DEFAULT_ROOT) -> TrialDetails:
    """All about trial `number`; `InputError` if there is none."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.number == number]
    if not found:
        fix = "`autoreap show STUDY` lists them"
        raise InputError(f"has no trial {number}", where=f"study {study.study_name}", fix=fix)
    (trial,) = found
    comparison, missing = None, ""
    if trial.state == TrialState.COMPLETE:
        paths = [outcomes_path(study, None, root), outcomes_path(study, number, root)]
        gone = [path for path in paths if not path.is_file()]
        missing = f"its answers can't be compared: {gone[0]} is not there" if gone else ""
        comparison = None if gone else compare_outcomes(*map(load_outcomes, paths))
    return TrialDetails(study, trial, _reason(study, trial), comparison, missing)


def listed(trial: FrozenTrial) -> dict[str, Any]:
    """What a list of trials says of one, as plain values."""
    origin = trial.user_attrs.get("preset", "sampled")
    scored = {key: value for key, value in trial.user_attrs.get(RESULT, {}).items() if key != "plan_digest"}
    return {"trial": trial.number, "state": _STATES[trial.state], "origin": origin, "params": trial.params, **scored}


def trial_line(trial: FrozenTrial, objectives: Mapping[str, str]) -> str:
    """A trial in one line, also one that has not ended."""
    if trial.state in (TrialState.RUNNING, TrialState.WAITING):
        return f"trial {trial.number}: {_STATES[trial.state]}"
    return trial_text(trial, objectives)


def details_text(details: TrialDetails, *, width: int) -> str:
    """All about the trial in lines of about `width` columns."""
    trial, study = details.trial, details.study
    values = ", ".join(f"{name} {_value(value)}" for name, value in trial.params.items()) or "none sampled"
    lines = [
        f"trial {trial.number} of {study.study_name}: {_STATES[trial.state]}; {details.reason}",
        f"values   {values} ({trial.user_attrs.get('preset', 'sampled')})",
        *_scores(details),
        *_kept(trial, width),
    ]
    if details.comparison:
        lines += ["", "A is the unpruned model, B this trial:"]
        lines += [comparison_text(details.comparison, NUM_WORST, width=width)]
    lines += [details.missing] if details.missing else []
    if trial.state == TrialState.COMPLETE:
        name = f"{study.study_name}-trial-{trial.number}"
        lines += ["", f"to write it: autoreap materialise {study.study_name} --trial {trial.number} -o {name}"]
    return "\n".join(lines)


def _reason(study: optuna.Study, trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return _standing(study, trial)
    if trial.state == TrialState.WAITING:
        return "it waits to be tried"
    if trial.state == TrialState.RUNNING:
        return "nothing is known of it yet; it runs, or was cut off"
    fate = fate_of(trial)
    return f"it breaks {fate.reason}" if fate.became == Became.INFEASIBLE else fate.reason or f"it was {fate.became}"


def _standing(study: optuna.Study, trial: FrozenTrial) -> str:
    """On the front, or why not."""
    objectives = objectives_of(study)
    points = {point.trial: point for point in points_of(study)}
    own, front = points[trial.number], pareto(list(points.values()), objectives)
    if own.duplicate_of is not None:
        return f"the same plan as trial {own.duplicate_of}"
    if own.broken:
        return f"it breaks {broken_text(own)}"
    if own.trial in {point.trial for point in front}:
        return "on the front"
    costs = costs_of(own.values, objectives)
    better = next(
        point for point in front if all(costs_of(point.values, objectives)[name] <= costs[name] for name in objectives)
    )
    return f"behind trial {better.trial}, which is at least as good in {' and '.join(objectives)}"


def _scores(details: TrialDetails) -> list[str]:
    result = details.trial.user_attrs.get(RESULT)
    if details.trial.state != TrialState.COMPLETE or result is None:
        return []
    baseline = details.study.user_attrs["baseline"]
    share = result["size_bytes"] / baseline["size_bytes"]
    lines = [f"size     {size_text(result['size_bytes'])}, {share:.1%} of {size_text(baseline['size_bytes'])}"]
    for name in shown(result["metrics"], objectives_of(details.study)):
        unpruned = metric_text(name, baseline["metrics"][name])
        lines.append(f"{name:<8} {metric_text(name, result['metrics'][name])}, unpruned {unpruned}")
    lines += confirmed_lines(details.study.user_attrs.get(CONFIRMED), details.trial.number)
    return [*lines, f"took     {duration(result.get('seconds', 0))}"]


def _kept(trial: FrozenTrial, width: int) -> list[str]:
    """What is retained, by original numbers: layers, and for each of them the experts."""
    if PLAN not in trial.user_attrs:
        return []
    plan = plan_from_dict(trial.user_attrs[PLAN], where=f"trial {trial.number}")
    lines = [*["vision   stripped"] * plan.strip_vision, *["speech   dropped"] * plan.drop_speech]
    for name in COMPONENTS:
        if edit := plan.component(name):
            lines += ["", f"{name}: {len(edit.layers)} of {len(edit.experts)} layers, {_cut(edit)}"]
            for layer in edit.layers if edit.num_retained_experts else ():
                text = f"layer {layer:>2}  experts {spans(edit.experts[layer])}"
                lines += textwrap.wrap(text, max(width - 2, 40), initial_indent="  ", subsequent_indent=" " * 20)
    return lines


def _cut(edit: ComponentPlan) -> str:
    gone = [layer for layer in range(len(edit.experts)) if layer not in edit.layers]
    experts = f"{edit.num_retained_experts} experts in each" if edit.num_retained_experts else "it is dense"
    return f"without {spans(gone)}; {experts}" if gone else f"none cut; {experts}"


def spans(numbers: Sequence[int]) -> str:
    """Sorted numbers in a compact form: `0-3, 7, 9-10`."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
