"""Lines that are visible on any ground: a light one beside or inside a dark one."""

import cv2
import numpy as np
import numpy.typing as npt

from ..types import Pixels

LIGHT, DARK = (255, 255, 255), (25, 25, 28)
DASH, HOLE = 7.0, 5.0  # of a dashed line, in its widths
FRACTION = 4  # bits of a pixel's place that OpenCV gets

Points = npt.NDArray[np.float64]


def draw_frame(picture: Pixels, rectangle: tuple[int, int, int, int], thickness: int) -> None:
    """A light frame along (left, top, right, bottom) with a dark one inside it."""
    left, top, right, bottom = rectangle
    for colour in (LIGHT, DARK):
        # Nested frames one pixel wide: a wider cv2.rectangle would reach outside the rectangle.
        for _ in range(thickness):
            if right <= left or bottom <= top:
                return
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 1)
            left, top, right, bottom = left + 1, top + 1, right - 1, bottom - 1


def outline_region(picture: Pixels, inside: npt.NDArray[np.bool_], thickness: int) -> None:
    """As ``draw_frame``, along the inner edge of a region (h, w) of the picture."""
    kernel = np.ones((3, 3), np.uint8)
    for colour in (LIGHT, DARK):
        rest = cv2.erode(
            inside.astype(np.uint8),
            kernel,
            iterations=thickness,
            borderType=cv2.BORDER_CONSTANT,
            borderValue=(0.0,),
        ).astype(bool)
        picture[inside & ~rest] = colour
        inside = rest


def draw_lines(
    picture: Pixels, lines: list[Points], width: float, *, closed: bool = True, dashed: bool = False
) -> None:
    """Light lines with dark edges through points (n, 2) as (x, y), where a pixel's middle is at + 0.5."""
    if dashed:
        lines, closed = [dash for line in lines for dash in _dashes(line, width, closed=closed)], False
    places = [np.rint((line - 0.5) * (1 << FRACTION)).astype(np.int32) for line in lines]
    core = max(1, round(width))
    for colour, thickness in ((DARK, core + max(1, round(width / 2))), (LIGHT, core)):
        cv2.polylines(picture, places, closed, colour, thickness, cv2.LINE_AA, FRACTION)


def _dashes(line: Points, width: float, *, closed: bool) -> list[Points]:
    points = np.concatenate([line, line[:1]]) if closed else line
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    count = max(1, round(along[-1] / ((DASH + HOLE) * width)))
    period = along[-1] / count
    dashes = []
    for start in np.arange(count) * period:
        end = start + period * DASH / (DASH + HOLE)
        at = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        dashes.append(np.stack([np.interp(at, along, axis) for axis in points.T], axis=-1))
    return dashes
