"""Images and frames of video to patches, as Qwen2-VL cuts them.

They equal the real processor's to within rounding, a level or two of 255 where a picture is resized. Frames of a video
are resized like images here; the real processor enlarges small frames, and shrinks large ones, more than images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from autoreap.models.checkpoint import read_json


def read_pictures(path: Path, default_frame_size: dict[str, int]) -> "Pictures":
    """Those of the checkpoint at `path`; `OSError` or `ValueError` if its preprocessor can't be read."""
    stored = path / "video_preprocessor_config.json"
    frame_size = read_json(stored)["size"] if stored.exists() else default_frame_size
    return Pictures(
        Qwen2VLImageProcessorPil.from_pretrained(path),
        Qwen2VLImageProcessorPil.from_pretrained(path, size=frame_size),
    )


@dataclass(frozen=True)
class Pictures:
    """The image processor of one checkpoint, and the same with the size limits of video."""

    image_processor: Qwen2VLImageProcessorPil
    frame_processor: Qwen2VLImageProcessorPil

    @property
    def frames_per_patch(self) -> int:
        """How many frames of a video a patch goes through."""
        return int(self.image_processor.temporal_patch_size)

    def num_tokens(self, grid: tuple[int, int, int]) -> int:
        """How many tokens the patches of a grid (temporal, height, width) become."""
        return math.prod(grid) // int(self.image_processor.merge_size) ** 2

    def patches(self, images: Sequence[Image.Image], *, is_video: bool) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """[patches, patch_dim] and the grid of an image, or of a video's frames.

        Frames of a video go two by two into temporal patches, an image twice.

        The patch layout [..., channel, temporal, height, width] is Qwen2-VL's; an image alone fills the temporal
        dimension with copies of itself, so a video is assembled from its frames' own patches.
        """
        processor = self.frame_processor if is_video else self.image_processor
        processed = processor(list(images), return_tensors="pt")
        _, height, width = (int(size) for size in processed["image_grid_thw"][0])
        per_frame = processed["pixel_values"].view(len(images), height * width, -1)
        if not is_video:
            return per_frame[0], (1, height, width)
        depth = processor.temporal_patch_size
        # A frame alone comes as `depth` copies of itself, of which one is taken.
        single = per_frame.view(len(images), height * width, -1, depth, processor.patch_size**2)[:, :, :, 0]
        # The last one fills up the last patch.
        frames = [*single, *[single[-1]] * (-len(images) % depth)]
        blocks = []
        for start in range(0, len(frames), depth):
            blocks.append(torch.stack(frames[start : start + depth], dim=2).flatten(1))
        return torch.cat(blocks), (len(blocks), height, width)
