"""What a user should hear of before a night is spent on it.

A baseline that hears nothing, data that measure and judge, memory that is too small for candidates of few bits.
"""

import logging
from collections.abc import Iterable, Mapping

from autoreap.data.eval_set import EvalSet, EvalTask
from autoreap.data.samples import Sample, contents
from autoreap.data.tasks.answers import yes_or_no
from autoreap.errors import shown
from autoreap.evaluation.comparison import Outcomes
from autoreap.formatting import metric_text, size_text
from autoreap.models.loading import ModelInfo, free_memory
from autoreap.scores import Metric
from autoreap.search.parameters import highest, lowest
from autoreap.search.space import SpaceConfig
from autoreap.writing.sizes import component_sizes

logger = logging.getLogger(__name__)

_HOPELESS_ERROR = 0.5  # words or characters wrong, from which on no pruned model is worth a search
_NUM_SHOWN = 3


def warn_if_hopeless(answers: Outcomes, metrics: Mapping[str, Metric], evals: EvalSet) -> None:
    """Warn of each task in which the unpruned model is hardly better than chance, and show some of its answers."""
    for task in evals.tasks:
        metric = metrics.get(task.metric)
        if metric is None:
            continue
        if task.task.DIRECTION == "minimize":
            is_hopeless = metric.value > _HOPELESS_ERROR
            limit = f"more than {_HOPELESS_ERROR:.0%}"
        else:
            chance = chance_of(task)
            is_hopeless = metric.value <= chance
            limit = f"no better than chance, {chance:.0%}"
        if not is_hopeless:
            continue
        logger.warning(
            "the unpruned model has %s %s, %s: is the prompt right (doc_to_text in %s)? Some of its answers:",
            task.metric,
            metric_text(task.metric, metric),
            limit,
            evals.path,
        )
        for outcome in answers[task.metric][:_NUM_SHOWN]:
            logger.warning("  %s: %s, reference %s", outcome.id, shown(outcome.output), shown(outcome.reference))


def chance_of(task: EvalTask) -> float:
    """The accuracy of guessing: one of the choices, or yes or no; nothing is guessed of a question without either."""
    total = 0.0
    for sample in task.samples:
        if sample.choices:
            total += 1 / len(sample.choices)
        elif yes_or_no(sample.answer or "") is not None:
            total += 0.5
    return total / len(task.samples)


def warn_of_shared_rows(calibration: Mapping[str, Iterable[Sample]], report: EvalSet) -> None:
    """Warn if a row of the report split is among the calibration rows: experts were chosen by what judges them."""
    judged: dict[str, Sample] = {}
    for task in report.tasks:
        for sample in task.samples:
            # By content, not by name: one recording may lie in two files, or under two ids.
            judged |= dict.fromkeys(contents(sample), sample)
    num_shared, example = 0, None
    for samples in calibration.values():
        for sample in samples:
            shared = [judged[content] for content in contents(sample) if content in judged]
            if shared:
                num_shared += 1
                example = example or (sample.where, shared[0].where)
    if example is not None:
        logger.warning(
            "%d calibration rows are in the report split too, such as %s at %s: its scores will be too good",
            num_shared,
            *example,
        )


def warn_if_weights_have_no_room(space: SpaceConfig, model_info: ModelInfo) -> None:
    """Warn if the host's memory may be too small for the weights that wait there while a quantised candidate is scored.

    These are the thinker's experts that are kept, as they are stored.
    """
    if lowest(space.spec("bits")) == 16:
        return
    share = highest(space.spec("retention"))
    if "experts" in space.parameters:
        share = highest(space.parameters["experts"]) / model_info.shape.components["thinker"].num_experts
    sizes = component_sizes(model_info.checkpoint.tensors.values(), model_info.family.layout)
    # There are experts: `check_space` refuses their bits where the thinker has none.
    needed, free = share * sizes["thinker experts"].num_bytes, free_memory()
    if needed > free:
        logger.warning(
            "scoring a quantised candidate keeps up to %s of original weights in host memory, but %s are free: "
            "keep fewer experts, or search a packed model (--base-bits)",
            size_text(needed),
            size_text(free),
        )
