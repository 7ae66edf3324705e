"""An image, judged by its header before it is decoded."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from autoreap.data.media_files import Media
from autoreap.data.video_files import check_size
from autoreap.errors import MediaError

# Pillow knows many more, one of which (EPS) runs another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


@contextmanager
def opened_image(media: Media, where: str) -> Iterator[Image.Image]:
    """An image whose header is read; `MediaError` if that, or anything within the context, can't be decoded."""
    try:
        with Image.open(io.BytesIO(media) if isinstance(media, bytes) else media, formats=_FORMATS) as image:
            check_size(*image.size)
            yield image
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"image can't be decoded: {error}", where=where) from None
