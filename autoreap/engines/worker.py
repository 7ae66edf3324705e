"""What every engine runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_RESTARTS = 3  # of a worker that was killed; one that gives up by itself would give up again


@dataclass(frozen=True)
class Worker:
    """One process of a search: what `autoreap` is called with, and what is set for it in the environment."""

    number: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
