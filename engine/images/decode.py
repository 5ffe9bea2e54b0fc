"""From a file, bytes or an array to pixels, without trusting any of them."""

import os

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, printable
from ..options import Options
from ..types import Pixels
from .jpeg import decode_jpeg
from .orientation import oriented
from .photo import Photo, Source
from .pillow import decode_pillow
from .read import format_of, read


def load(
    source: Source,
    *,
    max_pixels: int = Options.max_pixels,
    name: str | None = None,
    short_side: int | None = None,
) -> Photo:
    """Decode an image: a path, the bytes of an encoded file, or an array.

    Files may be JPEG, PNG, WebP, TIFF or BMP; of an animation or a stack of pages the first counts.
    The EXIF orientation is applied; colour profiles are not. Grey becomes RGB. Alpha is dropped, not
    blended, and colours that a TIFF stores multiplied by it are divided again. Of 16 bits the upper 8 stay;
    a TIFF of signed, floating or wider samples is refused.

    A damaged or cut file is refused wherever its decoder notices. Of a progressive JPEG that ends between
    two of its scans, with an end marker, it cannot: such a file is whole, though coarse.

    Args:
        source: a path, encoded bytes, or uint8 RGB (h, w, 3) or grey (h, w). An RGB array that lies
            contiguously in memory is not copied. A photo that is loaded already is given back.
        max_pixels: refuse files whose header declares more pixels; arrays are not limited.
        name: what errors call the image; None takes the path, ``<bytes>`` or ``<array>``.
        short_side: a JPEG may come at a half, a quarter or an eighth of its size, which is faster to decode,
            as long as its shorter side keeps this many pixels; None decodes all of it.

    Raises:
        ImageError: the file cannot be read, is no regular file, is of another format, is cut off or
            damaged, or declares too many pixels; the array is empty or of another type or shape.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        name = name or "<array>"
        return Photo(checked_pixels(source, printable(name)), name)
    if isinstance(source, bytes):
        name = name or "<bytes>"
        return _decode(source, max_pixels, name, short_side)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"{printable(name or '<image>')}: cannot load a {type(source).__name__}; "
            "give a path, the bytes of an image file or a uint8 array (h, w, 3)"
        )
    path = os.fsdecode(source)
    name = name or path
    return _decode(read(path, printable(name)), max_pixels, name, short_side)


def checked_pixels(array: npt.NDArray[np.uint8], name: str) -> Pixels:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{name}: is an array of {array.dtype} {array.shape}; give uint8 RGB (h, w, 3) or grey (h, w)"
        )
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels (shape {array.shape}); give an image of at least 1 x 1")
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    return np.ascontiguousarray(array)


def _decode(data: bytes, max_pixels: int, name: str, short_side: int | None) -> Photo:
    called = printable(name)
    form = format_of(data, called)
    if form != "JPEG":
        pixels, orientation = decode_pillow(data, form, called, max_pixels)
        return Photo(oriented(pixels, orientation), name)
    pixels, orientation, (height, width) = decode_jpeg(data, called, max_pixels, short_side)
    if pixels.shape[:2] == (height, width):
        return Photo(oriented(pixels, orientation), name)
    # Orientations from 5 on exchange the sides.
    return Photo(oriented(pixels, orientation), name, (height, width) if orientation < 5 else (width, height))
