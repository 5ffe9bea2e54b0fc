"""The picture of searches: each query and what was found for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..decompose import View
from ..errors import ImageError
from ..images.decode import load
from ..images.geometry import Geometry
from ..index.search import Found, Hit, Match
from ..options import Options
from ..types import Array, Pixels
from .figure import Figure
from .grid import Row, grid
from .names import short_names
from .panel import Panel

COLUMNS = 6  # results side by side
DUPLICATE = 0.99  # a cosine from which on a result is the query again, whose map would wash out the others
ROUNDING = 1e-3  # between a map's sum and a score that an index has computed
GONE: Pixels = np.full((300, 300, 3), 225, np.uint8)


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

        Each search has the query, and for each result the query under its map against it above the result
        under its map against the query, or against the query's region. A result whose photo is gone is named.

        Raises:
            ImageError: a query can no longer be read.
        """
        names = short_names(
            [*(one.name for one in self.found), *(hit.path for one in self.found for hit in one.hits)]
        )
        several = len({one.weights is None for one in self.found}) > 1
        rows = []
        for one in self.found:
            whole = "of whole images" if several else ""
            scales = (whole, whole) if one.weights is None else ("of the region", "of results to the region")
            region = "" if one.weights is None else ", ranked by the region"
            for start in range(0, max(len(one.hits), 1), COLUMNS):
                stacks = self._stacks(one, slice(start, start + COLUMNS), names, scales)
                rows.append(Row(stacks, f"{names[one.name]}{region}" if start == 0 else ""))
        options = self.options
        columns = max([1, *(min(len(one.hits), COLUMNS) for one in self.found)])
        side = max(120, min(options.panel_height, 1800 // (columns + 1)))
        total = "the score" if all(map(_sums_to_score, self.found)) else "the map's sum"
        options = replace(options, panel_height=side)
        view: View = "influence" if any(one.view == "influence" for one in self.found) else "contribution"
        return grid(rows, options, heading=self.heading, total=total, view=view).pixels

    def _stacks(
        self, found: Found, part: slice, names: dict[str, str], scales: tuple[str, str]
    ) -> list[list[Panel]]:
        """The query, then a stack for each result."""
        stacks: list[list[Panel]] = []
        outlines = tuple((x, y, x + w, y + h) for x, y, w, h in found.boxes)
        photo = None
        if found.source is not None:
            photo = load(found.source, max_pixels=self.options.max_pixels)
            query = Panel(photo.pixels, None, found.geometry, title="query", boxes=outlines, mask=found.mask)
            stacks.append([query])
        matches = found.matches or (None,) * len(found.hits)
        for hit, match in zip(found.hits[part], matches[part], strict=True):
            title = f"{hit.rank}. {names[hit.path] if hit.label is None else hit.label}"
            score = f"cosine {hit.score:.3f}"
            if hit.region_score is not None:
                score = f"region {hit.region_score:.3f} of {hit.score:.3f}"
            pixels, values, geometry = self._result(hit, match)
            name = names[hit.path] if pixels is not None else f"the file is gone: {names[hit.path]}"
            shown = Panel(
                GONE if pixels is None else pixels,
                values,
                geometry,
                title=title if photo is None else "",
                caption=f"{score}, {name}" if photo is None else name,
                scale=scales[1],
                sets_scale=hit.score < DUPLICATE,
            )
            if photo is None:
                stacks.append([shown])
                continue
            asked = Panel(
                photo.pixels,
                None if match is None else match.query,
                found.geometry,
                title=title,
                caption=score,
                boxes=outlines,
                mask=found.mask,
                scale=scales[0],
                sets_scale=hit.score < DUPLICATE,
            )
            stacks.append([asked, shown])
        return stacks

    def _result(self, hit: Hit, match: Match | None) -> tuple[Pixels | None, Array | None, Geometry | None]:
        """Pixels, map and geometry of a hit; None where its photo cannot be read any more."""
        try:
            pixels = load(hit.path, max_pixels=self.options.max_pixels).pixels
        except ImageError:
            return None, None, None
        return (pixels, None, None) if match is None else (pixels, match.hit.map, match.hit.geometry)


def _sums_to_score(found: Found) -> bool:
    """Whether the maps' sums are cosines: neither those of a region nor less what a bias gives."""
    pairs = zip(found.hits, found.matches or (), strict=False)
    return all(
        abs(float(match.hit.map.sum()) - hit.score) < ROUNDING for hit, match in pairs if match is not None
    )


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
