"""A photo in blocks finer than the cells of its map, which are removed and restored."""

import cv2
import numpy as np
import numpy.typing as npt

from ..engine import Engine
from ..images.geometry import Geometry
from ..images.photo import Photo
from ..types import Array, Pixels

SIDE = 14  # blocks along each side of what the network sees
POINTS = 4  # along a block's side, at which a map is read
EDGE = 0.25  # of a block's side: standard deviation of the Gaussian that softens its edge
WORKING_SIDE = 1.25  # times the network's input: the size of a photo of which parts are removed
BLUR = 0.1  # standard deviation of the blurred photo, over its longer side


class BlockGrid:
    """``SIDE`` x ``SIDE`` blocks of the part of a photo that the network sees, numbered by rows."""

    def __init__(self, geometry: Geometry) -> None:
        """For a photo of this geometry."""
        x0, y0, x1, y1 = geometry.field
        # Padding has no pixels that could be removed.
        self._rows = _Axis(max(y0, 0), min(y1, geometry.photo_height), y0, y1, geometry.photo_height)
        self._columns = _Axis(max(x0, 0), min(x1, geometry.photo_width), x0, x1, geometry.photo_width)
        self._numbers = self._rows.blocks[:, None] * SIDE + self._columns.blocks

    def values(self, values: Array) -> Array:
        """(SIDE * SIDE,): the mean over each block of a map (H, W) as it is drawn, bilinearly."""
        rows, columns = self._rows.weights(values.shape[0]), self._columns.weights(values.shape[1])
        return np.asarray(rows @ values.astype(np.float64) @ columns.T).ravel()

    def mask(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """(h, w) in [0, 1]: where the ``chosen`` blocks (SIDE * SIDE,) lie on the photo, with soft edges."""
        hard = chosen.astype(np.float32)[self._numbers]
        across, down = EDGE * self._columns.block, EDGE * self._rows.block
        soft = cv2.GaussianBlur(hard, (0, 0), across, sigmaY=down, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(soft, np.float32)


class _Axis:
    """The blocks along one side of a photo."""

    def __init__(self, low: float, high: float, start: float, end: float, pixels: int) -> None:
        """Blocks lie from ``low`` to ``high`` of a side, the map from ``start`` to ``end``."""
        self.block = (high - low) / SIDE
        place = np.floor((np.arange(pixels) + 0.5 - low) / self.block)
        self.blocks = np.clip(place, 0, SIDE - 1).astype(np.intp)
        points = low + (np.arange(SIDE * POINTS) + 0.5) * self.block / POINTS
        self._points = (points - start) / (end - start)

    def weights(self, cells: int) -> Array:
        """(SIDE, cells): the weight of each cell in the mean over each block."""
        at = np.clip(self._points * cells - 0.5, 0, cells - 1)
        low = at.astype(np.intp)
        weights = np.zeros((len(at), cells))
        weights[np.arange(len(at)), low] = 1 - (at - low)
        weights[np.arange(len(at)), np.minimum(low + 1, cells - 1)] += at - low
        return np.asarray(weights.reshape(SIDE, POINTS, cells).mean(axis=1))


def baselines(pixels: Pixels) -> dict[str, Pixels]:
    """What removed blocks show instead: the photo ``blur``red, or its ``mean`` colour."""
    mean = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    return {
        "blur": np.asarray(cv2.GaussianBlur(pixels, (0, 0), BLUR * max(pixels.shape[:2])), np.uint8),
        "mean": np.broadcast_to(mean, pixels.shape).copy(),
    }


def removed(pixels: Pixels, baseline: Pixels, mask: npt.NDArray[np.float32]) -> Pixels:
    """The photo where ``mask`` (h, w) is 0, the baseline where it is 1."""
    return np.asarray(cv2.blendLinear(pixels, baseline, 1 - mask, mask), np.uint8)


def working_copy(engine: Engine, photo: Photo) -> Pixels:
    """The photo, not much larger than the network's input."""
    spec = engine.contract.input
    least = round(WORKING_SIDE * max(engine.options.size or (spec.height, spec.width)))
    height, width = photo.pixels.shape[:2]
    scale = least / min(height, width)
    if scale >= 1:
        return photo.pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
