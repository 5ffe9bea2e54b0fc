"""JPEG by libjpeg-turbo."""

from typing import cast

import numpy as np
import simplejpeg

from ..errors import ImageError
from ..types import Pixels
from .orientation import exif_orientation
from .pillow import decode_pillow
from .quiet import quiet
from .refusal import check_size, cut_off, undecodable

_FACTORS = (8, 4, 2)
# A progressive JPEG has some ten scans of all its pixels. Thousands fit into a small file: hours of work.
_MOST_SCANNED = 20_000_000_000
_EXIF_WITHIN = 1 << 20  # bytes from the start


def decode_jpeg(
    data: bytes, name: str, max_pixels: int, short_side: int | None
) -> tuple[Pixels, int, tuple[int, int]]:
    """The pixels of a JPEG, reduced as ``load`` says; its orientation; (height, width) of all of it.

    What libjpeg-turbo warns of is an error here, above all data that end too soon, which it would fill with
    grey. Only bytes between the last pixel and the end marker are passed over: many a webcam writes them.
    Its interface knows the usual chroma subsamplings; files with another go to Pillow, whole.

    Raises:
        ImageError: as for ``load``.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a subsampling that simplejpeg has no name for
        pixels, _ = decode_pillow(data, "JPEG", name, max_pixels)
        return pixels, _orientation(data), (pixels.shape[0], pixels.shape[1])
    check_size(name, width, height, max_pixels)
    if _scans(data) * width * height > _MOST_SCANNED:
        raise ImageError(
            f"{name}: has too many scans for a JPEG of {width} x {height} pixels; save it again as JPEG"
        )
    factor = 1
    if short_side is not None:
        factor = next((f for f in _FACTORS if min(width, height) >= f * short_side), 1)
    least_height, least_width = -(-height // factor), -(-width // factor)
    options = {"min_height": least_height, "min_width": least_width, "min_factor": factor}
    try:
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB", **options)
        except ValueError as warning:
            # Of several warnings this is the first, and nothing follows the end marker.
            if not str(warning).endswith("before marker 0xd9"):
                raise
            pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False, **options)
    except ValueError as error:
        ended = "remature end" in str(error)
        raise cut_off(name) if ended else undecodable(name, "JPEG") from None
    if pixels.shape != (least_height, least_width, 3):
        raise undecodable(name, "JPEG")
    return cast(Pixels, pixels), _orientation(data), (height, width)


def _scans(data: bytes) -> int:
    """The number of scans, or more: what lies behind the image may hold the same two bytes by chance."""
    content = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero(content[:-1] == 0xFF)
    return int(np.count_nonzero(content[marks + 1] == 0xDA))


def _orientation(data: bytes) -> int:
    # Pillow is imported, and parses, only where there is something to find.
    if b"Exif\0\0" not in data[:_EXIF_WITHIN]:
        return 1
    from io import BytesIO

    from PIL.JpegImagePlugin import JpegImageFile

    try:
        with quiet():
            block = JpegImageFile(BytesIO(data)).info.get("exif")
    except Exception:
        return 1
    return exif_orientation(block) if isinstance(block, bytes) else 1
