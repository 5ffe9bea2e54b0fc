"""Colours of CIELAB (CIE 15) as sRGB (IEC 61966-2-1), both for the white D65.

OpenCV converts them too, but spends 90 ms on its first conversion: more than on all else in a picture.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Pixels

EPSILON, KAPPA = (
    (6 / 29) ** 3,
    (29 / 3) ** 3,
)  # where the cube root of CIELAB gives way to a line, and its slope
# Linear sRGB of XYZ over that of the white.
RGB_OF_XYZ = np.array(
    [
        [3.0799551, -1.5371390, -0.5428161],
        [-0.9212586, 1.8760111, 0.0452475],
        [0.0528874, -0.2040259, 1.1511385],
    ],
    np.float32,
)
LIGHTS = 1 << 14  # steps of linear light: finer than 8 bits of sRGB where these are finest


def lightness(greys: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """L* of sRGB greys, 0 to 100."""
    value = greys / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.where(light <= EPSILON, light * KAPPA, 116 * np.cbrt(light) - 16)


def to_srgb(lab: npt.NDArray[np.floating[Any]]) -> Pixels:
    """Colours (..., 3) of CIELAB as uint8 sRGB, clipped to what it can show."""
    y = (lab[..., 0] + 16) / 116
    roots = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(roots > 6 / 29, roots * roots * roots, (116 * roots - 16) / KAPPA).astype(np.float32)
    light = np.linspace(0, 1, LIGHTS)
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    level = np.rint(encoded * 255).astype(np.uint8)
    linear = np.clip(xyz @ RGB_OF_XYZ.T, 0, 1)
    srgb: Pixels = level[np.rint(linear * (LIGHTS - 1)).astype(np.int32)]
    return srgb
