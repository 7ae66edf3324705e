"""Fixtures: random models of the real class, made once a session."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_models import QWEN3_OMNI
from specimen import Specimen

torch.set_num_threads(1)  # tiny matrices: a second thread only waits


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Specimen], Path]:
    """The checkpoint of a specimen."""
    paths: dict[int, Path] = {}

    def path_of(specimen: Specimen) -> Path:
        if id(specimen) not in paths:
            paths[id(specimen)] = specimen.save(tmp_path_factory.mktemp("random") / "model")
        return paths[id(specimen)]

    return path_of


@pytest.fixture(scope="session")
def random_checkpoint(saved: Callable[[Specimen], Path]) -> Path:
    """A random Qwen3-Omni with talker, stored in bf16."""
    return saved(QWEN3_OMNI)
