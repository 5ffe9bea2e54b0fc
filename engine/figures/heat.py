"""The colours of contributions.

Under a map the photo turns into a grey relief, whose lightness spans only ``RELIEF``; the contribution
sets hue and chroma, and moves the lightness of the whole relief. So lightness rises with the value on any
ground, and no colour of the photo competes with the heat. The ramps are our own, in CIELAB, where equal steps
look about equal.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ..types import Pixels
from .cielab import lightness, to_srgb

# (L*, chroma, hue in degrees) at equal steps from 0 to the whole of the scale. Grey, red, orange, yellow:
# without the purple of inferno and magma, which reads as a little of the blue that speaks against.
FOR = ((36, 0, 30), (46, 36, 27), (56, 62, 37), (66, 74, 56), (76, 75, 77), (86, 66, 97))
# Grey to deep blue: the only hue that is colourful where it is dark, so that it can fall below 0.
AGAINST = ((36, 0, 280), (32, 26, 283), (28, 46, 290), (24, 66, 295), (20, 80, 300))
RELIEF = 40  # L* between a black and a white photo where the contribution is 0
STEPS = 256  # of the colour table on each side of 0: neighbours differ by less than 1 L*
# Diagonal lines over what speaks against, which a grey print would show as a dark photo only.
HATCH_PERIOD, HATCH_FROM = 7, 0.05  # pixels; share of the scale
STRIP = 1 << 18  # pixels that are coloured at a time, so that a large picture needs little more memory


def apply_heat(ground: Pixels, values: npt.NDArray[np.float32], opacity: float) -> Pixels:
    """``ground`` (h, w, 3) under the colours of ``values`` (h, w), contributions over the scale."""
    table = _heat_table(opacity)
    height, width = values.shape
    result = np.empty_like(ground)
    step = max(1, STRIP // width)
    diagonal = np.arange(width)[None]
    for y in range(0, height, step):
        strip = slice(y, y + step)
        shares = values[strip]
        grey = cv2.cvtColor(np.ascontiguousarray(ground[strip]), cv2.COLOR_RGB2GRAY)
        if float(shares.min()) < -HATCH_FROM:
            rows = np.arange(y, y + len(shares))[:, None]
            hatched = ((diagonal + rows) % HATCH_PERIOD == 0) & (shares < -HATCH_FROM)
            grey[hatched] ^= 128  # half the relief lighter or darker: visible on any ground
        place = shares * np.float32(STEPS)
        np.clip(place, -STEPS, STEPS, out=place)
        entry = np.rint(place, out=place).astype(np.int32)
        entry += STEPS
        entry *= 256
        entry += grey
        cv2.cvtColor(
            table.take(entry).view(np.uint8).reshape(*entry.shape, 4), cv2.COLOR_RGBA2RGB, result[strip]
        )
    return result


@lru_cache(maxsize=4)
def _heat_table(opacity: float) -> npt.NDArray[np.uint32]:
    """((2 STEPS + 1) 256,): RGBA of each value, from against to for, on each grey."""
    strength = np.abs(np.linspace(-1, 1, 2 * STEPS + 1))
    lab = np.empty((2 * STEPS + 1, 256, 3), np.float32)
    for ramp, half in ((AGAINST, slice(0, STEPS)), (FOR, slice(STEPS, None))):
        light, chroma, hue = np.transpose(ramp)
        axes = light, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
        at = np.linspace(0, 1, len(ramp))
        lab[half] = np.stack([np.interp(strength[half], at, axis) for axis in axes], axis=-1)[:, None]
    relief = lightness(np.arange(256, dtype=np.uint8)) / 100 - 0.5
    lab[..., 0] += (RELIEF * (1 - opacity * strength))[:, None] * relief
    table = np.full((*lab.shape[:2], 4), 255, np.uint8)
    table[..., :3] = to_srgb(lab)
    return table.view(np.uint32).reshape(-1)
