"""Drawn images of one coloured shape, and the pixel layout that the vision tower reads.

Layout of ``pixel_values`` for one image of height h and width w (multiples of 32), the same as transformers'
``Qwen2VLImageProcessor`` with patch 16, temporal patch 2, merge 2: rows are the 16 x 16 patches, [h/16 * w/16, 1536];
their order is block row, block column, row in the 2 x 2 block, column in the block; a row is (channel, frame, y, x),
flattened; an image is its own second frame; values are (x / 255 - .5) / .5. ``image_grid_thw`` is [1, h/16, w/16] and
the image takes h/16 * w/16 / 4 tokens. A video of 2 t frames has t times as many rows, frame pairs first, and grid
[t, h/16, w/16].
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.tiny_omni.words import COLOURS, SHAPES

SIDE = 64
PATCH = 16
MERGE = 2
TOKENS_PER_IMAGE = (SIDE // PATCH // MERGE) ** 2
IMAGE_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGE,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "min_pixels": 3136,
    "max_pixels": 12845056,
}
_RGB = {
    "red": (215, 30, 35),
    "blue": (35, 60, 215),
    "green": (25, 150, 45),
    "yellow": (240, 215, 25),
    "purple": (145, 40, 175),
    "white": (248, 248, 248),
}
_SUPERSAMPLING = 4


def draw_image(colour: str, shape: str, rng: np.random.Generator) -> Image.Image:
    """Draw one large shape, jittered a little in place, size, colour and background; [64, 64] RGB."""
    side = SIDE * _SUPERSAMPLING
    background = tuple(int(value) for value in rng.integers(40, 110) + rng.integers(-12, 12, size=3))
    image = Image.new("RGB", (side, side), background)
    fill = tuple(int(value) for value in np.clip(np.array(_RGB[colour]) + rng.integers(-18, 19, size=3), 0, 255))
    centre = side / 2 + rng.uniform(-4, 4, size=2) * _SUPERSAMPLING
    _draw_shape(ImageDraw.Draw(image), shape, centre, float(rng.uniform(20, 26)) * _SUPERSAMPLING, fill)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def draw_random(rng: np.random.Generator) -> tuple[Image.Image, str, str]:
    """Draw an image of a random colour and shape; returns image, colour, shape."""
    colour, shape = str(rng.choice(COLOURS)), str(rng.choice(SHAPES))
    return draw_image(colour, shape, rng), colour, shape


def pixel_values(frames: list[Image.Image]) -> NDArray[np.float32]:
    """Flatten one image, or an even number of video frames, into patches [rows, 1536]; see the module's layout."""
    pairs = frames * 2 if len(frames) == 1 else frames
    pixels = np.stack([np.asarray(frame.convert("RGB"), dtype=np.float32) for frame in pairs]) / 127.5 - 1.0
    count, height, width, _ = pixels.shape
    blocks = pixels.reshape(
        *(count // 2, 2, height // PATCH // MERGE, MERGE, PATCH, width // PATCH // MERGE, MERGE, PATCH, 3)
    )
    ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(ordered.reshape(-1, 3 * 2 * PATCH * PATCH))


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: NDArray[np.float64], radius: float, fill: tuple[int, ...]
) -> None:
    x, y = (float(value) for value in centre)
    box = (x - radius, y - radius, x + radius, y + radius)
    arm = radius * 0.32
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=int(radius * 0.35))
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=fill)
    else:
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
