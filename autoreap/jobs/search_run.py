"""What one run of a search is given, and what it leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from autoreap.config.evals import EvalsConfig
from autoreap.config.space import SpaceConfig
from autoreap.described import Described
from autoreap.jobs.shipping import Shipped
from autoreap.study.group import Seat
from autoreap.study.options import SearchOptions
from autoreap.study.trials import Point, trials_folder
from autoreap.terminal.signals import Signals


@dataclass(frozen=True)
class SearchRun:
    """One process at one study.

    Attributes:
        options: the study's name and storage are known by now.
        seat: its place at the study.
        signals: asked whether to end.
    """

    space: SpaceConfig
    evals: EvalsConfig
    described: Described
    options: SearchOptions
    seat: Seat
    signals: Signals

    @property
    def folder(self) -> Path:
        """Where the files of the study's trials are."""
        return trials_folder(self.seat.study, self.options.root)


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves behind: the study, its pictures, and the checkpoint if the space asked for one.

    Attributes:
        is_last: without it another worker makes pictures and checkpoint, or has made them.
    """

    study: optuna.Study
    front: Sequence[Point]
    picture: Path | None
    report: Path | None
    shipped: Shipped | None
    is_last: bool = True
