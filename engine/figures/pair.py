"""The picture of a pair: both photos, both maps on one scale, and what one cell matches."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..decompose import View as MapView
from ..images.region import region_weights
from ..options import Options
from ..results import Pair
from ..types import Array, Box, Corners, Pixels
from .figure import Figure
from .grid import Rectangle, Row, grid, stack_pictures
from .layout import READ_AT
from .links import Link, draw_links
from .names import short_names
from .panel import Panel, View
from .text import MINUS

MATCHES = 5  # of a cell, that are drawn
LEAST_SCORE = 0.05  # below it a share of the score says nothing
LEAST_SHARE = 0.5  # below it the map explains too little to rely on


@dataclass(frozen=True)
class PairFigure(Figure):
    """Two photos, then both under their maps on one scale, with score and legend.

    Attributes:
        pair: the images and where their score comes from.
        point: (y, x) of a cell on the first image's map, from 0; adds a row that shows this cell, what it
            matches in the second image, and lines to its best matches. The picture counts rows and columns
            from 1.
        options: size and strength of what is drawn.
        view: what the maps of the picture show: contributions to the score, or which places raise and which
            lower it. A point's row always shows contributions.
        boxes: (x, y, w, h) in pixels of the first photo, a region whose contribution and influence are
            reported, and which the picture outlines.
    """

    pair: Pair
    point: tuple[int, int] | None = None
    options: Options = field(default_factory=Options)
    view: MapView = "contribution"
    boxes: tuple[Box, ...] = ()

    def data(self) -> dict[str, Any]:
        """Score, residuals, maps and influence.

        With a point, its cell, its map and its best matches, as [y, x] from 0. With boxes, the sums of the
        first image's map (``contribution``) and of its influence over their union.

        Raises:
            DecompositionError: the point is outside the map.
            ImageError: a box is off the photo, or the network sees nothing of it.
        """
        pair = self.pair
        report: dict[str, Any] = {
            "score": pair.score,
            "residuals": list(pair.residuals),
            "maps": [values.tolist() for values in pair.maps],
            "influence": [values.tolist() for values in pair.influence],
            "images": [
                {"path": photo.name, "height": photo.pixels.shape[0], "width": photo.pixels.shape[1]}
                for photo in pair.photos
            ],
        }
        if self.point is not None:
            report["point"] = {
                "cell": list(self.point),
                "map": pair.point(0, *self.point).tolist(),
                "matches": [list(cell) for cell in self._matches(*self.point)],
            }
        if self.boxes:
            here = pair.images[0]
            weights = region_weights(here.geometry, *here.parts.shape[:2], boxes=self.boxes)
            report["region"] = {
                "boxes": [list(box) for box in self.boxes],
                "contribution": float((weights * pair.maps[0]).sum()),
                "influence": float((weights * pair.influence[0]).sum()),
            }
        return report

    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3).

        Raises:
            DecompositionError: the point is outside the map.
        """
        pair = self.pair
        names = short_names(photo.name for photo in pair.photos)
        maps = pair.maps if self.view == "contribution" else pair.influence
        outlines = tuple((x, y, x + w, y + h) for x, y, w, h in self.boxes)
        stacks = []
        for at, (photo, image, values) in enumerate(zip(pair.photos, pair.images, maps, strict=True)):
            boxes = outlines if at == 0 else ()
            caption = self._contribution(at) if self.view == "contribution" else _influence(values)
            plain = Panel(photo.pixels, None, image.geometry, title=names[photo.name], boxes=boxes)
            stacks.append([plain, Panel(photo.pixels, values, image.geometry, caption=caption, boxes=boxes)])
        total = "the score" if pair.images[0].rest is None else "the map's sum"
        heading = f"cosine similarity {pair.score:.3f}"
        picture = grid([Row(stacks)], self.options, heading=heading, total=total, view=self.view).pixels
        return picture if self.point is None else stack_pictures([picture, self._point_picture(*self.point)])

    def _contribution(self, at: int) -> str:
        """The caption of a map: what it sums to, and what no place owns."""
        pair = self.pair
        residual = None if pair.images[at].rest is None else pair.residuals[at]
        return caption_of(float(pair.maps[at].sum()), residual, pair.score)

    def _matches(self, y: int, x: int) -> list[tuple[int, int]]:
        """The cells of the second image that cell (y, x) of the first matches best, best first."""
        values = self.pair.point(0, y, x)
        order = np.argsort(-values, axis=None, kind="stable")[:MATCHES]
        cells = [divmod(int(at), values.shape[1]) for at in order]
        return [cell for cell in cells if values[cell] > 0]

    def _point_picture(self, y: int, x: int) -> Pixels:
        """The cell, its map on the other image and its best matches, on a scale of its own."""
        pair = self.pair
        values = pair.point(0, y, x)
        here, there = pair.images
        box = here.geometry.cell_box(y, x, *here.parts.shape[:2])
        cell = Panel(
            pair.photos[0].pixels, None, here.geometry, caption=f"row {y + 1}, column {x + 1}", boxes=(box,)
        )
        caption = f"the map sums to {values.sum():.4f}"
        matched = Panel(
            pair.photos[1].pixels, values, there.geometry, caption=caption, scale="with the marked cell"
        )
        # A contribution of a pair of cells: a scale for contributions of cells does not fit.
        drawn = grid(
            [Row([[cell], [matched]])],
            replace(self.options, scale=None),
            heading="what the marked cell of the first image matches in the second",
            total="the map's sum",
        )
        best = self._matches(y, x)
        boxes = [there.geometry.cell_box(*match, *values.shape) for match in best]
        start = _middle(cell, drawn.places[0], box)
        draw_links(
            drawn.pixels,
            [
                Link(start, _middle(matched, drawn.places[1], end), float(values[match] / values[best[0]]))
                for match, end in zip(best, boxes, strict=True)
            ],
            drawn.pixels.shape[1] / READ_AT,
        )
        return drawn.pixels


def _middle(panel: Panel, place: Rectangle, box: Corners) -> tuple[float, float]:
    """Of a box on the panel's photo, in the picture that has the panel at ``place``."""
    left, top, right, bottom = place
    view = View(panel.canvas, bottom - top, right - left)
    x, y = view.point((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return left + x, top + y


def _influence(values: Array) -> str:
    """The caption of an influence map."""
    up, down = values[values > 0].sum(), values[values < 0].sum()
    return f"raise the score: {up:+.3f}, lower it: {down:+.3f}".replace("-", MINUS)


def caption_of(total: float, residual: float | None, score: float) -> str:
    """What stands under a map: its sum, and where there is a residual its share of the score."""
    caption = f"the map sums to {total:.3f}"
    if residual is None:
        return caption
    if abs(score) < LEAST_SCORE:
        share = "the score is near 0"
    else:
        share = f"{'only ' if total / score < LEAST_SHARE else ''}{total / score:.0%} of the score"
    return f"{caption} ({share}), no place owns {residual:.3f}"
