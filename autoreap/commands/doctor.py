"""autoreap doctor: what works on this machine, and what is broken."""

from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from autoreap.commands.options import Json, model_names, print_result
from autoreap.errors import InputError, UnhealthyError

_MODEL = "a directory, tiny, or a hub name (default: the published 30B)"


def doctor(
    model: Annotated[str | None, Argument(metavar="MODEL", help=_MODEL, autocompletion=model_names)] = None,
    network: Annotated[bool, Option("--network", help="ask whether the hub can be reached")] = False,
    json: Json = False,
) -> None:
    """Say what works on this machine, and what is broken.

    Example:
        autoreap doctor Qwen/Qwen3-Omni-30B-A3B-Instruct
    """
    import autoreap
    from autoreap.commands.machine import BROKEN, abilities, examine, look
    from autoreap.commands.needs import PUBLISHED_NEED

    place = None if model is None else _place(model)
    machine = look(ask_network=network)
    try:
        requirements = metadata.requires("autoreap") or []
    except metadata.PackageNotFoundError:  # it runs without being installed
        requirements = []
    findings = examine(machine, requirements, Path(autoreap.__file__).parent.parent / "constraints.txt")
    broken = [finding for finding in findings if finding.state == BROKEN]
    need = PUBLISHED_NEED
    if model is not None and place is not None and not broken:  # a broken library can't open a checkpoint
        from autoreap.commands.needs import need_of
        from autoreap.models.loading import open_model

        need = replace(need_of(open_model(place)), model=model)
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
    for each in findings:
        fix = f" ({each.fix})" if each.fix else ""
        lines.append(f"{each.state:<7} {each.subject}: {each.text}{fix}")
    lines += ["", f"{need.model}: {need.arithmetic()}"]
    for ability in able:
        works = "yes" if ability.works else "no"
        lines.append(f"{works:<7} {ability.command}: {ability.text}")
    print_result(document, "\n".join(lines), as_json=json)
    # After the findings are printed: a script learns from the exit code, a person from what stands above it.
    if broken:
        raise UnhealthyError("; ".join(f"{each.subject}: {each.text} ({each.fix})" for each in broken))


def _place(model: str) -> str | None:
    """Where a model lies on this machine, None for the published one that is not here; no other is fetched."""
    if Path(model).exists() or model.count("/") != 1:
        return model
    from autoreap.commands.needs import PUBLISHED
    from autoreap.models.checkpoint import model_on_disk

    # Nothing is fetched: 70 GB would come before the answer whether they fit.
    place = model_on_disk(model)
    if place is None and model != PUBLISHED:
        fix = "give its directory, or no MODEL for the published 30B"
        raise InputError("not on this machine, and doctor fetches nothing", where=model, fix=fix)
    return place
