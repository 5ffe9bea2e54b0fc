"""EXIF orientation: how a camera was held."""

import numpy as np

from ..types import Pixels
from .quiet import quiet

_TAG = 0x0112


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 where it is absent or the block makes no sense."""
    from PIL.Image import Exif

    exif = Exif()
    try:
        with quiet():
            exif.load(block)
            value = exif.get(_TAG)
    # The block comes from outside, and Pillow's parser raises whatever its parts raise.
    except Exception:
        return 1
    return value if isinstance(value, int) and 2 <= value <= 8 else 1


def oriented(pixels: Pixels, orientation: int) -> Pixels:
    """Apply the EXIF orientation 1 to 8; 5 to 8 also exchange height and width."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
