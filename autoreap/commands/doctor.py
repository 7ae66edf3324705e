"""autoreap doctor: what works on this machine, and what is broken."""

from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from autoreap.commands.options import Json, model_names, print_result
from autoreap.errors import InputError, UnhealthyError

_MODEL = "a directory, tiny, or a hub name (default: the published 30B)"


def doctor(
    model: Annotated[str | None, Argument(metavar="MODEL", help=_MODEL, autocompletion=model_names)] = None,
    network: Annotated[bool, Option("--network", help="check whether the hub can be reached")] = False,
    json: Json = False,
) -> None:
    """Say what works on this machine, and what is broken.

    Example:
        autoreap doctor Qwen/Qwen3-Omni-30B-A3B-Instruct
    """
    import autoreap
    from autoreap.commands.machine import BROKEN, abilities, examine, look
    from autoreap.commands.needs import PUBLISHED_NEED

    is_here = model is not None and _is_here(model)
    machine = look(ask_network=network)
    try:
        requirements = metadata.requires("autoreap") or []
    except metadata.PackageNotFoundError:  # it runs without being installed
        requirements = []
    findings = examine(machine, requirements, Path(autoreap.__file__).parent.parent / "constraints.txt")
    broken = [finding for finding in findings if finding.state == BROKEN]
    need = PUBLISHED_NEED
    if model is not None and is_here and not broken:  # a broken library can't open a checkpoint
        from autoreap.commands.needs import need_of
        from autoreap.models.loading import open_model

        need = need_of(open_model(model, download=False))
    able = abilities(machine, need, findings)
    document = {
        "healthy": not broken,
        "findings": [asdict(finding) for finding in findings],
        "model": need.model,
        "needs": {
            "loaded_bytes": need.memory(on_cpu=False),
            "loaded_cpu_bytes": need.memory(on_cpu=True),
            "streamed_bytes": need.memory(on_cpu=False, streamed=True),
            "arithmetic": need.arithmetic(),
        },
        "abilities": [asdict(ability) for ability in able],
    }
    lines = []
    for finding in findings:
        line = f"{finding.state:<7} {finding.subject}: {finding.text}"
        if finding.fix:
            line += f" ({finding.fix})"
        lines.append(line)
    lines += ["", f"{need.model}: {need.arithmetic()}"]
    for ability in able:
        works = "yes" if ability.works else "no"
        lines.append(f"{works:<7} {ability.command}: {ability.text}")
    print_result(document, "\n".join(lines), as_json=json)
    # After the findings are printed: a script learns from the exit code, a person from what stands above it.
    if broken:
        raise UnhealthyError("; ".join(f"{finding.subject}: {finding.text} ({finding.fix})" for finding in broken))


def _is_here(model: str) -> bool:
    """Whether a model is on this machine; `InputError` where another than the published one is not."""
    from autoreap.commands.needs import PUBLISHED
    from autoreap.models.checkpoint import is_hub_name, resolve_model

    # Nothing is fetched: 70 GB would come before the answer whether they fit.
    try:
        resolve_model(model, download=False)
    except InputError:
        if model == PUBLISHED:  # what it needs is known without it
            return False
        if not is_hub_name(model):
            raise
        fix = "give its directory, or no MODEL for the published 30B"
        raise InputError("not on this machine, and doctor fetches nothing", where=model, fix=fix) from None
    return True
