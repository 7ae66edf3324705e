"""Fixtures: random models of the real class, made once a session."""

from pathlib import Path

import pytest
import torch
from random_models import save_random_model

torch.set_num_threads(1)  # tiny matrices: a second thread only waits


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3-Omni with talker, stored in bf16."""
    return save_random_model(tmp_path_factory.mktemp("random") / "model", dtype=torch.bfloat16)
