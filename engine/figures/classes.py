"""The picture of a class: its images, the most typical first, each under its mean map."""

from dataclasses import dataclass, field, replace
from typing import Any

from ..analysis.classes import ClassMaps
from ..images.decode import load
from ..options import Options
from ..types import Pixels
from .figure import Figure
from .grid import Row, grid
from .names import short_names
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
        """What the maps show; path, cohesion and map of each image, the most typical first."""
        maps = self.maps
        return {
            "view": maps.view,
            "images": [
                {
                    "path": maps.images[i].path,
                    "cohesion": maps.cohesion[i],
                    "map": maps.maps[i].tolist(),
                }
                for i in maps.order()
            ],
        }

    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3).

        Raises:
            ImageError: a photo can no longer be read.
        """
        maps, options, heading = self.maps, self.options, self.heading
        if len(maps.images) > SHOWN:
            heading = f"{heading} ({SHOWN} most typical of {len(maps.images)})".strip()
        names = short_names(image.path for image in maps.images)
        stacks = []
        for i in maps.order()[:SHOWN]:
            photo, image = load(maps.sources[i], max_pixels=options.max_pixels), maps.images[i]
            caption = f"cohesion {maps.cohesion[i]:.3f}"
            title = names[image.path]
            stacks.append([Panel(photo.pixels, maps.maps[i], image.geometry, title=title, caption=caption)])
        columns = min(COLUMNS, max(2, round(len(stacks) ** 0.5)))
        rows = [Row(stacks[i : i + columns]) for i in range(0, len(stacks), columns)]
        options = replace(options, panel_height=max(120, min(options.panel_height, 1600 // columns)))
        return grid(rows, options, heading=heading, total="the map's sum", view=maps.view).pixels
