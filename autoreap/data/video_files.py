"""Frames of a video file (mp4, webm, mov, mkv, avi, ...), sampled evenly by time. The sound beside them is not used.

A video of d seconds gives n = round(d * FRAMES_PER_SECOND) frames, at least one and at most MAX_FRAMES: those shown in
the middle of each n-th part of it. So they lie about a second apart, and further in videos of more than MAX_FRAMES
seconds.
PyAV decodes; it is an extra, since few calibrate on video files.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from autoreap.data.media_files import Media, named
from autoreap.errors import InputError, MediaError

FRAMES_PER_SECOND = 1.0
MAX_FRAMES = 32
MAX_PIXELS = 300_000_000  # of all sampled frames: 3 bytes each, 32 frames of a 4K video
_MAX_IMAGE = 100_000_000
_MAX_ASPECT = 200  # what the processors of the models take
# Formats that hold their pictures themselves. A playlist (m3u8, ffconcat) names other files, and addresses.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,ivf,h264,hevc,m4v,gif,mxf,rm"
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}


@dataclass(frozen=True)
class Frames:
    """An image, or the frames of a video.

    Attributes:
        images: in order, all of one size.
        seconds_apart: between two frames.
    """

    images: tuple[Image.Image, ...]
    seconds_apart: float


def check_decoder(where: str) -> None:
    """Raise `InputError` if video files can't be decoded here; `where` one was named is for the message."""
    if importlib.util.find_spec("av") is None:
        raise InputError(
            "video files need PyAV, which is not installed",
            where=where,
            fix="pip install 'autoreap[video]', or give the frames as a list of images",
        )


def sampled_frames(video: Media, where: str) -> Frames:
    """The frames of `video`, RGB and upright; see above for which.

    Raises:
        MediaError: it can't be decoded, or has no frames.
        InputError: PyAV is not installed.
    """
    with _opened(video, where) as container:
        start, duration = _span(container)
        size = container.streams.video[0].codec_context
        num_frames = num_sampled(duration)
        if num_frames * size.width * size.height > MAX_PIXELS:
            raise ValueError(f"its frames are too large: {num_frames} of {size.width:,} x {size.height:,} pixels")
    seconds_apart = duration / num_frames
    # Opened anew: to learn how long it lasts, its packets were read to the end.
    times = [start + (number + 0.5) * seconds_apart for number in range(num_frames)]
    with _opened(video, where) as container:
        images = tuple(_shown_at(times, container))
        if not images:
            raise ValueError("none of its frames can be decoded")
    return Frames(images, seconds_apart)


def size_from_header(video: Media, where: str) -> tuple[int, int, int]:
    """How many frames will be sampled, their width and their height, as the header has it; nothing is decoded.

    Raises:
        MediaError: the header can't be read.
        InputError: PyAV is not installed.
    """
    with _opened(video, where) as container:
        context = container.streams.video[0].codec_context
        seconds: float = MAX_FRAMES
        if container.duration is not None:
            seconds = container.duration / 1_000_000  # libav counts in µs
        return num_sampled(seconds), context.width, context.height


def check_size(width: int, height: int) -> None:
    """Raise `ValueError` for a picture that is too large to decode, or that no model takes."""
    if min(width, height) < 1:
        raise ValueError("it has no pixels")
    if width * height > _MAX_IMAGE:
        raise ValueError(f"{width:,} x {height:,} pixels are more than {_MAX_IMAGE:,}")
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise ValueError(f"{width:,} x {height:,} pixels: one side is more than {_MAX_ASPECT} times the other")


def num_sampled(seconds: float) -> int:
    """How many frames are taken of a video that lasts so many seconds."""
    return min(max(round(seconds * FRAMES_PER_SECOND), 1), MAX_FRAMES)


@contextmanager
def _opened(video: Media, where: str) -> Iterator[Any]:
    """PyAV's container of `video`; whatever fails within the context is a `MediaError`."""
    check_decoder(where)
    import av

    try:
        # `file:`, as a name with a colon in it would be taken for an address.
        with named(video) as path, av.open(f"file:{path}", options=_OPTIONS) as container:
            if not container.streams.video or container.streams.video[0].codec_context is None:
                raise ValueError("it has no pictures")
            check_size(container.streams.video[0].codec_context.width, container.streams.video[0].codec_context.height)
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        # What FFmpeg says of a format that is not among ours.
        if isinstance(error, av.error.ArgumentError):
            reason = "it is in no format of videos (mp4, webm, mov, mkv, avi, ...)"
        raise MediaError(f"video can't be decoded: {reason}", where=where) from None


def _span(container: Any) -> tuple[float, float]:
    """When the first frame is shown, and for how many seconds all are; by their packets, since headers may not say."""
    stream = container.streams.video[0]
    times = []
    for packet in container.demux(stream):
        stamp = packet.pts
        if stamp is None:
            stamp = packet.dts  # AVI stores no other
        if stamp is not None:
            times.append(float(stamp * stream.time_base))
    if not times:
        raise ValueError("it has no frames")
    first, last = min(times), max(times)
    spacing = (last - first) / max(len(times) - 1, 1)
    return first, last - first + (spacing or 1 / FRAMES_PER_SECOND)  # the last frame is shown, too


def _shown_at(times: Sequence[float], container: Any) -> Iterator[Image.Image]:
    """The frame on show at each of the ascending `times`."""
    stream = container.streams.video[0]
    # By default PyAV shares out the slices of a frame, of which most videos have one.
    stream.thread_type = "AUTO"
    waiting, shown = list(times), None
    for frame in container.decode(stream):
        stamp = frame.pts
        if stamp is None:
            stamp = frame.dts
        now = float(stamp * stream.time_base)
        # A frame is on show until the next one comes.
        while waiting and shown is not None and now > waiting[0]:
            waiting.pop(0)
            yield _upright(shown)
        if not waiting:
            return
        shown = frame
    if shown is not None:
        for _ in waiting:
            yield _upright(shown)


def _upright(frame: Any) -> Image.Image:
    """A phone stores its pictures as the sensor lies, and beside them by how far to turn them."""
    image: Image.Image = frame.to_image()
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    return image
