"""Fixtures: models, random ones of the real class and the embedded one, and the hub out of reach."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# What is slow to import is so in the fixtures: of several processes, the one that hands out tests needs none of it.
if TYPE_CHECKING:
    from specimen import Specimen

    from autoreap.models.loading import Loaded
    from autoreap.plan import PruningPlan


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first: with several processes, none of them is left for the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: ("e2e" not in item.path.parts, item.path not in slow))


def pytest_collection_finish() -> None:
    """What was imported stays to the end; a collection of garbage that walks over all of it takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _log() -> None:
    """What is logged goes to stderr, as from the command line."""
    from autoreap.progress import log_to_stderr

    log_to_stderr()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The matrices are tiny: a second thread only waits."""
    import torch

    torch.set_num_threads(1)


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
    from random_models import QWEN3_OMNI

    return saved(QWEN3_OMNI)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """The embedded model in float32, without speech."""
    from autoreap.models.loading import load, open_model

    return load(open_model("tiny"))


@pytest.fixture(scope="module")
def plan(loaded: Loaded) -> PruningPlan:
    """Half of the experts of the embedded model, drawn at random, and a layer less."""
    from builders import random_component

    from autoreap.plan import PruningPlan

    shape = loaded.model_info.shape.components["thinker"]
    layers = tuple(layer for layer in range(shape.num_layers) if layer != shape.num_layers - 2)
    thinker = random_component(shape, num_experts=shape.num_experts // 2, layers=layers)
    return PruningPlan(loaded.model_info.base_model, False, thinker)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The libraries read these settings once, when they are imported; so set what they read them into, too."""
    import datasets
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
