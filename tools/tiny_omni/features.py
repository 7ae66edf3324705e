"""Log-mel features, split in two: the part worth caching, and the part that training varies.

``WhisperFeatureExtractor`` computes log10 of the mel power, lifts everything to within 8 of the utterance's maximum,
and maps x to (x + 4) / 4. ``log_mel`` stops before the lift, so noise can still be added to the power; ``normalise`` is
the rest. Together they give the extractor's output for an utterance on its own.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor

from tools.tiny_omni.speech import FRAME, SAMPLE_RATE, Waveform

NUM_MEL_BINS = 128
_FFT = 400


@cache
def feature_extractor() -> WhisperFeatureExtractor:
    """Return the extractor that ships with the checkpoint, with the settings of Qwen3-Omni."""
    return WhisperFeatureExtractor(
        feature_size=NUM_MEL_BINS,
        sampling_rate=SAMPLE_RATE,
        hop_length=FRAME,
        n_fft=_FFT,
        chunk_length=300,
        padding_value=0.0,
        dither=0.0,
        return_attention_mask=True,
    )


def log_mel(samples: Waveform) -> NDArray[np.float16]:
    """Return log10 mel power of ``samples`` [frames * 160] as [frames, 128], without Whisper's lift and scale."""
    window = torch.hann_window(_FFT)
    spectrum = torch.stft(torch.from_numpy(samples), _FFT, FRAME, window=window, return_complex=True)
    filters = torch.from_numpy(feature_extractor().mel_filters).float()
    power = filters.T @ (spectrum[:, :-1].abs() ** 2)
    return np.asarray(power.clamp(min=1e-10).log10().T.numpy(), dtype=np.float16)


def normalise(log_power: Tensor) -> Tensor:
    """Apply Whisper's lift and scale to log10 mel power [frames, 128] of one utterance."""
    return (torch.maximum(log_power, log_power.max() - 8.0) + 4.0) / 4.0
