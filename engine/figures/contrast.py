"""The picture of one query under several models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.contrast import Contrast
from ..images.decode import load
from ..options import Options
from ..types import Pixels
from .draw import grid
from .figure import Figure
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
        rows, titles, kinds = [], [], []
        for row in self.contrast.rows:
            panels = []
            for candidate in row.candidates:
                other = load(candidate.source, max_pixels=options.max_pixels)
                name = Path(candidate.image.path).name
                if candidate.label is not None:
                    name = f"{candidate.label}/{name}"
                score = f"cosine {candidate.score:.3f}"
                panels.append(Panel(photo.pixels, candidate.maps[0], row.query.geometry, title="query"))
                panels.append(
                    Panel(
                        other.pixels, candidate.maps[1], candidate.image.geometry, title=name, caption=score
                    )
                )
            facts = []
            if row.recall_at_1 is not None:
                facts.append(f"recall@1 {row.recall_at_1:.3f}")
            if row.correlation is not None:
                facts.append(f"maps correlate {row.correlation:.3f} with the row above")
            rows.append(panels)
            titles.append(": ".join([row.name, ", ".join(facts)] if facts else [row.name]))
            height, width = row.query.parts.shape[:2]
            kinds.append(f"{row.pooling} pooling, {height} x {width} cells")
        side = max(120, min(options.panel_height, 1800 // max(len(rows[0]), 1)))
        return grid(
            rows,
            heading=f"query {Path(photo.name).name}",
            panel_height=side,
            opacity=options.opacity,
            row_titles=titles,
            row_scales=kinds if len(set(kinds)) > 1 else (),
        )
