"""Recordings to features, each alone: what an utterance looks like must not depend on its neighbours."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from autoreap.data.samples import SAMPLING_RATE
from autoreap.errors import MediaError


@dataclass(frozen=True)
class AudioFeatures:
    """The feature extractor of one checkpoint.

    Attributes:
        extractor: transformers' own.
        num_tokens: how many tokens so many frames of a recording become.
        pads: every recording is padded with silence to the extractor's longest, and none may be longer.
    """

    extractor: WhisperFeatureExtractor
    num_tokens: Callable[[int], int]
    pads: bool

    def features(self, waveform: NDArray[np.float32], where: str) -> tuple[torch.Tensor, int]:
        """[mel_bins, frames], and how many of the frames are the recording; `MediaError` if it is too long."""
        longest = self.extractor.n_samples
        if self.pads and len(waveform) > longest:
            seconds, most = len(waveform) / SAMPLING_RATE, longest / SAMPLING_RATE
            problem = f"recording of {seconds:.1f} s is longer than the {most:g} s that this model takes"
            raise MediaError(problem, where=where, fix="cut it into pieces")
        extracted = self.extractor(
            waveform,
            sampling_rate=SAMPLING_RATE,
            padding="max_length" if self.pads else True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        num_frames = int(extracted["attention_mask"][0].sum())
        mel: torch.Tensor = extracted["input_features"][0]
        if not self.pads:
            mel = mel[:, :num_frames]
        return mel, num_frames
