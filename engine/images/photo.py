"""A decoded photo, and what may become one."""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..types import Pixels


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image.

    Attributes:
        pixels: uint8 (h, w, 3) RGB, EXIF orientation applied.
        name: the path as given, or ``<bytes>`` or ``<array>``.
        size: (height, width) of the photo where its decoding has reduced it, else None.
    """

    pixels: Pixels
    name: str
    size: tuple[int, int] | None = None


Source = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Photo
