"""The keys of a task that lm-eval has.

A key has an effect here or is refused: what a task file says is what is done.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, StrictBool, StrictStr
from pydantic.dataclasses import dataclass

from autoreap.data.columns import Constant
from autoreap.data.row_templates import check_template, is_row_template
from autoreap.data.tasks import TASKS, task_named
from autoreap.validation import NO_OTHER_KEYS, Mistake, PositiveInteger, Section, mapping_or_empty

LM_EVAL_KEYS = ("doc_to_target", "doc_to_choice", "generation_kwargs", "metric_list", "metadata")

_REFUSED = "this key of lm-eval is not supported: "
_MAP_COLUMNS = f"{_REFUSED}map columns instead, as in columns: {{audio: speech}}"
_NO_EXAMPLES = f"{_REFUSED}a prompt holds no examples"
_TEST_SPLIT = f"{_REFUSED}test_split names the split that is scored"
_PROMPT = f"{_REFUSED}write the whole prompt in doc_to_text"
_JUDGED = f"{_REFUSED}the task judges its answers; another way to judge is a module of tasks/"
UNSUPPORTED = {
    "include": f"{_REFUSED}write its keys out here",
    "group": f"{_REFUSED}the evals file is the group",
    "tag": f"{_REFUSED}use label",
    "dataset_kwargs": f"{_REFUSED}dataset_path, dataset_name and test_split name the data",
    "output_type": f"{_REFUSED}answers are always generated",
    "process_docs": _MAP_COLUMNS,
    "doc_to_audio": _MAP_COLUMNS,
    "doc_to_visual": _MAP_COLUMNS,
    "process_results": _JUDGED,
    "filter_list": _JUDGED,
    "num_fewshot": _NO_EXAMPLES,
    "fewshot_split": _NO_EXAMPLES,
    "fewshot_config": _NO_EXAMPLES,
    "training_split": _TEST_SPLIT,
    "validation_split": _TEST_SPLIT,
    "description": _PROMPT,
    "target_delimiter": _PROMPT,
    "lmms_eval_specific_kwargs": _PROMPT,
    "repeats": f"{_REFUSED}greedy decoding answers the same each time",
    "should_decontaminate": f"{_REFUSED}the search and report splits are checked for common recordings",
}


def _only(value: Any) -> AfterValidator:
    """The check that a key of sampling has the one value that means greedy decoding."""

    def check(given: Any) -> Any:
        if given != value:
            raise ValueError(f"must be {str(value).lower()} or left out, since scoring is greedy")
        return given

    return AfterValidator(check)


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class GenerationKwargs(Section):
    """`generation_kwargs`: the bound on an answer, and keys that may only ask for greedy decoding."""

    unsupported: ClassVar[Mapping[str, str]] = {
        "until": "not supported: an answer ends where the model ends it; leave it out"
    }

    max_gen_toks: PositiveInteger | None = None
    max_new_tokens: PositiveInteger | None = None
    do_sample: Annotated[Any, _only(False)] = False
    temperature: Annotated[Any, _only(0)] = 0
    num_beams: Annotated[Any, _only(1)] = 1
    top_p: Annotated[Any, _only(1)] = 1


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class MetricEntry(Section):
    """An entry of `metric_list`."""

    metric: StrictStr
    aggregation: StrictStr | None = None
    higher_is_better: StrictBool | None = None


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class Metadata(Section):
    """`metadata`: the version of a task is part of what a study is known by."""

    version: Any = None


def metric_of(entry: Mapping[str, Any]) -> str | None:
    """The metric that `entry`, a task as it is written, yields; None if it names no task or no metric of its task."""
    metrics, listed = _metrics_of(entry), entry.get("metric_list")
    if not metrics:
        return None
    # A list of another form is a mistake of its own (`metric_mistakes`).
    if not isinstance(listed, list) or len(listed) != 1:
        return metrics[0]
    chosen: str | None = mapping_or_empty(listed[0]).get("metric")
    if chosen not in metrics:
        return None
    return chosen


def _metrics_of(entry: Mapping[str, Any]) -> list[str]:
    """The metrics that the task of `entry` may have, the usual one first."""
    return [task.METRIC for task in TASKS if entry.get("task") == task.NAME]


def metric_mistakes(entry: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the `metric_list` of `entry`, a task as it is written."""
    listed, at = entry.get("metric_list"), ("metric_list", 0)
    if listed is None:
        return
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
        yield at[:1], f"must be a list of one mapping with the key metric, got {listed!r}; a task has one metric"
        return
    given, metric, metrics = listed[0], metric_of(entry), _metrics_of(entry)
    if metric is None:
        if metrics and isinstance(given.get("metric"), str):
            yield (*at, "metric"), f"must be one of {', '.join(metrics)}, got {given['metric']!r}"
        return
    task = task_named(entry["task"], metric)
    if given.get("aggregation", task.AGGREGATION) != task.AGGREGATION:
        yield (*at, "aggregation"), f"must be one of {task.AGGREGATION}, got {given['aggregation']!r}"
    # Compared by `is`, as 1 equals true.
    higher = task.DIRECTION == "maximize"
    if given.get("higher_is_better", higher) is not higher:
        yield (*at, "higher_is_better"), f"must be {str(higher).lower()} for {metric}, or left out"


def _check_column(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a column or a template of columns")
    check_template(value)
    return value


def _check_columns(value: Any) -> Any:
    """A column, a template, or a list of them as a tuple."""
    if not isinstance(value, list):
        return _check_column(value)
    if not value:
        raise ValueError("must not be empty")
    return tuple(_check_column(part) for part in value)


def _check_choices(value: Any) -> Any:
    """A column, a template, or texts of which some may be templates."""
    if isinstance(value, str):
        return _check_column(value)
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(text, str) and text for text in value):
        raise ValueError('must be a column, a template or a list of texts (yes and no in quotes: ["yes", "no"])')
    choices: list[str | Constant] = []
    for text in value:
        if is_row_template(text):
            choices.append(text)
        else:
            choices.append(Constant(text))
    return tuple(choices)


Column = Annotated[Any, AfterValidator(_check_column)]
Columns = Annotated[Any, AfterValidator(_check_columns)]
Choices = Annotated[Any, AfterValidator(_check_choices)]
