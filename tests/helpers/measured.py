"""What tests measure and compare: saliencies bit by bit, memory at its peak; and videos to measure on."""

import io
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

from autoreap.saliency import Saliency


def assert_same_bits(ours: Saliency, other: Saliency) -> None:
    assert ours.provenance == other.provenance
    assert ours.components.keys() == other.components.keys()
    for name, measured in ours.components.items():
        expected = other.components[name]
        assert np.array_equal(measured.layer_cosine, expected.layer_cosine, equal_nan=True)
        assert measured.modalities.keys() == expected.modalities.keys()
        for modality, sums in measured.modalities.items():
            assert sums.tokens == expected.modalities[modality].tokens
            assert np.array_equal(sums.gate_norm_sum, expected.modalities[modality].gate_norm_sum)
            assert np.array_equal(sums.routed_tokens, expected.modalities[modality].routed_tokens)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that is allocated at once while `run` runs, over what was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    allocations: list[int] = [e.nbytes() for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(allocations))


def encode_video(
    num_frames: int, *, rate: int = 4, kind: str = "mp4", codec: str = "mpeg4", size: tuple[int, int] = (64, 48)
) -> bytes:
    """A video whose frames grow evenly brighter, from 0 to 250; the top left corner is red."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            picture = np.full((size[1], size[0], 3), 250 * number / max(num_frames - 1, 1), dtype=np.uint8)
            picture[:16, :16] = (250, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
