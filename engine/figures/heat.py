"""The colours of contributions."""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ..types import Pixels

# RGB at equal steps from 0 to the whole of the scale. Both halves darken as they grow, so that their order
# survives a grey print, but not so far that they sink into a dark photo.
WARM = ((255, 225, 80), (255, 175, 20), (255, 105, 0), (240, 40, 0), (205, 0, 10))
COOL = ((140, 225, 255), (60, 175, 255), (20, 120, 250), (15, 70, 230), (15, 30, 190))
STEPS = 1024  # of the colour table on each side of 0, more than 8 bits can show
# Opacity grows with the contribution, a little faster at first: small ones stay visible, 0 stays clear.
OPACITY_POWER = 0.7
# The photo's own colours give way to grey sooner than the heat covers them: red heat on a red tulip would
# not be seen, and the same contribution looks the same whatever the hue below it.
FADE_POWER = 3
STRIP = 1 << 18  # pixels that are coloured at a time, so that a large picture needs little more memory


def apply_heat(ground: Pixels, values: npt.NDArray[np.float32], opacity: float) -> Pixels:
    """``ground`` (h, w, 3) under the colours of ``values`` (h, w), contributions over the scale."""
    table = _heat_table(opacity)
    result = np.empty_like(ground)
    step = max(1, STRIP // ground.shape[1])
    for strip in (slice(y, y + step) for y in range(0, len(ground), step)):
        place = values[strip] * np.float32(STEPS)
        np.clip(place, -STEPS, STEPS, out=place)
        entry = table.take(np.rint(place, out=place).astype(np.int32) + STEPS, axis=0)
        photo = np.ascontiguousarray(ground[strip])
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
        heated = photo * entry[..., 0:1]
        heated += grey * entry[..., 1:2]
        heated += entry[..., 2:]
        result[strip] = np.rint(heated, out=heated)
    return result


@lru_cache(maxsize=4)
def _heat_table(opacity: float) -> npt.NDArray[np.float32]:
    """(2 STEPS + 1, 5): a pixel becomes photo * [0] + its grey * [1] + [2:], from against to for."""
    strength = np.abs(np.linspace(-1, 1, 2 * STEPS + 1))[:, None]
    half = strength[STEPS:, 0]
    warm, cool = (
        np.stack([np.interp(half, np.linspace(0, 1, len(ramp)), c) for c in np.transpose(ramp)], axis=-1)
        for ramp in (WARM, COOL)
    )
    colour = np.concatenate([cool[:0:-1], warm])
    alpha = opacity * strength**OPACITY_POWER
    fade = 1 - (1 - strength) ** FADE_POWER
    parts = ((1 - fade) * (1 - alpha), fade * (1 - alpha), colour * alpha)
    return np.concatenate(parts, axis=1).astype(np.float32)
