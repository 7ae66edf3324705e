"""autoreap doctor: what works on this machine, and what is broken."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from autoreap.commands.options import Json, model_names, print_result
from autoreap.errors import InputError, UnhealthyError

if TYPE_CHECKING:
    from autoreap.commands.needs import Need

_MODEL = "a directory, tiny, or a hub name (default: the published 30B)"


def doctor(
    model: Annotated[str | None, Argument(metavar="MODEL", help=_MODEL, autocompletion=model_names)] = None,
    json: Json = False,
) -> None:
    """Say what works on this machine, and what is broken.

    Example:
        autoreap doctor Qwen/Qwen3-Omni-30B-A3B-Instruct
    """
    import autoreap
    from autoreap.commands.doctor_checks import BROKEN, abilities, as_dict, as_text, examine
    from autoreap.commands.machine import look, requirements
    from autoreap.commands.needs import PUBLISHED_NEED

    place = None if model is None else _place(model)
    machine = look(Path("mlruns"))
    findings = examine(machine, requirements(), Path(autoreap.__file__).parent.parent / "constraints.txt")
    broken = [finding for finding in findings if finding.state == BROKEN]
    # A broken library can't open a checkpoint; the published model's need is known without.
    need = PUBLISHED_NEED if model is None or place is None or broken else _need(model, place)
    able = abilities(machine, need, findings)
    print_result(as_dict(findings, able, need), as_text(findings, able, need), as_json=json)
    if broken:
        raise UnhealthyError("; ".join(f"{each.subject}: {each.text} ({each.fix})" for each in broken))


def _place(model: str) -> str | None:
    """Where a model lies on this machine, None for the published one that is not here; no other is fetched."""
    if model == "tiny" or Path(model).exists() or model.count("/") != 1:
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from autoreap.commands.needs import PUBLISHED

    try:
        return str(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        if model == PUBLISHED:
            return None
        fix = "give its directory, or no MODEL for the published 30B"
        raise InputError("not on this machine, and doctor fetches nothing", where=model, fix=fix) from None


def _need(model: str, place: str) -> "Need":
    from dataclasses import replace

    from autoreap.commands.needs import need_of
    from autoreap.models.loading import describe

    return replace(need_of(describe(place)), model=model)
