"""What may be said of a search beside its space."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from autoreap.study.storage import Pulse
from autoreap.study.trials import DEFAULT_ROOT


@dataclass(frozen=True)
class SearchOptions:
    """What the command line may say beside the space; None leaves it to the space.

    Attributes:
        root: the folder of all studies.
        workers, engine: how many processes search, and what starts them.
        allow_other_code: go on with a study that another version of this package has begun.
        confirm: score the front on the report split at the end.
        is_worker: another process has started this one, and does what comes after the last trial.
        pulse: how the workers know of one another's lives.
    """

    model: str = "tiny"
    study: str | None = None
    trials: int | None = None
    hours: float | None = None
    storage: str | None = None
    seed: int | None = None
    root: Path = DEFAULT_ROOT
    tracking_uri: str | None = None
    device: str | None = None
    dtype: str = "auto"
    workers: int = 1
    engine: str = "local"
    allow_other_code: bool = False
    confirm: bool = True
    is_worker: bool = False
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def is_led(self) -> bool:
        """Whether this process starts workers, and scores nothing itself."""
        return self.workers > 1 or self.engine != "local"

    def of_worker(self) -> str:
        """The same for a worker that this process starts, as JSON."""
        return json.dumps(asdict(replace(self, workers=1, engine="local", is_worker=True)), default=str)

    @classmethod
    def from_json(cls, text: str) -> "SearchOptions":
        """What a worker is handed by the process that starts it."""
        given = json.loads(text)
        return cls(**{**given, "root": Path(given["root"]), "pulse": Pulse(**given["pulse"])})
