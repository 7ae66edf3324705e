"""A finished trial in one line, as the log of a night has it."""

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from autoreap.study.trials import RACED, RESULT, SCREENED, Became, Fate, fate_of
from autoreap.wording import duration, metric_text, shown, size_text


def trial_text(trial: FrozenTrial, objectives: Iterable[str]) -> str:
    """What was tried, what came of it, and what it took."""
    values = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
    return f"trial {trial.number} ({trial.user_attrs.get('preset', 'sampled')}: {values}){_end(trial, objectives)}"


def _end(trial: FrozenTrial, objectives: Iterable[str]) -> str:
    fate, known = fate_of(trial), trial.user_attrs
    match fate.became:
        case Became.SCORED | Became.REPEAT:
            result = known[RESULT]
            spent = duration(result["seconds"]) if fate.twin is None else _same_plan(fate)
            return f": {scores_text(result['metrics'], result['size_bytes'], objectives)}; {spent}"
        case Became.RACED:
            scored = "{num_scored} of {num_utterances} utterances, ".format_map(known[RACED])
            return f" raced: {_stopped(fate, scored, known[RACED]['seconds'])}"
        case Became.SCREENED:
            return f" screened out: {_stopped(fate, '', known[SCREENED]['seconds'])}"
        case Became.INFEASIBLE:
            return f" not scored: {fate.reason}"
        case Became.FAILED:
            return f" failed: {fate.reason}"
    return f" {fate.became}"


def _stopped(fate: Fate, scored: str, seconds: float) -> str:
    return f"{fate.reason}; {scored}{duration(seconds)}" if fate.twin is None else _same_plan(fate)


def _same_plan(fate: Fate) -> str:
    return f"same plan as trial {fate.twin}"


def scores_text(metrics: Mapping[str, Mapping[str, Any]], size_bytes: int, objectives: Iterable[str]) -> str:
    """Size and scores, each with its interval."""
    names = shown(metrics, objectives)
    return ", ".join([size_text(size_bytes), *[f"{name} {metric_text(name, metrics[name])}" for name in names]])


def scoring_seconds(trial: FrozenTrial) -> float:
    """What scoring it took; 0 where nothing had to be scored."""
    return float(trial.user_attrs.get(RESULT, trial.user_attrs.get(RACED, {})).get("seconds", 0))
