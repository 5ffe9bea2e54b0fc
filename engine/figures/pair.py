"""The picture of a pair: both photos, both maps on one scale, and what one cell matches."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..options import Options
from ..results import Pair
from ..types import Pixels
from .draw import grid, stack
from .figure import Figure
from .panel import Panel

LEAST_SCORE = 0.05  # below it a share of the score says nothing
LEAST_SHARE = 0.5  # below it the map explains too little to rely on


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


@dataclass(frozen=True)
class PairFigure(Figure):
    """Two photos, then both under their maps on one scale, with score and legend.

    Attributes:
        pair: the images and where their score comes from.
        point: (y, x) of a cell on the first image's map; adds a row that shows this cell and what it
            matches in the second image.
        options: size and strength of what is drawn.
    """

    pair: Pair
    point: tuple[int, int] | None = None
    options: Options = field(default_factory=Options)

    def data(self) -> dict[str, Any]:
        """Score, residuals and maps; with a point, its cell and map.

        Raises:
            DecompositionError: the point is outside the map.
        """
        pair = self.pair
        report: dict[str, Any] = {
            "score": pair.score,
            "residuals": list(pair.residuals),
            "maps": [values.tolist() for values in pair.maps],
            "images": [
                {"path": photo.name, "height": photo.pixels.shape[0], "width": photo.pixels.shape[1]}
                for photo in pair.photos
            ],
        }
        if self.point is not None:
            report["point"] = {
                "cell": list(self.point),
                "map": pair.point(0, *self.point).tolist(),
            }
        return report

    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3).

        Raises:
            DecompositionError: the point is outside the map.
        """
        pair = self.pair
        photos, overlays = [], []
        for photo, embedded, values, rest in zip(
            pair.photos, pair.images, pair.maps, pair.residuals, strict=True
        ):
            total = float(values.sum())
            caption = caption_of(total, None if embedded.rest is None else rest, pair.score)
            photos.append(Panel(photo.pixels, None, embedded.geometry, title=Path(photo.name).name))
            overlays.append(Panel(photo.pixels, values, embedded.geometry, caption=caption))
        picture = grid(
            [photos, overlays],
            heading=f"cosine similarity {pair.score:.3f}",
            panel_height=self.options.panel_height,
            opacity=self.options.opacity,
        )
        return picture if self.point is None else stack([picture, self._point_row(*self.point)])

    def _point_row(self, y: int, x: int) -> Pixels:
        """A row of its own, since a point's map has a scale of its own."""
        pair = self.pair
        values = pair.point(0, y, x)
        here, there = pair.images
        box = here.geometry.cell_box(y, x, *here.parts.shape[:2])
        return grid(
            [
                [
                    Panel(pair.photos[0].pixels, None, here.geometry, caption=f"cell {y}, {x}", boxes=(box,)),
                    Panel(
                        pair.photos[1].pixels,
                        values,
                        there.geometry,
                        caption=f"the map sums to {values.sum():.4f}",
                    ),
                ]
            ],
            heading="what the marked cell of the first image matches in the second",
            panel_height=self.options.panel_height,
            opacity=self.options.opacity,
        )
