"""The picture of searches: each query and what was found for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from ..images.decode import load
from ..index.search import Found, Hit, Match
from ..options import Options
from ..types import Pixels
from .draw import grid
from .figure import Figure
from .panel import Panel

COLUMNS = 6  # results side by side


@dataclass(frozen=True)
class SearchFigure(Figure):
    """Queries and their results, each with its score and, where there is one, its map (figures 1 and 9).

    Whole images share one scale. A region's few cells outshine the results', which all count: so the maps
    of the region and those of its results have scales of their own, with the same sum.

    Attributes:
        found: the searches; ``index.explain`` gives them maps.
        heading: above the picture.
        options: size and strength of what is drawn.
    """

    found: Sequence[Found]
    heading: str = ""
    options: Options = field(default_factory=Options)

    def data(self) -> dict[str, Any]:
        """The ranked results of each query."""
        return {"queries": [_data(one) for one in self.found]}

    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3).

        Each search has the query under its map against each result, and below the results under theirs
        against the query, or against its region. A result whose photo is gone is said to be.

        Raises:
            ImageError: a query can no longer be read.
        """
        columns = max([1, *(min(len(one.hits), COLUMNS) for one in self.found)])
        rows: list[list[Panel]] = []
        titles: list[str] = []
        scales: list[str] = []
        several = len({one.weights is None for one in self.found}) > 1
        for one in self.found:
            for start in range(0, max(len(one.hits), 1), COLUMNS):
                above, below = self._block(one, slice(start, start + COLUMNS))
                rows += [above, below] if above else [below]
                region = "" if one.weights is None else ", ranked by the region"
                titles += [f"{Path(one.name).name}{region}" if start == 0 else "", ""][: 2 if above else 1]
                whole = "of whole images" if several else ""
                names = (
                    [whole, whole] if one.weights is None else ["of the region", "of results to the region"]
                )
                scales += names if above else names[1:]
        options = self.options
        side = max(120, min(options.panel_height, 1800 // (columns + 1)))
        return grid(
            rows,
            heading=self.heading,
            panel_height=side,
            opacity=options.opacity,
            row_titles=titles,
            row_scales=scales,
        )

    def _block(self, found: Found, part: slice) -> tuple[list[Panel], list[Panel]]:
        """The query's panels and the results' panels, column by column."""
        above: list[Panel] = []
        below: list[Panel] = []
        outlines = tuple((x, y, x + w, y + h) for x, y, w, h in found.boxes)
        photo = None
        if found.source is not None:
            photo = load(found.source, max_pixels=self.options.max_pixels)
            above.append(Panel(photo.pixels, None, found.geometry, title="query", boxes=outlines))
            below.append(Panel(np.full_like(photo.pixels, 255)))
        matches = found.matches or (None,) * len(found.hits)
        for hit, match in zip(found.hits[part], matches[part], strict=True):
            title = f"{hit.rank}. {hit.label or Path(hit.path).name}"
            score = f"cosine {hit.score:.3f}"
            if hit.region_score is not None:
                score = f"region {hit.region_score:.3f} of {hit.score:.3f}"
            shown = self._result(hit, match)
            if shown is None:
                blank = np.full((300, 300, 3), 225, np.uint8)
                if photo is not None:
                    above.append(Panel(blank, title=title, caption=score))
                below.append(Panel(blank, title="the file is gone", caption=Path(hit.path).name))
                continue
            if photo is None:
                below.append(Panel(*shown, title=title, caption=score))
                continue
            asked = None if match is None else match.query
            above.append(
                Panel(photo.pixels, asked, found.geometry, title=title, caption=score, boxes=outlines)
            )
            below.append(Panel(*shown, caption=Path(hit.path).name))
        return above, below

    def _result(self, hit: Hit, match: Match | None) -> tuple[Any, Any, Any] | None:
        """Pixels, map and geometry of a hit; None where its photo cannot be read any more."""
        try:
            pixels = load(hit.path, max_pixels=self.options.max_pixels).pixels
        except ImageError:
            return None
        return (pixels, None, None) if match is None else (pixels, match.hit.map, match.hit.geometry)


def _data(found: Found) -> dict[str, Any]:
    region = None
    if found.weights is not None:
        region = {"boxes": [list(box) for box in found.boxes], "weights": found.weights.tolist()}
    results = []
    for hit in found.hits:
        result = {"rank": hit.rank, "path": hit.path, "label": hit.label, "score": hit.score}
        if hit.region_score is not None:
            result["region_score"] = hit.region_score
        results.append(result)
    return {"query": found.name, "region": region, "results": results}
