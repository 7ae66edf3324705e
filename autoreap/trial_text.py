"""A finished trial in one line, as the log of a night has it."""

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autoreap.front import ERROR, INFEASIBLE, RACED, RESULT, SCREENED
from autoreap.wording import duration, metric_text, shown, size_text


def trial_text(trial: FrozenTrial, objectives: Iterable[str]) -> str:
    """What was tried, what came of it, and what it took."""
    values = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
    return f"trial {trial.number} ({trial.user_attrs.get('preset', 'sampled')}: {values}){_end(trial, objectives)}"


def _end(trial: FrozenTrial, objectives: Iterable[str]) -> str:
    if raced := trial.user_attrs.get(RACED):
        return f" raced: {_stopped(raced)}"
    if INFEASIBLE in trial.user_attrs:
        return f" not scored: {trial.user_attrs[INFEASIBLE]}"
    if trial.state == TrialState.PRUNED:
        return f" screened out: {_stopped(trial.user_attrs[SCREENED])}"
    if trial.state != TrialState.COMPLETE:
        return f" failed: {trial.user_attrs.get(ERROR, 'unknown')}"
    result = trial.user_attrs[RESULT]
    twin = result.get("duplicate_of")
    spent = duration(result["seconds"]) if twin is None else f"same plan as trial {twin}"
    return f": {scores_text(result['metrics'], result['size_bytes'], objectives)}; {spent}"


def _stopped(raced: Mapping[str, Any]) -> str:
    if raced.get("duplicate_of") is not None:
        return f"same plan as trial {raced['duplicate_of']}"
    scored = f"{raced['num_scored']} of {raced['num_utterances']} utterances, " if "num_scored" in raced else ""
    return f"{raced['reason']}; {scored}{duration(raced['seconds'])}"


def scores_text(metrics: Mapping[str, Mapping[str, Any]], size_bytes: int, objectives: Iterable[str]) -> str:
    """Size and scores, each with its interval."""
    names = shown(metrics, objectives)
    return ", ".join([size_text(size_bytes), *[f"{name} {metric_text(name, metrics[name])}" for name in names]])


def scoring_seconds(trial: FrozenTrial) -> float:
    """What scoring it took; 0 where nothing had to be scored."""
    return float(trial.user_attrs.get(RESULT, trial.user_attrs.get(RACED, {})).get("seconds", 0))
