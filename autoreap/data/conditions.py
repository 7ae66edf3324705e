"""What stands between a speaker and the microphone: noise, a room, a telephone, haste. NumPy and SciPy.

A condition makes a harder task of a clean recording, the same one each time: an utterance's noise and room are drawn
from its id, so every candidate hears them alike.

Shape legend: N samples of a waveform.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, StrictInt, StrictStr, TypeAdapter, ValidationInfo
from pydantic.dataclasses import dataclass

from autoreap.data.audio_files import waveform_of
from autoreap.reading import is_file
from autoreap.validation import NO_OTHER_KEYS, Number, Section, error_of, one_of, validate

NOISES = ("white", "pink", "brown")
BANDS = ("telephone",)
_TELEPHONE_HZ = (300, 3400)  # the voice band of ITU-T G.712
_FILTER_ORDER = 4
# Amplitude falls with frequency ** -slope.
_NOISE_SLOPES = {"white": 0.0, "pink": 0.5, "brown": 1.0}
_LEAST_RMS = 1e-9  # an RMS to divide by where there is no sound

Waveform = NDArray[np.float32]


def _locate_noise(noise: str, info: ValidationInfo) -> str:
    """A colour of noise, or the path of a recording, relative to the file that names it."""
    if noise in NOISES:
        return noise
    path = (info.context or Path()) / noise
    if not is_file(path):
        raise error_of([((), f"must be {', '.join(NOISES)} or a recording, got {str(path)!r}")])
    return str(path)


@dataclass(frozen=True, config=NO_OTHER_KEYS)
class Condition(Section):
    """How a recording is changed before it is heard, in this order: speed, room, noise, band.

    Attributes:
        speed: played so many times as fast, pitch and all (speed perturbation; Ko et al., 2015).
        room_seconds: reverberation time RT60 of a room: exponentially decaying noise after the direct sound (Polack's
            model); 0 is no room.
        noise: `white`, `pink`, `brown` (the rumble of a car), or a recording, of which a piece is taken.
        snr_db: power of the speech over that of the noise; None adds none.
        band: `telephone` leaves 300 to 3400 Hz; None leaves all.
        seed: another draw of noise and room.
    """

    speed: Annotated[Number, Field(ge=0.5, le=2)] = 1.0
    room_seconds: Annotated[Number, Field(ge=0, le=5)] = 0.0
    noise: Annotated[StrictStr, AfterValidator(_locate_noise)] = "brown"
    snr_db: Annotated[Number, Field(ge=-30, le=100)] | None = None
    band: Annotated[StrictStr, one_of(BANDS)] | None = None
    seed: StrictInt = 0

    def identity(self) -> str:
        """What it does, wherever a recording of noise lies: its contents stand for its path."""
        noise = self.noise
        if noise not in NOISES:
            with Path(noise).open("rb") as file:
                noise = hashlib.file_digest(file, "sha256").hexdigest()
        values = (self.speed, self.room_seconds, noise, self.snr_db, self.band, self.seed)
        return repr(values)

    def applied(self, waveform: Waveform, sampling_rate: int, name: str) -> Waveform:
        """`waveform` [N] as it is heard; `name` is the utterance's, from which noise and room are drawn."""
        drawn = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        # The room is drawn before the noise: in another order, every utterance would be heard otherwise.
        rng = np.random.default_rng(int.from_bytes(drawn[:8], "little"))
        if self.speed != 1:
            import librosa

            # As if it had been recorded at another rate: played back, it is faster and higher.
            recorded_at = round(sampling_rate * self.speed)
            waveform = np.asarray(librosa.resample(waveform, orig_sr=recorded_at, target_sr=sampling_rate))
        if self.room_seconds:
            waveform = _in_room(waveform, sampling_rate, self.room_seconds, rng)
        if self.snr_db is not None:
            noise = self._noise(len(waveform), sampling_rate, rng)
            # Decibels are of power, the square of the amplitude: 20 of them are a factor of ten.
            gain = _rms(waveform) / max(_rms(noise), _LEAST_RMS) * 10 ** (-self.snr_db / 20)
            waveform = np.asarray(waveform + gain * noise)
        if self.band is not None:
            from scipy.signal import butter, sosfilt

            filters = butter(_FILTER_ORDER, _TELEPHONE_HZ, btype="bandpass", fs=sampling_rate, output="sos")
            waveform = np.asarray(sosfilt(filters, waveform))
        return np.asarray(waveform, dtype=np.float32)

    def _noise(self, num_samples: int, sampling_rate: int, rng: np.random.Generator) -> Waveform:
        """Noise [num_samples] of any loudness."""
        if self.noise not in NOISES:
            recording = waveform_of(Path(self.noise), sampling_rate, self.noise)
            start = int(rng.integers(max(1, len(recording) - num_samples + 1)))
            # A short one is repeated.
            return np.asarray(np.resize(recording[start:], num_samples), dtype=np.float32)
        spectrum = np.fft.rfft(rng.standard_normal(num_samples))
        frequency = np.arange(len(spectrum), dtype=float)
        frequency[0] = 1.0  # 0 has no negative power
        spectrum *= frequency ** -_NOISE_SLOPES[self.noise]
        spectrum[0] = 0.0  # nothing that is constant is heard
        return np.asarray(np.fft.irfft(spectrum, num_samples), dtype=np.float32)


def read_condition(text: str, where: object) -> Condition:
    """A condition written in a line, with the keys of an evals file: `noise: pink, snr_db: 10`.

    Raises:
        InputError: a key is unknown or of the wrong form.

    Example:
        >>> read_condition("noise: pink, snr_db: 10", where="--condition").snr_db
        10
    """
    try:
        document = yaml.safe_load(f"{{{text}}}")
    except yaml.YAMLError:
        document = None
    # `speed:2`, without a space, is a key that has no value; it would count as absent.
    if not document or None in document.values():
        document = text
    return validate(_CONDITION, document, where, fix="such as 'noise: brown, snr_db: 10'")


_CONDITION = TypeAdapter(Condition)


def _in_room(waveform: Waveform, sampling_rate: int, seconds: float, rng: np.random.Generator) -> Waveform:
    """Convolved with the direct sound and a tail that falls by 60 dB in `seconds`; as long and as loud as before."""
    from scipy.signal import fftconvolve

    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response *= np.sqrt(1 / np.sum(response**2))  # as much power in the tail as in the direct sound
    response[0] = 1.0
    heard = fftconvolve(waveform, response)[: len(waveform)]
    return np.asarray(heard * _rms(waveform) / max(_rms(heard), _LEAST_RMS))


def _rms(waveform: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
