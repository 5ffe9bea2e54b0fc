"""Search an index by a whole image, by a region of it or by an embedding, and picture what was found.

Region-specific retrieval is section 4.6 and figure 9 of arXiv 1901.00536, here as one inner product
a database image with the region's own query vector instead of a map a database image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine import decompose, render
from simmap.engine.decompose import Array
from simmap.engine.errors import ConfigError, DecompositionError, ImageError, StoreError
from simmap.engine.image import Source, region_weights
from simmap.engine.index import VectorStore
from simmap.engine.pipeline import Engine, Vector
from simmap.engine.render import Panel

Box = tuple[float, float, float, float]

COLUMNS = 6  # results side by side in a picture
PAGE = 256  # results whose classes are looked up at a time


@dataclass(frozen=True)
class Hit:
    """One database image that was found.

    Attributes:
        rank: from 1.
        path: of the image's file.
        label: its class, or None.
        score: the cosine with the whole query.
        region_score: the part of it inside the region, or None without a region.
    """

    rank: int
    path: str
    label: str | None
    score: float
    region_score: float | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        name: of the query's file, or of the embedding's.
        direction: (D,) what the database was asked for: the unit embedding, or the region's query vector.
        hits: best first.
        source: the query, or None for an embedding.
        boxes: (x, y, w, h) of the region in photo pixels.
        weights: (H, W), the share of each cell inside the region; None for the whole image.
    """

    name: str
    direction: Array
    hits: tuple[Hit, ...]
    source: Source | None = None
    boxes: tuple[Box, ...] = ()
    weights: npt.NDArray[np.float32] | None = None

    def report(self) -> dict[str, Any]:
        """What ``simmap search --json`` prints of it."""
        region = None
        if self.weights is not None:
            region = {"boxes": [list(box) for box in self.boxes], "weights": self.weights.tolist()}
        results = []
        for hit in self.hits:
            result = {"rank": hit.rank, "path": hit.path, "label": hit.label, "score": hit.score}
            if hit.region_score is not None:
                result["region_score"] = hit.region_score
            results.append(result)
        return {"query": self.name, "region": region, "results": results}


def search(
    engine: Engine,
    store: VectorStore,
    sources: Sequence[Source],
    k: int = 3,
    *,
    boxes: Sequence[Box] = (),
    mask: npt.NDArray[Any] | None = None,
    per_class: bool = False,
    exclude_self: bool = False,
) -> list[Found]:
    """The ``k`` database images most similar to each of some images, or to a region of one.

    Args:
        engine: with the model that made the index.
        store: the database.
        sources: the queries: paths, encoded bytes or uint8 RGB arrays.
        k: how many.
        boxes, mask: the region of the only query, as for ``image.region_weights``; the ranking is then
            by the part of the score inside it.
        per_class: the most similar image of each of the ``k`` most similar classes.
        exclude_self: leave a query's own file out.

    Raises:
        StoreError: the index was made by another model, or has no labels for ``per_class``.
        ImageError: a query cannot be read or embedded, or its region cannot be.
        DecompositionError: nothing inside the region speaks for or against any image.
        ConfigError: a region with several queries, or ``k`` below 1.
    """
    store.check_model(engine)
    region = bool(boxes) or mask is not None
    if region and len(sources) != 1:
        raise ConfigError(
            f"a region belongs to one query, there are {len(sources)}; search for one at a time"
        )
    weights = None
    queries: list[Vector]
    if not region:
        queries = list(engine.vectors(sources))
        directions = [decompose.unit(query.embedding) for query in queries]
    else:
        (query,) = engine.embed(sources)
        queries = [query]
        weights = region_weights(query.geometry, *query.parts.shape[:2], boxes=boxes, mask=mask)
        directions = [decompose.region_query(query.parts, query.embedding, weights)]
        if not directions[0].any():
            raise DecompositionError(
                f"{query.path}: nothing inside the region counts for its embedding, so it is similar to "
                "nothing; take a larger region"
            )
    own = [store.id_of(s) if isinstance(s, str | Path) and exclude_self else None for s in sources]
    ranked = _rank(store, np.array(directions), k, per_class=per_class, own=own)
    found = []
    for vector, source, direction, hits in zip(queries, sources, directions, ranked, strict=True):
        told = _hits(store, hits, decompose.unit(vector.embedding) if region else None)
        found.append(Found(vector.path, direction, told, source, tuple(boxes), weights))
    return found


def search_embeddings(
    store: VectorStore, embeddings: Array, k: int = 3, *, per_class: bool = False, name: str = "<embedding>"
) -> list[Found]:
    """The ``k`` database images of the largest cosine with each of ``embeddings`` (m, D).

    Raises:
        DecompositionError: embeddings of another size, zero, NaN or infinite.
        StoreError: the index has no labels for ``per_class``.
        ConfigError: ``k`` is below 1.
    """
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
        raise DecompositionError(
            f"{name}: embeddings are {embeddings.dtype} {embeddings.shape}, must be floats (m, D)"
        )
    directions = decompose.unit(embeddings.astype(np.float32), name=f"{name}: an embedding")
    ranked = _rank(store, directions, k, per_class=per_class, own=[None] * len(directions))
    return [
        Found(name, direction, _hits(store, hits, None))
        for direction, hits in zip(directions, ranked, strict=True)
    ]


def read_embeddings(path: str | Path) -> Array:
    """Embeddings (m, D) from a NumPy file of (D,) or (m, D) floats.

    Raises:
        ConfigError: the file is missing or no such array.
    """
    try:
        embeddings = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: is no .npy file of numbers; write one with numpy.save") from error
    if (
        not isinstance(embeddings, np.ndarray)
        or embeddings.ndim not in (1, 2)
        or embeddings.dtype.kind != "f"
    ):
        raise ConfigError(f"{path}: must hold one array of floats, (D,) or (m, D)")
    return np.atleast_2d(embeddings)


def render_found(engine: Engine, found: Sequence[Found], heading: str = "") -> npt.NDArray[np.uint8]:
    """Queries and their results, each with its map and score (figures 1 and 9).

    Whole images share one scale. A region's few cells outshine the results', which all count: so the maps
    of the region and those of its results have scales of their own, with the same sum.

    Each search has the query under its map against each result, and below the results under theirs
    against the query, or against its region. The results' photos are opened and embedded again, since an
    index keeps no feature maps; one that is gone is said to be.

    Returns:
        uint8 RGB (h, w, 3).
    """
    columns = max([1, *(min(len(one.hits), COLUMNS) for one in found)])
    rows: list[list[Panel]] = []
    titles: list[str] = []
    scales: list[str] = []
    several = len({one.weights is None for one in found}) > 1
    for one in found:
        for start in range(0, max(len(one.hits), 1), COLUMNS):
            above, below = _block(engine, one, one.hits[start : start + COLUMNS])
            rows += [above, below] if above else [below]
            region = "" if one.weights is None else ", ranked by the region"
            titles += [f"{Path(one.name).name}{region}" if start == 0 else "", ""][: 2 if above else 1]
            whole = "of whole images" if several else ""
            names = [whole, whole] if one.weights is None else ["of the region", "of results to the region"]
            scales += names if above else names[1:]
    options = engine.options
    side = max(120, min(options.panel_height, 1800 // (columns + 1)))
    return render.grid(
        rows,
        heading=heading,
        panel_height=side,
        opacity=options.opacity,
        row_titles=titles,
        row_scales=scales,
    )


def _block(engine: Engine, found: Found, hits: Sequence[Hit]) -> tuple[list[Panel], list[Panel]]:
    """The query's panels and the results' panels, column by column."""
    above: list[Panel] = []
    below: list[Panel] = []
    outlines = tuple((x, y, x + w, y + h) for x, y, w, h in found.boxes)
    photo = query = None
    if found.source is not None:
        photo = engine.load(found.source)
        (query,) = engine.embed([photo])
        above.append(Panel(photo.pixels, None, query.geometry, title="query", boxes=outlines))
        below.append(Panel(np.full_like(photo.pixels, 255)))
    for hit in hits:
        title = f"{hit.rank}. {hit.label or Path(hit.path).name}"
        score = f"cosine {hit.score:.3f}"
        if hit.region_score is not None:
            score = f"region {hit.region_score:.3f} of {hit.score:.3f}"
        try:
            shown = engine.load(hit.path)
            (image,) = engine.maps([shown], found.direction)
        except ImageError:
            blank = np.full((300, 300, 3), 225, np.uint8)
            if photo is not None:
                above.append(Panel(blank, title=title, caption=score))
            below.append(Panel(blank, title="the file is gone", caption=Path(hit.path).name))
            continue
        if photo is not None and query is not None:
            asked = query.map_against(image)
            if found.weights is not None:
                asked = asked * found.weights
            above.append(
                Panel(photo.pixels, asked, query.geometry, title=title, caption=score, boxes=outlines)
            )
        name = Path(hit.path).name
        if photo is None:
            below.append(Panel(shown.pixels, image.map, image.geometry, title=title, caption=score))
        else:
            below.append(Panel(shown.pixels, image.map, image.geometry, caption=name))
    return above, below


def _rank(
    store: VectorStore, directions: Array, k: int, *, per_class: bool, own: Sequence[str | None]
) -> list[list[tuple[str, float]]]:
    """Ids and scores for each direction, without its own image."""
    if k < 1:
        raise ConfigError(f"k is {k}, must be 1 or more")
    if not per_class:
        # One more than asked for, since a query's own image is one at most.
        found = store.search(directions, k + any(name is not None for name in own))
        return [[h for h in hits if h[0] != name][:k] for hits, name in zip(found, own, strict=True)]
    return [_per_class(store, d, k, name) for d, name in zip(directions, own, strict=True)]


def _per_class(store: VectorStore, direction: Array, k: int, own: str | None) -> list[tuple[str, float]]:
    """The best image of each of the ``k`` best classes: ever more results, until they have as many."""
    best: dict[str, tuple[str, float]] = {}
    size, seen = max(PAGE, 8 * k), 0
    while True:
        (hits,) = store.search(direction[None], size, exclude=() if own is None else (own,))
        for start in range(seen, len(hits), PAGE):
            page = hits[start : start + PAGE]
            entries, _ = store.get([name for name, _ in page])
            for hit, entry in zip(page, entries, strict=True):
                if entry.label is not None:
                    best.setdefault(entry.label, hit)
            if len(best) >= k:
                return list(best.values())[:k]
        if len(hits) < size:
            break
        seen, size = len(hits), size * 8
    if not best and len(hits) > 0:
        raise StoreError("the index has no labels; build it from one sub-folder a class, or with --labels")
    return list(best.values())


def _hits(store: VectorStore, ranked: Sequence[tuple[str, float]], whole: Array | None) -> tuple[Hit, ...]:
    """The entries behind ids; ``whole`` is the query's unit embedding where the scores are a region's."""
    entries, vectors = store.get([name for name, _ in ranked])
    hits = []
    for at, (entry, (name, score)) in enumerate(zip(entries, ranked, strict=True)):
        cosine, part = (score, None) if whole is None else (float(vectors[at] @ whole), score)
        hits.append(Hit(at + 1, store.path_of(name), entry.label, cosine, part))
    return tuple(hits)
