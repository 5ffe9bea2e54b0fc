"""Photos at another size."""

from typing import cast

import cv2

from ..types import Pixels


def resize(pixels: Pixels, height: int, width: int, kernel: int, *, grow: int | None = None) -> Pixels:
    """``pixels`` at another size.

    OpenCV's INTER_AREA averages only while no side grows; else it samples the side that shrinks, off by up
    to half a pixel of the result. So where one side shrinks and the other grows, the one that shrinks goes
    first, alone.

    Args:
        pixels: uint8 (h, w, 3) or (h, w).
        height, width: of the result.
        kernel: OpenCV's interpolation.
        grow: that of sides which become longer, if it is another.

    Returns:
        uint8 (height, width, 3) or (height, width).
    """
    grow = kernel if grow is None else grow
    shrunk = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    if shrunk == pixels.shape[:2]:
        kernel = grow
    elif shrunk != (height, width) and cv2.INTER_AREA in (kernel, grow):
        pixels = cast(Pixels, cv2.resize(pixels, shrunk[::-1], interpolation=kernel))
        kernel = grow
    return cast(Pixels, cv2.resize(pixels, (width, height), interpolation=kernel))
