"""A recording as a waveform. Its header is judged before anything is decoded: 16 kB may claim to be hours at 1 Hz."""

import numpy as np
from numpy.typing import NDArray

from autoreap.data.media_files import Media, opened_sound
from autoreap.errors import MediaError

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_SECONDS = 2 * 3600
_MAX_VALUES = 150_000_000  # of all channels, 4 bytes each: 25 minutes in stereo at 48 kHz


def seconds_from_header(audio: Media, where: str) -> float:
    """How long a recording is, from its header; `MediaError` if it can't be, or can't be decoded in memory."""
    import soundfile

    try:
        with opened_sound(audio) as sound:
            rate, frames, channels = sound.samplerate, sound.frames, sound.channels
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        raise MediaError(f"audio can't be decoded: {_reason(error)}", where=where) from None
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(f"audio of {rate:,} Hz, not from {MIN_RATE:,} to {MAX_RATE:,} Hz", where=where)
    seconds = float(frames / rate)
    if seconds > MAX_SECONDS or frames * channels > _MAX_VALUES:
        problem = f"audio of {seconds:,.0f} seconds in {channels} channels is too long to decode"
        raise MediaError(problem, where=where, fix="cut it into shorter ones")
    return seconds


def waveform_of(audio: Media, rate: int, where: str) -> NDArray[np.float32]:
    """The recording at `rate` Hz, mono, shape [num_samples]; `MediaError` if it can't be decoded."""
    import librosa
    import soundfile

    seconds_from_header(audio, where)
    try:
        # Of a path librosa would go on to other decoders, which are other programs.
        with opened_sound(audio) as sound:
            waveform, _ = librosa.load(sound, sr=rate, mono=True)
    except (soundfile.LibsndfileError, librosa.ParameterError, OSError, EOFError, ValueError) as error:
        raise MediaError(f"audio can't be decoded: {_reason(error)}", where=where) from None
    return np.asarray(waveform, dtype=np.float32)


def _reason(error: Exception) -> object:
    # The text of libsndfile's errors begins with what was opened, here the number of a file descriptor.
    return getattr(error, "error_string", error)
