"""autoreap verify: is a checkpoint still what was written and measured?"""

import logging
from pathlib import Path

from autoreap.commands.options import Add, Arguments, Result
from autoreap.commands.writing import verified_lines

logger = logging.getLogger(__name__)

SUMMARY = "verify a checkpoint by what it carries"
EXAMPLE = "autoreap verify qwen3-omni-small"


def add_options(add: Add) -> None:
    """What the command takes."""
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="a directory that materialise, prune or search wrote")
    add("--skip-behaviour", action="store_true", help="don't load it to ask again what it answered")


def run(options: Arguments) -> Result:
    """Structure, content and behaviour; the first that fails is the error."""
    from dataclasses import replace

    from autoreap.scores import metrics_as_dict
    from autoreap.writing.verification import Verified, check_content, check_structure, load_record

    record = load_record(options.checkpoint)
    logger.info("verifying structure")
    checkpoint = check_structure(options.checkpoint)
    logger.info("verifying content")
    check_content(checkpoint, record)
    behaviour = Verified(None, "--skip-behaviour")
    if not options.skip_behaviour:
        from autoreap.writing.behaviour import check_carried

        logger.info("verifying behaviour")
        behaviour = check_carried(options.checkpoint, record)
    levels = replace(record, behaviour=behaviour).levels(checkpoint)
    document = {"path": str(options.checkpoint), "verified": levels, "metrics": metrics_as_dict(behaviour.metrics)}
    return document, "\n".join([f"{options.checkpoint} is what was written", *verified_lines(levels)])
