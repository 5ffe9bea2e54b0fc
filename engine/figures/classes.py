"""The picture of a class: its images, the most typical first, each under its mean map."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.classes import ClassMaps
from ..images.decode import load
from ..options import Options
from ..types import Pixels
from .draw import grid
from .figure import Figure
from .panel import Panel

COLUMNS, SHOWN = 6, 60  # of a grid of class maps: its columns, and the images that it shows at most


@dataclass(frozen=True)
class ClassFigure(Figure):
    """The members of a class under their maps on one scale, the most typical first.

    Attributes:
        maps: of the members.
        heading: above the picture; of a class of more than ``SHOWN`` it also says how many are shown.
        options: size and strength of what is drawn.
    """

    maps: ClassMaps
    heading: str = ""
    options: Options = field(default_factory=Options)

    def data(self) -> dict[str, Any]:
        """Path, cohesion and map of each image, the most typical first."""
        maps = self.maps
        return {
            "images": [
                {
                    "path": maps.images[i].path,
                    "cohesion": maps.cohesion[i],
                    "map": maps.maps[i].tolist(),
                }
                for i in maps.order()
            ]
        }

    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3).

        Raises:
            ImageError: a photo can no longer be read.
        """
        maps, options, heading = self.maps, self.options, self.heading
        if len(maps.images) > SHOWN:
            heading = f"{heading} ({SHOWN} most typical of {len(maps.images)})".strip()
        panels = []
        for i in maps.order()[:SHOWN]:
            photo, image = load(maps.sources[i], max_pixels=options.max_pixels), maps.images[i]
            caption = f"cohesion {maps.cohesion[i]:.3f}"
            title = Path(image.path).name
            panels.append(Panel(photo.pixels, maps.maps[i], image.geometry, title=title, caption=caption))
        columns = min(COLUMNS, max(2, round(len(panels) ** 0.5)))
        rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
        side = max(120, min(options.panel_height, 1600 // columns))
        return grid(rows, heading=heading, panel_height=side, opacity=options.opacity)
