"""The rooms of the package, in the order in which they may import one another."""

from pathlib import Path

import autoreap

PACKAGE = Path(autoreap.__file__).parent
ROOMS = (  # by the way that data flow: a room imports those before it
    ("errors", "files", "formatting", "progress", "reading", "validation", "scores"),
    ("data",),
    ("candidate", "saliency", "plan", "planning"),
    ("models",),
    ("dimensions",),
    ("masking",),
    ("calibration",),
    ("healing",),
    ("evaluation",),
    ("writing",),
    ("search",),
    ("report",),
    ("jobs",),
    ("commands", "cli"),
)
