"""One photo of a picture, plain or under its map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DecompositionError
from ..images.geometry import Geometry
from ..images.resize import resize
from ..options import Options
from ..types import Corners, Pixels
from .contours import draw_contours
from .heat import apply_heat
from .lines import draw_frame, outline_region
from .scale import check_map, check_scale

PADDING = (205, 205, 208)
DIMMED = 0.4  # of the light outside what the network saw
WIDEST, NARROWEST = 2.2, 0.55  # a panel's width over its height, and a column's over that of its panels
OUTLINE = 1.8  # of an outline's light and dark line each, in the unit of the picture
THINNEST = 1 / 15  # of a side over panel_height: a photo of 1 x 1000 pixels is drawn as a band, not a hair


@dataclass(frozen=True, eq=False)
class Panel:
    """One photo of a picture, plain or under its map.

    Attributes:
        pixels: uint8 (h, w, 3) RGB, the original photo.
        map: (H, W) contributions, or None for the plain photo.
        geometry: where the network's input lies on the photo; needed with a map. A plain photo that has
            one is drawn as large as with a map, padding included.
        title: a line above the photo, shortened in the middle if it is too long.
        caption: text below it; on one line, likewise, where another panel stands below.
        boxes: (x0, y0, x1, y1) in photo pixels, drawn as outlines; what lies outside the photo shows on
            padding.
        mask: bool (h, w), a region of the photo, drawn as an outline; None for none.
        scale: the name of the scale of the map's colours; panels of a picture that name the same share it.
        sets_scale: whether the map counts for the default of its scale; larger values get its last colour.

    Raises:
        DecompositionError: a wrong type or shape, NaN or infinity, a map without a geometry, or the
            geometry of another photo.
    """

    pixels: Pixels
    map: npt.NDArray[np.floating[Any]] | None = None
    geometry: Geometry | None = None
    title: str = ""
    caption: str = ""
    boxes: tuple[Corners, ...] = ()
    mask: npt.NDArray[np.bool_] | None = None
    scale: str = ""
    sets_scale: bool = True

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise DecompositionError(
                f"a panel's pixels are {self.pixels.dtype} {shape}, must be uint8 (h, w, 3) and not empty"
            )
        if self.map is not None:
            check_map(self.map)
            if self.geometry is None:
                raise DecompositionError("a panel with a map has no geometry; give that of its photo")
        if self.geometry is not None:
            expected = (self.geometry.photo_height, self.geometry.photo_width)
            if expected != shape[:2]:
                raise DecompositionError(
                    f"a panel's pixels have shape {shape}, must be {(*expected, 3)} as its geometry says"
                )
            _check_box("the field of a geometry", self.geometry.field)
        for box in self.boxes:
            _check_box("a box", box)
        if self.mask is not None and self.mask.shape != shape[:2]:
            raise DecompositionError(
                f"a panel's mask has shape {self.mask.shape}, must be {shape[:2]} as its pixels"
            )

    @property
    def canvas(self) -> Corners:
        """(x0, y0, x1, y1) in photo pixels: the photo, all that the network saw, and the boxes."""
        height, width = self.pixels.shape[:2]
        fields = () if self.geometry is None else (self.geometry.field,)
        x0, y0, x1, y1 = zip((0.0, 0.0, float(width), float(height)), *fields, *self.boxes, strict=True)
        return min(x0), min(y0), max(x1), max(y1)


def overlay(
    panel: Panel,
    *,
    scale: float,
    height: int,
    width: int | None = None,
    opacity: float = Options.opacity,
    contours: bool = True,
    unit: float = 1.0,
) -> Pixels:
    """The photo under its map, at the size of the picture.

    Args:
        panel: the photo and its map.
        scale: the contribution that gets the full colour; larger ones get it too.
        height, width: pixels of the result, which shows ``panel.canvas``; without a width, the size that
            the panel has in a grid of that ``panel_height``: in the canvas's shape, lower for a panorama.
        opacity: how much of the photo's contrast the heat covers at full scale, in (0, 1].
        contours: draw lines around the fewest places that make half and 80 % of the map's positive part.
        unit: of the widths of lines: the picture's width over 1000 pixels.

    Returns:
        uint8 RGB (height, width, 3). Outside what the network saw the photo is dimmed; padding that the
        network saw outside the photo is flat under the heat; borders inside the picture are outlined.

    Raises:
        DecompositionError: the scale is not a positive number.
        ConfigError: an invalid size or opacity.
    """
    check_scale(scale)
    if not 0 < opacity <= 1:
        raise ConfigError(f"opacity is {opacity}, must be above 0 and at most 1")
    _check_side(height, "height")
    if width is None:
        height, width = panel_size(panel, height)
    _check_side(width, "width")
    view = View(panel.canvas, height, width)
    whole = (0, 0, width, height)
    photo_height, photo_width = panel.pixels.shape[:2]
    photo = left, top, right, bottom = view.rectangle((0, 0, photo_width, photo_height))
    picture = np.empty((height, width, 3), np.uint8)
    if photo != whole:
        picture[:] = PADDING
    picture[top:bottom, left:right] = resize(
        panel.pixels, bottom - top, right - left, cv2.INTER_AREA, grow=cv2.INTER_LINEAR
    )
    if panel.map is not None and panel.geometry is not None:
        field = x0, y0, x1, y1 = view.rectangle(panel.geometry.field)
        shares = np.asarray(panel.map / scale, np.float32)
        values = cv2.resize(shares, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        heated = apply_heat(picture[y0:y1, x0:x1], np.asarray(values, np.float32), opacity)
        if field != whole:
            picture = np.rint(picture * np.float32(DIMMED)).astype(np.uint8)
        picture[y0:y1, x0:x1] = heated
        if field != whole:
            draw_frame(picture, field, 1)
        if photo not in (whole, field):
            draw_frame(picture, photo, 1)
        if contours:
            draw_contours(picture, panel.map, field, unit)
    thickness = max(2, round(OUTLINE * unit))
    for box in panel.boxes:
        draw_frame(picture, view.rectangle(box), thickness)
    if panel.mask is not None:
        white = panel.mask.astype(np.uint8) * 255
        inside = resize(white, bottom - top, right - left, cv2.INTER_AREA, grow=cv2.INTER_LINEAR) >= 128
        outline_region(picture[top:bottom, left:right], inside, thickness)
    return picture


def _check_box(what: str, box: Sequence[float]) -> None:
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise DecompositionError(f"{what} is {tuple(box)}, must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1")


def _check_side(side: int, name: str) -> None:
    if side < 1:
        raise ConfigError(f"{name} is {side}, must be at least 1 pixel")


class View:
    """From photo pixels to the pixels of a panel."""

    def __init__(self, canvas: Corners, height: int, width: int) -> None:
        self.x0, self.y0, x1, y1 = canvas
        self.height, self.width = height, width
        self.scale_x, self.scale_y = width / (x1 - self.x0), height / (y1 - self.y0)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """(x, y) in the panel of a place on the photo."""
        return (x - self.x0) * self.scale_x, (y - self.y0) * self.scale_y

    def rectangle(self, box: Corners) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of at least one pixel, inside the panel."""
        left = min(max(round((box[0] - self.x0) * self.scale_x), 0), self.width - 1)
        top = min(max(round((box[1] - self.y0) * self.scale_y), 0), self.height - 1)
        right = min(max(round((box[2] - self.x0) * self.scale_x), left + 1), self.width)
        bottom = min(max(round((box[3] - self.y0) * self.scale_y), top + 1), self.height)
        return left, top, right, bottom


def panel_size(panel: Panel, panel_height: int) -> tuple[int, int]:
    """Height and width of a panel alone: the canvas's shape within ``WIDEST`` and ``THINNEST``."""
    ((size,), _) = stack_sizes([panel], panel_height)
    return size


def stack_sizes(panels: Sequence[Panel], panel_height: int) -> tuple[list[tuple[int, int]], int]:
    """Height and width of panels of one width above one another, and that width.

    Their heights add up to ``panel_height`` for each, so that stacks of equally many panels are equally
    high, whatever the photos' shapes. Photos wider than ``WIDEST`` times their height make the stack lower
    instead; photos narrower than ``NARROWEST`` times their height leave some of the width free.
    """
    aspects = [(x1 - x0) / (y1 - y0) for x0, y0, x1, y1 in (panel.canvas for panel in panels)]
    bounded = [min(max(aspect, NARROWEST), WIDEST) for aspect in aspects]
    width = panel_height * len(panels) / sum(1 / aspect for aspect in bounded)
    least = max(round(THINNEST * panel_height), 1)
    sizes = []
    for aspect in aspects:
        height = width / max(aspect, NARROWEST)
        sizes.append((max(round(height), least), max(round(min(width, height * aspect)), least)))
    return sizes, max(round(width), least)
