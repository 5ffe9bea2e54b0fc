"""Regions of a photo as shares of a map's cells."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from ..options import Options
from ..types import Box, Corners
from .decode import load
from .geometry import Geometry


def region_weights(
    geometry: Geometry,
    height: int,
    width: int,
    *,
    boxes: Sequence[Box] = (),
    mask: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.float32]:
    """The share of each cell that a region of the photo covers.

    Padding that the network saw beyond an edge of the photo counts as the pixels at that edge, so that
    the whole photo is the whole map.

    Args:
        geometry: where the network's input lies on the photo.
        height, width: cells of the map.
        boxes: (x, y, w, h) in photo pixels; the region is their union.
        mask: (photo_height, photo_width), 0 outside the region; adds to the boxes.

    Returns:
        (height, width) in [0, 1].

    Raises:
        ImageError: no region, a box that is empty or off the photo, a mask of another size, or a region
            of which the network sees nothing.
    """
    if not boxes and mask is None:
        raise ImageError("a region needs a box (x, y, w, h) or a mask")
    x0, y0, x1, y1 = geometry.field
    rows = np.linspace(y0, y1, height + 1)
    columns = np.linspace(x0, x1, width + 1)
    weights = np.zeros((height, width))
    if mask is not None:
        expected = (geometry.photo_height, geometry.photo_width)
        if mask.shape != expected:
            raise ImageError(
                f"the mask is {' x '.join(map(str, mask.shape))}, must be {expected[0]} x {expected[1]} "
                "(height x width) as the photo"
            )
        inside = mask != 0
        if boxes:
            # One region: what a box and the mask share counts once.
            inside = inside | _drawn(boxes, geometry)
        down = _overlaps(rows, np.arange(expected[0] + 1.0))
        across = _overlaps(columns, np.arange(expected[1] + 1.0))
        weights = down @ inside.astype(np.float32) @ across.T
    else:
        edges = [_checked_box(box, geometry) for box in boxes]
        xs = np.unique([0.0, float(geometry.photo_width), *(v for e in edges for v in (e[0], e[2]))])
        ys = np.unique([0.0, float(geometry.photo_height), *(v for e in edges for v in (e[1], e[3]))])
        covered = np.zeros((len(ys) - 1, len(xs) - 1), np.float32)
        for left, top, right, bottom in edges:
            covered[np.ix_((ys[:-1] >= top) & (ys[:-1] < bottom), (xs[:-1] >= left) & (xs[:-1] < right))] = 1
        weights = _overlaps(rows, ys) @ covered @ _overlaps(columns, xs).T
    if not weights.any():
        raise ImageError(
            "the network sees nothing of the region; take a region inside what the picture shows lit"
        )
    return np.clip(weights, 0, 1).astype(np.float32)


def _checked_box(box: Box, geometry: Geometry) -> Corners:
    """(x, y, w, h) as (left, top, right, bottom), cut to the photo."""
    x, y, w, h = box
    photo = (geometry.photo_width, geometry.photo_height)
    if not (np.isfinite(box).all() and w > 0 and h > 0):
        raise ImageError(f"the region {x:g},{y:g},{w:g},{h:g} is empty; give x,y,w,h with w and h above 0")
    if x >= photo[0] or y >= photo[1] or x + w <= 0 or y + h <= 0:
        raise ImageError(
            f"the region {x:g},{y:g},{w:g},{h:g} is off the photo, which is {photo[0]} wide "
            f"and {photo[1]} high"
        )
    return max(x, 0.0), max(y, 0.0), min(x + w, float(photo[0])), min(y + h, float(photo[1]))


def _drawn(boxes: Sequence[Box], geometry: Geometry) -> npt.NDArray[np.bool_]:
    """The boxes as a mask, to the nearest pixel."""
    drawn = np.zeros((geometry.photo_height, geometry.photo_width), bool)
    for box in boxes:
        left, top, right, bottom = (round(v) for v in _checked_box(box, geometry))
        drawn[top:bottom, left:right] = True
    return drawn


def _overlaps(cells: npt.NDArray[np.float64], pieces: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(cells, pieces): the share of each cell that lies on each piece of an axis of the photo.

    Both are given by their edges. What a cell has beyond the first or last piece counts as that piece.
    """
    low, high = cells[:-1, None], cells[1:, None]
    start, end = pieces[:-1].copy(), pieces[1:].copy()
    start[0], end[-1] = min(start[0], cells[0]), max(end[-1], cells[-1])
    shared = np.minimum(high, end) - np.maximum(low, start)
    return np.asarray(np.maximum(shared, 0) / (high - low), dtype=np.float32)


def load_mask(path: str | os.PathLike[str], *, max_pixels: int = Options.max_pixels) -> npt.NDArray[np.bool_]:
    """A region drawn as an image, light inside: (h, w), true where a channel has 128 or more.

    Raises:
        ImageError: as for ``load``, or nothing is light.
    """
    mask = load(path, max_pixels=max_pixels).pixels.max(axis=2) >= 128
    if not mask.any():
        raise ImageError(f"{os.fsdecode(path)}: the mask is dark everywhere; draw the region in white")
    return np.asarray(mask)
