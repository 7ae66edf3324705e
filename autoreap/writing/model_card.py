"""The README.md of a materialised checkpoint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoreap.data.yaml_file import parse_yaml
from autoreap.errors import InputError
from autoreap.models.families import family_of
from autoreap.plan import COMPONENTS, ModelShape, PruningPlan
from autoreap.reading import MAX_JSON_BYTES, read_text
from autoreap.scores import Metrics
from autoreap.writing.rewrite import Rewrite
from autoreap.writing.verification import Record, behaviour_text

_INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class TrialFacts:
    """What a search knows of the trial that is written.

    Attributes:
        trial: the study and the trial's number, `night/7`.
        metrics: its scores on the search split.
        comparisons: what each split says of it against the unpruned model, a line a metric.
    """

    trial: str
    metrics: Metrics
    comparisons: Sequence[str]


def model_card(plan: PruningPlan, rewrite: Rewrite, facts: TrialFacts | None, record: Record, source: Path) -> str:
    """Markdown: the base model and its licence, the edit, the size, what was verified, and the scores with intervals.

    Args:
        facts: of the trial, if it is one.
        source: the base checkpoint, whose own card says the licence.
    """
    base = plan.base_model.name
    layout = family_of(rewrite.config).layout
    inherited = _front_matter(source / "README.md")
    front: dict[str, Any] = {}
    if _is_hub_name(base):  # a path means nothing elsewhere
        front["base_model"] = base
    front |= {"library_name": "transformers", "tags": ["autoreap", "pruned"]}
    for key in _INHERITED:
        if key in inherited:
            front[key] = inherited[key]
    name = public_name(base)
    licence = inherited.get("license_name") or inherited.get("license")
    licence_text = "The base model's licence applies."
    if licence:
        licence_text = f"Licence: {licence}, that of the base model."
    origin = "the base model's bytes"
    unpacking = []
    if plan.bits:
        origin = "what was computed from the base model's"
        unpacking = _how_to_unpack(layout.stock_name)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {name}, pruned by autoreap",
        "",
        f"Made from `{name}` (fingerprint `{plan.base_model.fingerprint}`). {licence_text}",
        f"{rewrite.num_parameters:,} parameters, {rewrite.size_bytes:,} bytes of weights. "
        "The exact edit is in `plan.json`.",
        "",
        *_edit(plan, layout.shape(rewrite.config)),
        "",
        *unpacking,
        "Verified before it got its name: names and shapes against the stock class, the checksum of every tensor "
        f"against {origin}; behaviour: {behaviour_text(record.behaviour)}. "
        "`autoreap verify` on this directory repeats it.",
    ]
    if facts is not None:
        lines += [
            "",
            f"Trial `{facts.trial}`, against the unpruned model (paired over the utterances, 95% intervals):",
            "",
        ]
        lines += [f"- {line}" for line in facts.comparisons]
        lines += ["", "Scores on the search split:", *_scores(facts.metrics)]
    elif record.behaviour.metrics:
        lines += ["", "Scores on the answers that were compared:", *_scores(record.behaviour.metrics)]
    return "\n".join(lines) + "\n"


def public_name(model: str) -> str:
    """The name of MODEL without the folders of this machine: they mean nothing elsewhere, and may tell who runs it."""
    if _is_hub_name(model):
        return model
    return Path(model).resolve().name


def _is_hub_name(model: str) -> bool:
    return _HUB_NAME.fullmatch(model) is not None and not Path(model).is_dir()


def _edit(plan: PruningPlan, made: ModelShape) -> list[str]:
    """A line for each part that the base model has; `made` is the shape of what was made of it."""
    lines = ["| component | experts in each layer | layers |", "|---|---|---|"]
    for name in COMPONENTS:
        if name not in made.components and not plan.drop_speech:
            continue
        edit = plan.component(name)
        shape = "as base | as base"
        if edit:
            shape = f"{edit.num_retained_experts or 'none: it is dense'} | {len(edit.layers)} of {len(edit.experts)}"
        if name == "talker" and plan.drop_speech:
            shape = "dropped | dropped"
        lines.append(f"| {name} | {shape} |")
    if made.has_vision:
        vision = "kept"
        if plan.strip_vision:
            vision = "stripped: images and video are not understood"
        lines.append(f"| vision | {vision} | |")
    if plan.drop_speech:
        lines.append("| waveform decoder | dropped: it answers in text alone | |")
    for treatment in plan.treatments:
        lines.append(f"| what is kept | {treatment} | |")
    if plan.polish:
        lines.append(f"| thinker | routers and norms trained against the base model, {plan.polish.step} steps | |")
    return lines


def _how_to_unpack(stock_name: str) -> list[str]:
    """What a reader must know who loads matrices of few bits."""
    return [
        "Matrices are stored in few bits, as `compressed-tensors` packs them, for engines that read its format. "
        "Transformers unpacks them, with `pip install compressed-tensors`:",
        "",
        "```python",
        f"from transformers import CompressedTensorsConfig, {stock_name}",
        "",
        "unpacked = CompressedTensorsConfig(dequantize=True)",
        f'model = {stock_name}.from_pretrained("path/to/this", dtype="bfloat16", quantization_config=unpacked)',
        "```",
        "",
    ]


def _scores(metrics: Metrics) -> list[str]:
    lines = ["", "| metric | value | 95% interval | utterances |", "|---|---|---|---|"]
    for name, score in metrics.items():
        if not score.is_static:
            interval = f"{score.low:.4f} to {score.high:.4f}"
            lines.append(f"| {name} | {score.value:.4f} | {interval} | {score.num_samples} |")
    return lines


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML block at the head of a model card; empty where there is none."""
    try:
        match = re.match(r"---\n(.*?)\n---\n", read_text(card, "a model card", MAX_JSON_BYTES), re.DOTALL)
        if match is None:
            return {}
        return dict(parse_yaml(match[1], card).document)
    except InputError:
        return {}
