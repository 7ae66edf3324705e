"""autoreap search: start or resume a study."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from autoreap.commands.options import Device, Dtype, Json, Storage, TrackingUri, model_names, print_result
from autoreap.errors import AutoreapError, DeviceLostError

logger = logging.getLogger(__name__)

_RESTARTS = "AUTOREAP_RESTARTS"  # how many processes of this search have lost their device
_MAX_RESTARTS = 10
_FEW_HOURS = 1e-6  # what comes after the deadline is still to be done
_MODEL = "a directory, a hub name, or tiny (default: the space's)"
_HOURS = "time limit in hours (default: the space's, or never)"
_WORKERS = "number of Ray actors that score, one GPU each; 1 scores in this process; RAY_ADDRESS names a cluster"
_BASE_BITS = "search the model with its experts at 8 or 4 bits, kept packed if they do not fit unpacked"
_ALLOW_OTHER_CODE = "resume a study of another version"


def _above_zero(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise BadParameter(f"must be a number above 0, got {value}")
    return value


def _few_bits(value: int | None) -> int | None:
    if value not in (None, 8, 4):
        raise BadParameter(f"must be 8 or 4, got {value}")
    return value


def search(
    space: Annotated[Path, Argument(metavar="SPACE", help="a file of search_spaces/")],
    model: Annotated[str | None, Option(metavar="MODEL", help=_MODEL, autocompletion=model_names)] = None,
    study: Annotated[
        str | None, Option(metavar="NAME", help="name (default: SPACE-MODEL); the same name resumes it")
    ] = None,
    trials: Annotated[
        int | None, Option(metavar="N", min=1, help="plans to score in all (default: the space's)")
    ] = None,
    hours: Annotated[float | None, Option(metavar="NUMBER", callback=_above_zero, help=_HOURS)] = None,
    storage: Storage = None,
    seed: Annotated[int | None, Option(metavar="N", min=0, help="seed of the sampler (default: the space's)")] = None,
    base_bits: Annotated[int | None, Option(metavar="8|4", callback=_few_bits, help=_BASE_BITS)] = None,
    workers: Annotated[int, Option(metavar="N", min=1, help=_WORKERS)] = 1,
    allow_other_code: Annotated[bool, Option("--allow-other-code", help=_ALLOW_OTHER_CODE)] = False,
    no_confirm: Annotated[bool, Option("--no-confirm", help="do not score the front on the report split")] = False,
    tracking_uri: TrackingUri = None,
    device: Device = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Start or resume a study.

    Example:
        autoreap search search_spaces/tiny.yaml
    """
    from autoreap import jobs
    from autoreap.report.search_text import search_text
    from autoreap.search.search_options import SearchOptions
    from autoreap.search.space import load_space

    options = SearchOptions(
        model=model,
        study=study,
        trials=trials,
        hours=hours,
        storage=storage,
        seed=seed,
        tracking_uri=tracking_uri,
        device=device,
        dtype=dtype,
        base_bits=base_bits,
        workers=workers,
        allow_other_code=allow_other_code,
        confirm=not no_confirm,
    )
    started = time.monotonic()
    try:
        result = jobs.search(space, options)
    except DeviceLostError as error:
        _go_on_in_new_process(error, (time.monotonic() - started) / 3600, hours or load_space(space).hours)
        raise
    print_result(result.as_dict(), search_text(result), as_json=json)
    # After the front is printed: what was found is not lost with what could not be made.
    if result.missing:
        missing = "; ".join(result.missing)
        raise AutoreapError(f"missing: {missing} (the same command makes it, and scores nothing again)")


def _go_on_in_new_process(error: DeviceLostError, hours_spent: float, hours: float | None) -> None:
    """Run this command again in the place of this process, which can use its device no more: it resumes the search.

    Comes back where that has been done too often.
    """
    # In the environment, since nothing else of this process lives on in the next one.
    num_restarts = int(os.environ.get(_RESTARTS, "0")) + 1
    if num_restarts > _MAX_RESTARTS:
        return
    # As it was started, with -m and such; an option that is there twice counts as the last one says.
    command = [sys.executable, *sys.orig_argv[1:]]
    if hours is not None:
        command += ["--hours", str(max(hours - hours_spent, _FEW_HOURS))]
    logger.warning("%s; a new process resumes (%d of %d)", error, num_restarts, _MAX_RESTARTS)
    sys.stdout.flush()  # `execve` replaces this process with all that it has not written
    sys.stderr.flush()
    os.execve(sys.executable, command, os.environ | {_RESTARTS: str(num_restarts)})
