"""What may be said of a search beside its space."""

from dataclasses import dataclass
from pathlib import Path

from autoreap.search.storage import DEFAULT_ROOT


@dataclass(frozen=True)
class SearchOptions:
    """What the command line may say beside the space; None leaves it to the space.

    Attributes:
        root: the folder of all studies.
        workers: how many Ray actors score candidates; 1 scores in this process.
        base_bits: search the model with its experts at so many bits; see `search.packed_base`.
        allow_other_code: resume a study that another version of this package has begun.
        confirm: score the front on the report split at the end.
    """

    model: str | None = None
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
    base_bits: int | None = None
    allow_other_code: bool = False
    confirm: bool = True
