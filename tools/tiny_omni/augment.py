"""Random changes to cached log10 mel power, so that few voices and clean speech stand for many and noisy ones."""

import numpy as np
import torch
from torch import Tensor

from tools.tiny_omni.features import NUM_MEL_BINS, feature_extractor, log_mel, normalise
from tools.tiny_omni.speech import SAMPLE_RATE, add_noise


class Augmenter:
    """Changes one utterance at a time: loudness and tone, vocal tract, tempo, noise, and masked bands and moments.

    ``strength`` scales how far tone, vocal tract and tempo may be changed.
    """

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self.rng = rng
        self.strength = strength
        silence = np.full(20 * SAMPLE_RATE, 1e-3, dtype=np.float32)
        noises = [add_noise(silence, -60.0, colour, np.random.default_rng(5)) for colour in ("white", "pink")]
        self.noises = [10 ** torch.from_numpy(log_mel(noise).astype(np.float32)) for noise in noises]
        filters = torch.from_numpy(feature_extractor().mel_filters).float()
        self.bandwidth = filters.sum(0) / filters.max(0).values ** 2

    def __call__(self, log_power: Tensor) -> Tensor:
        """Return normalised features for log10 mel power [F, 128]; the number of frames may change."""
        changed = self._tone(self._warp(log_power))
        if self.rng.random() < 0.45:
            changed = self._noise(changed)
        return self._mask(normalise(changed.clamp(min=-10.0)))

    def _warp(self, log_power: Tensor) -> Tensor:
        """Stretch time (tempo) and frequency (vocal tract length), at strength 1 by up to about a tenth each."""
        if self.rng.random() < 0.4:
            return log_power
        tempo, tract = np.exp(self.rng.uniform(-0.1, 0.1, size=2) * self.strength)
        frames = _interpolate(log_power, round(len(log_power) / tempo), tempo)
        return _interpolate(frames.T, NUM_MEL_BINS, tract).T

    def _tone(self, log_power: Tensor) -> Tensor:
        position = torch.linspace(-1, 1, NUM_MEL_BINS)
        gain, tilt, bend = (float(value) for value in self.rng.normal(0, (0.3, 0.25, 0.2)) * self.strength)
        return (
            log_power + gain + tilt * position + bend * torch.cos(3.1416 * position * float(self.rng.uniform(0.5, 2)))
        )

    def _noise(self, log_power: Tensor) -> Tensor:
        """Add white or pink noise at 6 to 30 dB below the utterance."""
        bank = self.noises[int(self.rng.integers(2))]
        start = int(self.rng.integers(len(bank) - len(log_power)))
        noise = bank[start : start + len(log_power)]
        power = 10**log_power
        ratio = (power * self.bandwidth).sum() / (noise * self.bandwidth).sum()
        return (power + noise * ratio / 10 ** (float(self.rng.uniform(6, 30)) / 10)).log10()

    def _mask(self, features: Tensor) -> Tensor:
        features = features.clone()
        if self.rng.random() < 0.5:
            start = int(self.rng.integers(len(features)))
            features[start : start + int(self.rng.integers(1, 9))] = features.min()
        if self.rng.random() < 0.5:
            start = int(self.rng.integers(NUM_MEL_BINS))
            features[:, start : start + int(self.rng.integers(1, 13))] = features.min()
        return features


def _interpolate(rows: Tensor, count: int, step: float) -> Tensor:
    """Return ``count`` rows read from ``rows`` [n, d] at multiples of ``step``, linearly interpolated."""
    where = (torch.arange(count) * step).clamp(max=len(rows) - 1)
    low = where.floor().long()
    high = (low + 1).clamp(max=len(rows) - 1)
    return torch.lerp(rows[low], rows[high], (where - low)[:, None])
