"""From a photo's pixels to the network's input."""

import cv2
import numpy as np

from ..contract import InputSpec
from ..types import Pixels
from .decode import checked_pixels
from .geometry import Geometry
from .resize import resize

_KERNELS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
_CROP_REACH = 8  # see _crop


def preprocess(
    pixels: Pixels, spec: InputSpec, *, size: tuple[int, int] | None = None
) -> tuple[Pixels, Geometry]:
    """Make the network's input of a photo, and say where it lies on the photo.

    Args:
        pixels: uint8 (h, w, 3) RGB.
        spec: size, colour order, resize policy and kernel of the network's input.
        size: (height, width) instead of the spec's, for a dynamic artifact.

    Returns:
        Contiguous uint8 (height, width, 3) in the order ``spec.colour``, and its geometry, which is
        that of the sizes after rounding.

    Raises:
        ImageError: the array is empty or of another type or shape.
    """
    pixels = checked_pixels(pixels, "<array>")
    height, width = size or (spec.height, spec.width)
    if spec.resize == "squash":
        return _squash(pixels, spec, height, width)
    if spec.resize == "crop":
        return _crop(pixels, spec, height, width)
    return _letterbox(pixels, spec, height, width)


def blank(spec: InputSpec, height: int, width: int) -> Pixels:
    """A network's input of the constant colour mean: uint8 (height, width, 3) in ``spec.colour``."""
    colour = np.clip([round(255 * mean) for mean in spec.mean], 0, 255).astype(np.uint8)
    return np.full((height, width, 3), colour, np.uint8)


def _in_order(pixels: Pixels, spec: InputSpec) -> Pixels:
    return np.ascontiguousarray(pixels[..., ::-1] if spec.colour == "bgr" else pixels)


def _squash(pixels: Pixels, spec: InputSpec, height: int, width: int) -> tuple[Pixels, Geometry]:
    h, w = pixels.shape[:2]
    resized = resize(pixels, height, width, _KERNELS[spec.kernel])
    return _in_order(resized, spec), Geometry(h, w, (0.0, 0.0, float(w), float(h)))


def _crop(pixels: Pixels, spec: InputSpec, height: int, width: int) -> tuple[Pixels, Geometry]:
    h, w = pixels.shape[:2]
    scale = max(height / h, width / w) / spec.crop_fraction
    # Resizing all of a 1 x 100000 photo would take gigabytes for what the crop throws away. So a side
    # that would become _CROP_REACH times the input's first loses its ends, far beyond the crop.
    kept_h, kept_w = _kept(h, height, scale), _kept(w, width, scale)
    above, before = (h - kept_h) // 2, (w - kept_w) // 2
    resized_h = max(height, round(kept_h * scale))
    resized_w = max(width, round(kept_w * scale))
    kept = pixels[above : above + kept_h, before : before + kept_w]
    resized = resize(kept, resized_h, resized_w, _KERNELS[spec.kernel])
    top, left = (resized_h - height) // 2, (resized_w - width) // 2
    field = (
        before + left * kept_w / resized_w,
        above + top * kept_h / resized_h,
        before + (left + width) * kept_w / resized_w,
        above + (top + height) * kept_h / resized_h,
    )
    cropped = resized[top : top + height, left : left + width]
    return _in_order(cropped, spec), Geometry(h, w, field)


def _kept(side: int, target: int, scale: float) -> int:
    """How many of ``side`` pixels to resize, as many cut at one end as at the other."""
    if side * scale <= _CROP_REACH * target:
        return side
    kept = int(_CROP_REACH * target / scale) + 1
    return min(side, kept + (side - kept) % 2)


def _letterbox(pixels: Pixels, spec: InputSpec, height: int, width: int) -> tuple[Pixels, Geometry]:
    h, w = pixels.shape[:2]
    scale = min(height / h, width / w)
    # A very thin photo keeps at least one row or column.
    resized_h = min(height, max(1, round(h * scale)))
    resized_w = min(width, max(1, round(w * scale)))
    top, left = (height - resized_h) // 2, (width - resized_w) // 2
    canvas = blank(spec, height, width)
    resized = resize(pixels, resized_h, resized_w, _KERNELS[spec.kernel])
    canvas[top : top + resized_h, left : left + resized_w] = _in_order(resized, spec)
    field = (
        -left * w / resized_w,
        -top * h / resized_h,
        (width - left) * w / resized_w,
        (height - top) * h / resized_h,
    )
    return canvas, Geometry(h, w, field)
