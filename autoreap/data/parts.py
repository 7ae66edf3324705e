"""Rows that name a part of their recording (`offset`, `duration`, `start`, `end`, `channel`): they are refused.

A recording is heard whole. The manifests of other tools cut parts out of long recordings; heard whole, each of their
rows would be scored on what is said in all of them. Where a recording is as long as the part, it was cut out already.
"""

import math
from collections.abc import Mapping
from typing import Any

from autoreap.data.media_files import Media, opened_sound
from autoreap.errors import InputError

_STARTS = ("offset", "start", "begin", "onset", "start_time", "begin_time", "audio_start", "start_offset")
_ENDS = ("end", "stop", "end_time", "stop_time", "audio_end", "end_offset")
_DURATIONS = ("duration", "audio_duration")
_CHANNELS = ("channel", "channel_id", "channel_selector")
PART_KEYS = (*_STARTS, *_ENDS, *_DURATIONS, *_CHANNELS)

_ROUNDED = 0.1  # seconds, and more where a number is whole: durations are rounded
_FIX = "cut the part out into a file of its own, or remove the keys"


def check_whole(row: Mapping[str, Any], audio: Media | None, where: str) -> None:
    """Raise `InputError` where `row` says that only a part of `audio` is meant. A broken recording is told of later."""
    named = {key: row[key] for key in PART_KEYS if row.get(key) not in (None, "")}
    if audio is None or not named:
        return
    import soundfile

    try:
        with opened_sound(audio) as sound:
            seconds, num_channels = sound.frames / sound.samplerate, sound.channels
    except (soundfile.LibsndfileError, OSError, ValueError):
        return
    said = ", ".join(f"{key} {str(value)[:40]}" for key, value in named.items())
    if num_channels > 1 and _first(named, _CHANNELS) is not None:
        raise InputError(f"names one of {num_channels} channels ({said}), but all are heard", where=where, fix=_FIX)
    start, end, duration = _first(named, _STARTS), _first(named, _ENDS), _first(named, _DURATIONS)
    if duration is None and end is not None:
        duration = end - (start or 0)
    start = start or 0
    if duration is None:
        # Where a part begins far behind its recording's end, it was cut out of a longer one.
        is_part = 0 < start < seconds
    else:
        rounded = _ROUNDED
        if duration % 1 == 0:
            rounded = 1 - _ROUNDED
        is_part = 0 < duration < seconds - rounded and start < seconds
    if is_part or start < 0:
        raise InputError(
            f"names a part of its recording ({said}) of {seconds:.2f} s, but all of it is heard", where=where, fix=_FIX
        )


def _first(named: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    """The first value of `keys` that is a number; other tools mean other things by these words."""
    for key in keys:
        value = named.get(key)
        if isinstance(value, bool):  # a number for Python
            continue
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return None
