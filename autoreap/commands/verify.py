"""autoreap verify: is a checkpoint still what was written and measured?"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument

from autoreap.commands.options import Json, print_result
from autoreap.commands.writing import SkipBehaviour, verified_lines

logger = logging.getLogger(__name__)


def verify(
    checkpoint: Annotated[Path, Argument(help="a directory that materialise, prune or search wrote")],
    skip_behaviour: SkipBehaviour = False,
    json: Json = False,
) -> None:
    """Check a written checkpoint against its record.

    Example:
        autoreap verify qwen3-omni-small
    """
    from autoreap.scores import metrics_as_dict
    from autoreap.writing.verification import Verified, check_content, check_structure, load_record

    # From cheap to dear: a missing file is found before gigabytes are read, and these before a model is loaded.
    record = load_record(checkpoint)
    logger.info("verifying structure")
    opened = check_structure(checkpoint)
    logger.info("verifying content")
    check_content(opened, record)
    behaviour = Verified(None, "--skip-behaviour")
    if not skip_behaviour:
        from autoreap.writing.behaviour import check_carried

        logger.info("verifying behaviour")
        behaviour = check_carried(checkpoint, record)
    levels = replace(record, behaviour=behaviour).levels(opened)
    document = {"path": str(checkpoint), "verified": levels, "metrics": metrics_as_dict(behaviour.metrics)}
    print_result(document, "\n".join([f"{checkpoint} is what was written", *verified_lines(levels)]), as_json=json)
