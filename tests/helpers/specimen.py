"""A random model of a family, small enough to test everything on, and what a test must know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoreap.plan import ModelShape


def nothing_aloud(_model: Any) -> dict[str, torch.Tensor]:
    """What a model says that can't speak."""
    return {}


@dataclass(frozen=True)
class Specimen:
    """A model of the real class, a few units wide, at least four layers deep, with a vocabulary of 512 or more.

    Attributes:
        save: has the stock class write it into a folder, in bf16, with weights so large that no layer is negligible,
            and returns the folder.
        stock: the class of transformers that loads it.
        shape: what a plan must know of it.
        parts: those that its tensors belong to.
        mel_bins: of the audio features that it hears.
        padded_frames: how many frames every recording is padded to; None where it is not.
        image: an image, as the stock `get_image_features` takes it; None where it can't see.
        aloud: what it says, as tensors that a changed layer or expert of its talker would change.
    """

    save: Callable[[Path], Path]
    stock: Any
    shape: ModelShape
    parts: frozenset[str]
    mel_bins: int = 128
    padded_frames: int | None = None
    image: Mapping[str, torch.Tensor] | None = None
    aloud: Callable[[Any], dict[str, torch.Tensor]] = nothing_aloud


def enlarge_weights(model: torch.nn.Module, *, but: str | None = None) -> None:
    """Draw the matrices of `model` anew, so large that none is negligible, but those whose name holds `but`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and (but is None or but not in name):
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)


def save_random(stock: Any, config: Any, path: Path) -> Path:
    """A checkpoint of the class `stock` with large random weights, in bf16."""
    torch.manual_seed(0)
    model = stock(config)
    enlarge_weights(model)
    model.to(torch.bfloat16).save_pretrained(path)
    return path
