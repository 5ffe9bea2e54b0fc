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
            caption = f"the map sums to {values.sum():.3f}"
            if embedded.rest is not None:
                caption += f"{_share(values.sum(), pair.score)}, no place owns {rest:.3f}"
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


_LEAST_SCORE = 0.05  # below it a share of the score says nothing
_LEAST_SHARE = 0.5


def _share(total: float, score: float) -> str:
    """Which share of the score a map carries, as its caption says it; a small one is a warning."""
    if abs(score) < _LEAST_SCORE:
        return " (the score is near 0)"
    share = total / score
    return f" ({share:.0%} of the score)" if share >= _LEAST_SHARE else f" (only {share:.0%} of the score)"
