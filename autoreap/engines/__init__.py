"""Where the workers of a search run. To add an engine, write its file beside these and list it here.

Each file has `run`, and the file's name is what `--engine` takes. `worker` holds what they share.
"""

from collections.abc import Sequence
from typing import Protocol, cast

from autoreap.engines import local, ray
from autoreap.engines.worker import Worker


class Engine(Protocol):
    """What a module in this folder provides."""

    def run(self, workers: Sequence[Worker]) -> list[int]:
        """Run all workers to their end; their exit codes. One that is killed is started again a few times."""
        ...


ENGINES = {"local": cast(Engine, local), "ray": cast(Engine, ray)}
