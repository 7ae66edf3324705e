"""The README.md of a materialised checkpoint."""

from collections.abc import Mapping
from typing import Any

from autoreap.plan import COMPONENTS, PruningPlan


def model_card(plan: PruningPlan, num_parameters: int, size_bytes: int, facts: Mapping[str, Any]) -> str:
    """Markdown with the base model, the edit, the size, and under `facts["metrics"]` the scores with intervals."""
    base = plan.base_model
    lines = [
        "---",
        f"base_model: {base.name}",
        "library_name: transformers",
        "tags: [autoreap, pruned]",
        "---",
        "",
        f"# {base.name}, pruned by autoreap",
        "",
        f"Made from `{base.name}` (fingerprint `{base.fingerprint}`); the base model's licence applies.",
        f"{num_parameters:,} parameters, {size_bytes:,} bytes of weights. The exact edit is in `plan.json`.",
        "",
        "| component | experts in each layer | layers |",
        "|---|---|---|",
    ]
    for name in COMPONENTS:
        edit = plan.component(name)
        shape = (
            f"{edit.num_retained_experts} | {len(edit.layers)} of {len(edit.experts)}" if edit else "as base | as base"
        )
        lines.append(f"| {name} | {shape} |")
    lines.append(f"| vision | {'stripped: images and video are not understood' if plan.strip_vision else 'kept'} | |")
    if metrics := facts.get("metrics"):
        lines += ["", "| metric | value | 95% interval | utterances |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {score['value']:.4f} | {score['low']:.4f} to {score['high']:.4f} | {score['num_samples']} |"
            for name, score in metrics.items()
        ]
    if trial := facts.get("trial"):
        lines += ["", f"Trial `{trial}`."]
    return "\n".join(lines) + "\n"
