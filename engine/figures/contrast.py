"""The picture of one query under several models."""

from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from ..analysis.contrast import Contrast
from ..images.decode import load
from ..options import Options
from ..types import Pixels
from .figure import Figure
from .grid import Row, grid
from .names import short_names
from .panel import Panel


@dataclass(frozen=True)
class ContrastFigure(Figure):
    """A row a model: the query and each candidate under their maps, the numbers with them.

    Rows of one pooling and one number of cells share a scale, so that magnitudes compare; a maximum's
    few places would outshine an average's many.

    Attributes:
        contrast: the query and its candidates under each model.
        options: size and strength of what is drawn.
    """

    contrast: Contrast
    options: Options = field(default_factory=Options)

    def data(self) -> dict[str, Any]:
        """The query, and each model's scores, maps and figures."""
        return {
            "query": self.contrast.photo.name,
            "view": self.contrast.view,
            "rows": [
                {
                    "name": row.name,
                    "model": row.model,
                    "fingerprint": row.fingerprint,
                    "recall_at_1": row.recall_at_1,
                    "correlation": row.correlation,
                    "candidates": [
                        {
                            "path": one.image.path,
                            "label": one.label,
                            "score": one.score,
                            "maps": [values.tolist() for values in one.maps],
                        }
                        for one in row.candidates
                    ],
                }
                for row in self.contrast.rows
            ],
        }

    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3).

        Raises:
            ImageError: a photo can no longer be read.
        """
        photo, options = self.contrast.photo, self.options
        results = self.contrast.rows
        names = short_names([photo.name, *(one.image.path for row in results for one in row.candidates)])
        kinds = [
            f"{row.pooling} pooling, {row.query.parts.shape[0]} x {row.query.parts.shape[1]} cells"
            for row in results
        ]
        rows = []
        for row, kind in zip(results, kinds, strict=True):
            scale = kind if len(set(kinds)) > 1 else ""
            stacks = []
            for one in row.candidates:
                other = load(one.source, max_pixels=options.max_pixels)
                name = names[one.image.path]
                # The label is the folder, unless a file of labels says otherwise.
                if one.label is not None and one.label not in PurePath(name).parts:
                    name = f"{one.label}: {name}"
                score = f"cosine {one.score:.3f}"
                query, values = row.query.geometry, one.maps
                stacks.append([Panel(photo.pixels, values[0], query, title="query", scale=scale)])
                candidate = Panel(
                    other.pixels, values[1], one.image.geometry, title=name, caption=score, scale=scale
                )
                stacks.append([candidate])
            facts = []
            if row.recall_at_1 is not None:
                facts.append(f"recall@1 {row.recall_at_1:.3f}")
            if row.correlation is not None:
                facts.append(f"maps correlate {row.correlation:.3f} with the row above")
            rows.append(Row(stacks, ": ".join([row.name, ", ".join(facts)] if facts else [row.name])))
        options = replace(
            options, panel_height=max(120, min(options.panel_height, 1800 // max(len(rows[0].stacks), 1)))
        )
        total = "the score" if all(row.query.rest is None for row in results) else "the map's sum"
        heading = f"query {names[photo.name]}"
        return grid(rows, options, heading=heading, total=total, view=self.contrast.view).pixels
