"""Lines around the fewest places that make a share of a score.

The lines follow the borders of cells, with rounded corners: the score is a sum over cells, so a line
encloses exactly those that count. A level line of the upscaled map would be smoother, but it cuts through
cells and cannot separate equal values.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..decompose import fewest_places
from ..types import Corners, Pixels
from .lines import Points, draw_lines

SHARES = (0.8, 0.5)  # of the positive part: the larger set below the smaller one, whose line is whole
WIDTH = {0.8: 0.8, 0.5: 1.1}  # in the unit of the picture
ROUNDING = 0.3  # of a cell's shorter side

Corner = tuple[int, int]
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (x, y) to the right, down, left, up


def draw_contours(picture: Pixels, values: npt.NDArray[Any], field: Corners, unit: float) -> None:
    """Draw the contours of a map (H, W) whose cells divide the rectangle ``field`` of the picture evenly."""
    height, width = values.shape
    x0, y0, x1, y1 = field
    cell = np.array([(x1 - x0) / width, (y1 - y0) / height])
    for share in SHARES:
        line_width = max(1.0, WIDTH[share] * unit)
        inset = math.floor(1.5 * line_width) + 0.5  # so that a line along the picture's edge stays inside
        low, high = np.array([x0, y0]) + inset, np.array([x1, y1]) - inset
        lines = []
        for loop in cell_outlines(fewest_places(values, share)):
            # On the middles of pixels, where a thin line is sharp.
            corners = np.floor(np.array([x0, y0]) + np.array(loop) * cell) + 0.5
            lines.append(_rounded(np.clip(corners, low, np.maximum(low, high)), ROUNDING * cell.min()))
        draw_lines(picture, lines, line_width, dashed=share != 0.5)


def cell_outlines(inside: npt.NDArray[np.bool_]) -> list[list[Corner]]:
    """The borders of a set of cells (H, W), as closed loops of corners (x, y) between cells.

    Outer borders run clockwise, those of holes counterclockwise; cells that touch at a corner only have
    loops of their own.
    """
    padded = np.pad(inside, 1)
    # A side is its start and direction, with the cell on its right.
    sides: set[tuple[Corner, int]] = set()
    for y, x in np.argwhere(inside).tolist():
        for direction, (start, beyond) in enumerate(
            (
                ((x, y), (y, x + 1)),
                ((x + 1, y), (y + 1, x + 2)),
                ((x + 1, y + 1), (y + 2, x + 1)),
                ((x, y + 1), (y + 1, x)),
            )
        ):
            if not padded[beyond]:
                sides.add((start, direction))
    seen: set[tuple[Corner, int]] = set()
    loops = []
    for first in sorted(sides):
        if first in seen:
            continue
        loop: list[Corner] = []
        side = first
        while side not in seen:
            seen.add(side)
            (x, y), direction = side
            end = x + STEPS[direction][0], y + STEPS[direction][1]
            # To the right first: where two cells touch at a corner, that stays with the same cell.
            turns = ((end, (direction + turn) % 4) for turn in (1, 0, 3))
            side = next(turn for turn in turns if turn in sides)
            if side[1] != direction:
                loop.append(end)
        loops.append(loop)
    return loops


def _rounded(corners: Points, radius: float) -> Points:
    """A closed polygon (n, 2) with arcs in place of its corners."""
    points: list[Points] = []
    steps: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    for before, here, end in zip(
        np.roll(corners, 1, axis=0), corners, np.roll(corners, -1, axis=0), strict=True
    ):
        # On a panel a few pixels wide a side may have no length.
        start, stop = (
            here + side * min(radius / max(np.abs(side).sum(), 1e-9), 0.5)
            for side in (before - here, end - here)
        )
        points += [(1 - t) ** 2 * start + 2 * t * (1 - t) * here + t**2 * stop for t in steps]
    return np.array(points)
