"""Media that claim what no memory holds, or point elsewhere, are refused from their headers."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from measured import encode_video
from PIL import Image

from autoreap.data.audio_files import waveform_of
from autoreap.data.conditions import Condition
from autoreap.data.samples import Sample, load_audio, load_frames
from autoreap.data.video_files import sampled_frames, size_from_header
from autoreap.errors import MediaError


def wav(rate: int, num_samples: int = 8000, channels: int = 1) -> bytes:
    data = b"\0\1" * num_samples * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels & 0xFFFFFFFF, 2 * channels, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2**31 - 1, 2**32 - 1])
def test_a_recording_of_an_absurd_rate_is_refused(rate: int) -> None:
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"^rows:1: audio"):
        load_audio(Sample(id="a", where="rows:1", audio=wav(rate)))
    assert time.monotonic() - began < 2


def test_a_long_recording_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    num_bytes = 500_000_000
    head = wav(16_000, 0)
    with path.open("wb") as file:
        file.write(head[:40] + struct.pack("<I", num_bytes))
        file.truncate(len(head) + num_bytes)
    with pytest.raises(MediaError, match="too long to decode"):
        load_audio(Sample(id="a", where="rows:1", audio=path))
    noise = Condition(noise=str(path), snr_db=10)
    with pytest.raises(MediaError, match="too long to decode"):
        noise.applied(waveform_of(wav(16_000), 16_000, "w"), 16_000, "a")


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1000)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(width: int, height: int, kind: str = "png") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height)).save(written, kind)
    return written.getvalue()


@pytest.mark.parametrize(
    "image",
    [png(100_000, 100_000), png(12_000, 12_000), encoded(1, 201), encoded(2000, 4), png(0, 5), encoded(9, 9, "eps")],
)
def test_an_image_of_an_absurd_size_is_refused(image: bytes) -> None:
    with pytest.raises(MediaError, match=r"^rows:1: image can't be decoded"):
        load_frames(Sample(id="a", where="rows:1", image=image))


@pytest.mark.slow
def test_frames_that_are_too_many_together_are_refused() -> None:
    frame = encoded(8000, 8000)
    with pytest.raises(MediaError, match="more than 300,000,000 pixels"):
        load_frames(Sample(id="a", where="rows:1", modality="video", video=(frame,) * 5))


PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{video}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {video}\n",
    "a.mp4": "ffconcat version 1.0\nfile {video}\n",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a.mpd": "<?xml version='1.0'?><MPD><Period><BaseURL>{video}</BaseURL></Period></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_playlist_is_no_video(name: str, as_bytes: bool, tmp_path: Path) -> None:
    video = tmp_path / "secret.mp4"
    video.write_bytes(encode_video(12))
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(video=video.name))
    media: Any = path.read_bytes() if as_bytes else path
    for read in (sampled_frames, size_from_header):
        assert read(video, "rows:1")
        with pytest.raises(MediaError, match=r"^rows:1: video can't be decoded"):
            read(media, "rows:1")
