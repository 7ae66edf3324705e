"""Speech by espeak-ng and flite, as 16 kHz mono waveforms whose length is a whole number of 10 ms mel frames.

Two synthesisers and many voices stand in for many speakers. Voices with ``held_out`` set are never trained on. A third
of the training utterances goes through Ogg Opus once, because that is how the evaluation audio is stored.
"""

import io
import subprocess
import tempfile
from dataclasses import dataclass

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray

from tools.tiny_omni.words import Sentence

SAMPLE_RATE = 16_000
FRAME = 160
Waveform = NDArray[np.float32]

_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m6", "m8", "f1", "f2", "f3", "f5"),
    *("linda", "max", "steph", "john", "Annie", "Andy"),
)
_MORE_VARIANTS = (
    *("adam", "Alex", "Andrea", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward"),
    *("gene", "grandma", "grandpa", "Hugo", "iven", "iven3", "jacky", "lee", "marcelo", "mario", "michael", "michel"),
    *("miguel", "mike", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph2"),
    *("steph3", "travis", "victor", "zac", "klatt", "klatt2", "klatt4"),
)
_HELD_OUT_ESPEAK = ("en-us+m5", "en-gb+f4", "en-gb-x-gbclan+m7", "en-029+Alicia")


@dataclass(frozen=True)
class Voice:
    """One synthesiser voice.

    Attributes:
        name: what the synthesiser is given with ``-v`` or ``-voice``.
        held_out: never trained on.
        spread: how far playing faster or slower may change the speaker, as a share.
    """

    engine: str
    name: str
    held_out: bool = False
    spread: float = 0.0

    @property
    def speaker(self) -> str:
        """The name written into the data files, such as ``flite:rms``."""
        return f"{self.engine}:{self.name}"


ESPEAK_VOICES = tuple(Voice("espeak-ng", f"{accent}+{variant}") for accent in _ACCENTS for variant in _VARIANTS)
FLITE_VOICES = tuple(Voice("flite", name, spread=0.05) for name in ("slt", "awb", "kal16", "kal"))
MORE_ESPEAK_VOICES = tuple(
    Voice("espeak-ng", f"{accent}+{variant}", spread=0.12) for accent in _ACCENTS for variant in _MORE_VARIANTS
)
MORE_FLITE_VOICES = tuple(Voice("flite", voice.name, spread=0.15) for voice in FLITE_VOICES)
HELD_OUT_VOICES = (
    *(Voice("espeak-ng", name, held_out=True) for name in _HELD_OUT_ESPEAK),
    Voice("flite", "rms", held_out=True, spread=0.05),
)


def draw_voice(rng: np.random.Generator) -> Voice:
    """Draw a training voice: flite for three utterances in ten, else espeak-ng."""
    voices = FLITE_VOICES if rng.random() < 0.3 else ESPEAK_VOICES
    return voices[int(rng.integers(len(voices)))]


def draw_more_voices(rng: np.random.Generator) -> Voice:
    """Draw from more speakers: a third as ``draw_voice`` does, the others from more variants, at more speeds."""
    draw = rng.random()
    if draw < 0.35:
        return draw_voice(rng)
    voices = MORE_FLITE_VOICES if draw < 0.65 else MORE_ESPEAK_VOICES
    return voices[int(rng.integers(len(voices)))]


def synthesise(sentence: Sentence, voice: Voice, rng: np.random.Generator) -> Waveform:
    """Speak ``sentence``; pitch, rate, loudness and the silence around it are drawn from ``rng``. Returns [samples]."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(_command(sentence, voice, rng, file.name), check=True, capture_output=True)
        samples, rate = soundfile.read(file.name, dtype="float32")
    spoken_rate = rate * float(rng.uniform(1 - voice.spread, 1 + voice.spread)) if voice.spread else float(rate)
    resampled = librosa.resample(samples, orig_sr=spoken_rate, target_sr=SAMPLE_RATE)
    return _frame(_trim(resampled), rng)


def through_opus(samples: Waveform) -> Waveform:
    """Encode ``samples`` [n] as Ogg Opus and decode again; the length stays the same."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    return np.asarray(np.pad(decoded, (0, max(0, len(samples) - len(decoded))))[: len(samples)], dtype=np.float32)


def add_noise(samples: Waveform, snr_db: float, colour: str, rng: np.random.Generator) -> Waveform:
    """Add white or pink noise to ``samples`` [n] at the given signal-to-noise ratio over the whole utterance."""
    noise = rng.standard_normal(len(samples))
    if colour == "pink":
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), n=len(samples))
    gain = np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    mixed = samples + gain * noise
    return np.asarray(mixed * min(1.0, 0.95 / np.abs(mixed).max()), dtype=np.float32)


def _command(sentence: Sentence, voice: Voice, rng: np.random.Generator, path: str) -> list[str]:
    text = " ".join(sentence)
    if voice.engine == "flite":
        stretch = f"duration_stretch={rng.uniform(0.85, 1.2):.3f}"
        return ["flite", "-voice", voice.name, "--setf", stretch, "-t", text, "-o", path]
    pitch, rate, gap = int(rng.integers(30, 70)), int(rng.integers(130, 205)), int(rng.integers(0, 5))
    return ["espeak-ng", "-v", voice.name, "-p", str(pitch), "-s", str(rate), "-g", str(gap), "-w", path, text]


def _trim(samples: Waveform) -> Waveform:
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def _frame(samples: Waveform, rng: np.random.Generator) -> Waveform:
    """Set a random peak, put 30 to 150 ms of silence on both sides, and fill up to a whole mel frame."""
    lead, tail = (int(rng.uniform(0.03, 0.15) * SAMPLE_RATE) for _ in range(2))
    tail += -(lead + len(samples) + tail) % FRAME
    peak = float(rng.uniform(0.3, 0.9)) / float(np.abs(samples).max())
    return np.asarray(np.pad(samples * peak, (lead, tail)), dtype=np.float32)
