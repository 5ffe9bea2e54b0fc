"""Class maps and comparisons of models: the data, and the pictures made of it.

Class maps are section 4.5 and figure 8 of arXiv 1901.00536, comparisons of checkpoints, training runs
and poolings its figures 5, 6 and 7.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine import decompose, render
from simmap.engine.decompose import Array
from simmap.engine.errors import ConfigError
from simmap.engine.evaluate import map_correlation, retrieval
from simmap.engine.image import Photo, Source
from simmap.engine.pipeline import Embedded, Engine, Vector
from simmap.engine.render import Panel

COLUMNS, SHOWN = 6, 60  # of a grid of class maps: its columns, and the images that it shows at most


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """What the images of a class have in common.

    Attributes:
        images: the members.
        maps: (H, W) of each: the mean of its maps with the other members (their sum over n - 1, so that
            classes of different sizes compare), less, where there is one, its mean map with the outside.
        cohesion: mean cosine of each member with the others, less that with the outside.
        engine: that made them.
        sources: the members' photos.
    """

    images: tuple[Vector, ...]
    maps: tuple[Array, ...]
    cohesion: tuple[float, ...]
    engine: Engine
    sources: tuple[Source, ...]

    def order(self) -> list[int]:
        """The members, the most typical first."""
        return sorted(range(len(self.images)), key=lambda i: -self.cohesion[i])

    def report(self) -> dict[str, Any]:
        """What ``simmap class --json`` prints of it, the most typical image first."""
        return {
            "images": [
                {
                    "path": self.images[i].path,
                    "cohesion": self.cohesion[i],
                    "map": self.maps[i].tolist(),
                }
                for i in self.order()
            ]
        }

    def render(self, heading: str = "") -> npt.NDArray[np.uint8]:
        """The members under their maps on one scale, the most typical first; uint8 RGB (h, w, 3).

        Of a large class the ``SHOWN`` most typical are shown, as the heading then says.
        """
        if len(self.images) > SHOWN:
            heading = f"{heading} ({SHOWN} most typical of {len(self.images)})".strip()
        panels = []
        for i in self.order()[:SHOWN]:
            photo, image = self.engine.load(self.sources[i]), self.images[i]
            caption = f"cohesion {self.cohesion[i]:.3f}"
            title = Path(image.path).name
            panels.append(Panel(photo.pixels, self.maps[i], image.geometry, title=title, caption=caption))
        options = self.engine.options
        columns = min(COLUMNS, max(2, round(len(panels) ** 0.5)))
        rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
        side = max(120, min(options.panel_height, 1600 // columns))
        return render.grid(rows, heading=heading, panel_height=side, opacity=options.opacity)


def class_maps(engine: Engine, sources: Sequence[Source], *, outside: Array | None = None) -> ClassMaps:
    """For each image of a class, the mean of its maps with the other members.

    Linear in the number of images: a map is linear in the other's direction, so each image needs one map
    against the sum of the others'.

    Args:
        engine: the network.
        sources: at least two images of one class.
        outside: (n, D) embeddings of images of other classes; the mean map with them is taken off, which
            leaves what makes this class this class.

    Raises:
        DecompositionError: fewer than two images.
        ImageError: an image cannot be read, or its embedding is zero or not finite.
    """
    # Twice through the network, so that of a large class only vectors and maps are kept.
    images = tuple(engine.vectors(sources))
    embeddings = np.array([image.embedding for image in images])
    directions = decompose.class_directions(embeddings) / (len(images) - 1)
    if outside is not None and len(outside):
        directions = directions - decompose.unit(outside).mean(axis=0)
    cohesion = (decompose.unit(embeddings) * directions).sum(axis=1)
    maps = tuple(image.map for image in engine.maps(sources, directions))
    return ClassMaps(images, maps, tuple(cohesion.tolist()), engine, tuple(sources))


@dataclass(frozen=True, eq=False)
class Candidate:
    """One image beside the query, under one model.

    Attributes:
        image: the candidate as the model sees it.
        score: its cosine with the query.
        maps: the query's map against it, and its map against the query.
        source: its photo.
        label: its class, None where it is not known.
    """

    image: Vector
    score: float
    maps: tuple[Array, Array]
    source: Source
    label: str | None


@dataclass(frozen=True, eq=False)
class Row:
    """One model's view of the query and its candidates.

    Attributes:
        name: of the model or its training step.
        engine: with the model.
        query: as this model sees it.
        candidates: in their order.
        correlation: mean correlation of the maps with those of the row before, over the candidates that
            both have; None in the first row or without a common candidate.
        recall_at_1: of the labelled folder under this model; None without labels.
    """

    name: str
    engine: Engine
    query: Embedded
    candidates: tuple[Candidate, ...]
    correlation: float | None
    recall_at_1: float | None


@dataclass(frozen=True, eq=False)
class Contrast:
    """The same query under several models.

    Attributes:
        rows: one a model, in order.
        photo: the query.
    """

    rows: tuple[Row, ...]
    photo: Photo

    def report(self) -> dict[str, Any]:
        """What ``simmap contrast --json`` prints of it."""
        return {
            "query": self.photo.name,
            "rows": [
                {
                    "name": row.name,
                    "model": str(row.engine.model),
                    "fingerprint": row.engine.contract.fingerprint,
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
                for row in self.rows
            ],
        }

    def render(self) -> npt.NDArray[np.uint8]:
        """A row a model: the query and each candidate under their maps, the numbers with them.

        Returns:
            uint8 RGB (h, w, 3). Rows of one pooling and one number of cells share a scale, so that
            magnitudes compare; a maximum's few places would outshine an average's many.
        """
        rows, titles, kinds = [], [], []
        for row in self.rows:
            panels = []
            for candidate in row.candidates:
                photo = row.engine.load(candidate.source)
                name = Path(candidate.image.path).name
                if candidate.label is not None:
                    name = f"{candidate.label}/{name}"
                score = f"cosine {candidate.score:.3f}"
                panels.append(Panel(self.photo.pixels, candidate.maps[0], row.query.geometry, title="query"))
                panels.append(
                    Panel(
                        photo.pixels, candidate.maps[1], candidate.image.geometry, title=name, caption=score
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
            kinds.append(f"{row.engine.contract.pooling} pooling, {height} x {width} cells")
        options = self.rows[0].engine.options
        side = max(120, min(options.panel_height, 1800 // max(len(rows[0]), 1)))
        return render.grid(
            rows,
            heading=f"query {Path(self.photo.name).name}",
            panel_height=side,
            opacity=options.opacity,
            row_titles=titles,
            row_scales=kinds if len(set(kinds)) > 1 else (),
        )


def contrast(
    engines: Sequence[Engine],
    query: Source,
    candidates: Sequence[Source],
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    k: int | None = None,
) -> Contrast:
    """One query under several models.

    Args:
        engines: one a model, in the order of the rows.
        query: the image to ask for.
        candidates: the same images for every model, or, with ``k``, a folder's images of which each
            model shows its own ``k`` most similar.
        names: of the rows; by default the models' file names, with their folders where two are equal.
        labels: of the candidates; with them each model's recall@1 among the candidates is given.
        k: how many of its most similar candidates each model shows, the query's own file never.

    Raises:
        ConfigError: no model, no candidate beside the query, names or labels of another number, or ``k``
            below 1.
        ImageError: an image cannot be read, or its embedding is zero or not finite.
    """
    if not engines or not candidates:
        raise ConfigError("contrast needs at least one model and one image beside the query")
    if names is None:
        names = [engine.model.stem for engine in engines]
        if len(set(names)) < len(names):
            names = [f"{engine.model.resolve().parent.name}/{engine.model.stem}" for engine in engines]
    if len(names) != len(engines):
        raise ConfigError(f"there are {len(names)} names for {len(engines)} models; give one each")
    if labels is not None and len(labels) != len(candidates):
        raise ConfigError(f"there are {len(labels)} labels for {len(candidates)} images; give one each")
    if k is not None and k < 1:
        raise ConfigError(f"k is {k}, must be 1 or more")
    photo = engines[0].load(query)
    shown = list(range(len(candidates)))
    if k is not None and (own := _file_of(query)) is not None:
        # A query in the folder is no answer to itself.
        shown = [i for i in shown if _file_of(candidates[i]) != own]
        if not shown:
            raise ConfigError(
                f"{photo.name}: is the only image to choose from; add others to compare it with"
            )
    rows: list[Row] = []
    for engine, name in zip(engines, names, strict=True):
        (asked,) = engine.embed([photo])
        units = decompose.unit(np.array([vector.embedding for vector in engine.vectors(candidates)]))
        scores = units @ decompose.unit(asked.embedding)
        chosen = shown if k is None else sorted(shown, key=lambda i: -scores[i])[:k]
        found = []
        images = engine.maps([candidates[i] for i in chosen], decompose.unit(asked.embedding))
        for i, image in zip(chosen, images, strict=True):
            maps = asked.map_against(image), image.map
            label = None if labels is None else labels[i]
            found.append(Candidate(image, float(scores[i]), maps, candidates[i], label))
        correlation = _correlation(rows[-1].candidates, found) if rows else None
        recall = None
        if labels is not None:
            # Without two images of one class nothing can be retrieved, but a contrast can be seen.
            with suppress(ConfigError):
                recall = retrieval(units, labels).recall_at_1
        rows.append(Row(name, engine, asked, tuple(found), correlation, recall))
    return Contrast(tuple(rows), photo)


def _file_of(source: Source) -> Path | None:
    return Path(source).resolve() if isinstance(source, str | Path) else None


def _correlation(before: Sequence[Candidate], after: Sequence[Candidate]) -> float | None:
    known = {candidate.image.path: candidate for candidate in before}
    found = [
        map_correlation(one, other)
        for candidate in after
        if candidate.image.path in known
        for one, other in zip(known[candidate.image.path].maps, candidate.maps, strict=True)
    ]
    return float(np.mean(found)) if found else None
