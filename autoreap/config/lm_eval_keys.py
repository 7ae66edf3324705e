"""The keys of a task that lm-eval has, read into what `TaskConfig` holds.

A key has an effect here or is refused: what a task file says is what is done.
"""

from collections.abc import Mapping
from typing import Any

from autoreap.config import checks
from autoreap.config.checks import KeyPath, Problems
from autoreap.config.columns import KEYS, Constant, Place, fault_of, is_row_template
from autoreap.tasks import TASKS, Task, task_named
from autoreap.tasks.normalise import is_language_tag

LM_EVAL_KEYS = ("doc_to_target", "doc_to_choice", "generation_kwargs", "metric_list", "metadata")

# Greedy decoding may be asked for by these; anything else would be another way to decode.
_GREEDY = {"do_sample": False, "temperature": 0, "num_beams": 1, "top_p": 1}
_BOUNDS = ("max_gen_toks", "max_new_tokens")

_MAP_COLUMNS = "map columns instead, as in columns: {audio: speech}"
_NO_EXAMPLES = "a prompt holds no examples"
_TEST_SPLIT = "test_split names the split that is scored"
_PROMPT = "write the whole prompt in doc_to_text"
_UNSUPPORTED = {
    "include": "write its keys out here",
    "group": "the evals file is the group",
    "tag": "use label",
    "dataset_kwargs": "dataset_path, dataset_name and test_split name the data",
    "output_type": "answers are always generated",
    "process_docs": _MAP_COLUMNS,
    "doc_to_audio": _MAP_COLUMNS,
    "doc_to_visual": _MAP_COLUMNS,
    "process_results": "the task judges its answers; another way to judge is a module of tasks/",
    "filter_list": "the task judges its answers; another way to judge is a module of tasks/",
    "num_fewshot": _NO_EXAMPLES,
    "fewshot_split": _NO_EXAMPLES,
    "fewshot_config": _NO_EXAMPLES,
    "training_split": _TEST_SPLIT,
    "validation_split": _TEST_SPLIT,
    "description": _PROMPT,
    "target_delimiter": _PROMPT,
    "lmms_eval_specific_kwargs": _PROMPT,
    "repeats": "greedy decoding answers the same each time",
    "should_decontaminate": "the search and report splits are checked for common recordings",
}


def known_keys(entry: Mapping[str, Any], own: list[str], at: KeyPath, problems: Problems) -> None:
    """Note every key of `entry` that is neither our `own` nor read here; one that lm-eval knows, with what to do."""
    for key, advice in _UNSUPPORTED.items():
        if key in entry:
            problems.add((*at, key), f"this key of lm-eval is not supported: {advice}")
    unknown = {key: value for key, value in entry.items() if key not in _UNSUPPORTED}
    problems.unknown_keys(unknown, [*own, *LM_EVAL_KEYS], at)


def places(entry: Mapping[str, Any], task: Task, at: KeyPath, problems: Problems) -> dict[str, Place]:
    """Our key -> where a row holds it: of `columns`, `language`, `doc_to_target`, `doc_to_choice`, and a `doc_to_text`
    that is a template of columns."""
    found: dict[str, Place] = {}
    columns = problems.take(entry, "columns", at, _are_columns) or {}
    problems.unknown_keys(columns, KEYS, (*at, "columns"))
    for key, place in columns.items():
        found[key] = tuple(place) if isinstance(place, list) else place
    text = entry.get("doc_to_text")
    others: dict[str, tuple[str, Place | None]] = {
        "doc_to_target": (task.TARGET, problems.take(entry, "doc_to_target", at, _is_column)),
        "doc_to_choice": ("choices", _choices(problems.take(entry, "doc_to_choice", at, _are_choices))),
        "language": ("language", _language(problems.take(entry, "language", at, _is_language))),
        "doc_to_text": ("question", text if isinstance(text, str) and is_row_template(text) else None),
    }
    for key, (ours, other) in others.items():
        if other is not None and ours in columns:
            problems.add((*at, key), f"columns maps {ours} too; leave one of them out")
        elif other is not None:
            found[ours] = other
    return found


def prompt(entry: Mapping[str, Any], at: KeyPath, problems: Problems) -> str | None:
    """`doc_to_text` as the task's template: a template of columns is filled in row by row, into the question."""
    text = entry.get("doc_to_text")
    if not isinstance(text, str) or not is_row_template(text):
        template: str | None = problems.take(entry, "doc_to_text", at, checks.is_template)
        return template
    if fault := fault_of(text):
        problems.add((*at, "doc_to_text"), f"{fault}, got {text!r}")
    return "{question}"


def metric(entry: Mapping[str, Any], name: str, at: KeyPath, problems: Problems) -> str | None:
    """The metric of `metric_list`; None where it names none, or the task's usual one."""
    listed = entry.get("metric_list")
    if listed is None:
        return None
    here = (*at, "metric_list")
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
        problems.add(here, f"must be a list of one mapping with the key metric, got {listed!r}; a task has one metric")
        return None
    item, at_item = listed[0], (*here, 0)
    problems.unknown_keys(item, ["metric", "aggregation", "higher_is_better"], at_item)
    known = [task.METRIC for task in TASKS if name == task.NAME]
    if item.get("metric") is None:
        problems.add(at_item, "key metric is missing")
    chosen = problems.take(item, "metric", at_item, checks.one_of(known))
    if chosen is None:
        return None
    task = task_named(name, chosen)
    problems.take(item, "aggregation", at_item, checks.one_of([task.AGGREGATION]))
    higher = task.DIRECTION == "maximize"
    if item.get("higher_is_better", higher) is not higher:
        problems.add((*at_item, "higher_is_better"), f"must be {str(higher).lower()} for {chosen}, or left out")
    return None if task is task_named(name) else str(chosen)


def bound(entry: Mapping[str, Any], at: KeyPath, problems: Problems) -> int | None:
    """`max_new_tokens`, of the task itself or as lm-eval has it in `generation_kwargs`."""
    section = entry.get("generation_kwargs") or {}
    here = (*at, "generation_kwargs")
    if not isinstance(section, dict):
        problems.add(here, f"must be a mapping with max_gen_toks, got {section!r}")
        return None
    for key, value in section.items():
        if key in _GREEDY and value != _GREEDY[key]:
            greedy = str(_GREEDY[key]).lower()
            problems.add((*here, key), f"must be {greedy} or left out, got {value!r}: scoring is greedy")
    if "until" in section:
        problems.add((*here, "until"), "not supported: an answer ends where the model ends it; leave it out")
    problems.unknown_keys(section, [*_BOUNDS, *_GREEDY, "until"], here)
    bounds = [problems.take(section, key, here, checks.is_positive_integer) for key in _BOUNDS if key in section]
    if "max_new_tokens" in entry:
        bounds.append(problems.take(entry, "max_new_tokens", at, checks.is_positive_integer))
    if len(bounds) > 1:
        problems.add(here, "the bound on an answer is given twice; leave one of them out")
    return bounds[0] if bounds else None


def version(entry: Mapping[str, Any], at: KeyPath, problems: Problems) -> str | None:
    """`metadata.version`, which is part of what a study is known by."""
    section = entry.get("metadata") or {}
    if not isinstance(section, dict):
        problems.add((*at, "metadata"), f"must be a mapping with the key version, got {section!r}")
        return None
    problems.unknown_keys(section, ["version"], (*at, "metadata"))
    return None if section.get("version") is None else str(section["version"])


def _is_column(value: Any) -> str | None:
    return fault_of(value) if isinstance(value, str) and value else "must be a column or a template of columns"


def _are_columns(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must map keys to column names"
    for place in value.values():
        for part in place if isinstance(place, list) and place else [place]:
            if fault := _is_column(part):
                return f"must map keys to column names, to lists of them or to templates: {part!r} {fault}"
    return None


def _are_choices(value: Any) -> str | None:
    if isinstance(value, str):
        return _is_column(value)
    fits = isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) and text for text in value)
    return None if fits else 'must be a column, a template or a list of texts (yes and no in quotes: ["yes", "no"])'


def _choices(value: str | list[str] | None) -> Place | None:
    if not isinstance(value, list):
        return value
    return tuple(text if is_row_template(text) else Constant(text) for text in value)


def _is_language(value: Any) -> str | None:
    fits = isinstance(value, str) and is_language_tag(value)
    return None if fits else 'must be the code of a language, such as en or zh (Norwegian in quotes: "no")'


def _language(value: str | None) -> Constant | None:
    return None if value is None else Constant(value)
