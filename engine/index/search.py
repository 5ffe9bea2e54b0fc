"""Search an index by a whole image, by a region of it or by an embedding.

Region-specific retrieval is section 4.6 and figure 9 of arXiv 1901.00536, here as one inner product per
database image with the region's own query vector instead of one map per database image.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import decompose
from ..decompose import View
from ..engine import Engine
from ..errors import ConfigError, DecompositionError, StoreError, printable
from ..images.geometry import Geometry
from ..images.photo import Source
from ..images.region import region_weights
from ..results import Mapped, Vector
from ..types import Array, Box
from .store import MissingImageError, VectorStore

PAGE = 256  # results whose classes are looked up at a time
ATTEMPTS = 20  # of a search whose results others remove; a damaged index would give them for ever


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
class Match:
    """The maps of the query and of one hit.

    Attributes:
        query: (H, W) of the query against the hit, zero outside a region; None for an embedding.
        hit: the hit with its map against the query, or against the region's query vector.
    """

    query: Array | None
    hit: Mapped


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        name: of the query's file, or of the embedding's.
        direction: (D,) what the database was asked for: the unit embedding, or the region's query vector.
        hits: best first.
        source: the query, or None for an embedding.
        boxes: (x, y, w, h) of the region in photo pixels.
        mask: (h, w) of the region, true inside; None without one.
        weights: (H, W), the share of each cell inside the region; None for the whole image.
        matches: the maps of each hit, None for one whose file is gone; None without ``explain``.
        geometry: where the network's input lies on the query, if there are maps and a query.
        view: what the maps show.
    """

    name: str
    direction: Array
    hits: tuple[Hit, ...]
    source: Source | None = None
    boxes: tuple[Box, ...] = ()
    mask: npt.NDArray[np.bool_] | None = None
    weights: npt.NDArray[np.float32] | None = None
    matches: tuple[Match | None, ...] | None = None
    geometry: Geometry | None = None
    view: View = "contribution"


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
        StoreError: the index was made by another model, is damaged, or has no labels for ``per_class``.
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
    whole = decompose.unit(queries[0].embedding) if region else None
    found = _find(store, np.array(directions), k, per_class=per_class, own=own, whole=whole)
    inside = None if mask is None else mask != 0
    return [
        Found(vector.path, direction, hits, source, tuple(boxes), inside, weights)
        for vector, source, direction, hits in zip(queries, sources, directions, found, strict=True)
    ]


def search_embeddings(
    store: VectorStore, embeddings: Array, k: int = 3, *, per_class: bool = False, name: str = "<embedding>"
) -> list[Found]:
    """The ``k`` database images of the largest cosine with each of ``embeddings`` (m, D).

    Args:
        store: the database.
        embeddings: (m, D) floats.
        k: how many.
        per_class: the most similar image of each of the ``k`` most similar classes.
        name: of the embeddings in results and errors; row i of several is ``name[i]``, counted from 0.

    Raises:
        DecompositionError: embeddings of another size, zero, NaN or infinite.
        StoreError: the index is damaged, or has no labels for ``per_class``.
        ConfigError: ``k`` is below 1.
    """
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
        raise DecompositionError(
            f"{name}: embeddings are {embeddings.dtype} {embeddings.shape}, must be floats (m, D)"
        )
    if embeddings.shape[1] != store.dimension:
        raise DecompositionError(
            f"{name}: embeddings have {embeddings.shape[1]} values, those of the index {store.dimension}; "
            "embed with the model of the index"
        )
    names = [name] if len(embeddings) == 1 else [f"{name}[{row}]" for row in range(len(embeddings))]
    directions = [
        decompose.unit(embedding.astype(np.float32), name=f"{one}: the embedding")
        for one, embedding in zip(names, embeddings, strict=True)
    ]
    vectors = np.array(directions).reshape(-1, store.dimension)
    found = _find(store, vectors, k, per_class=per_class, own=[None] * len(directions))
    return [
        Found(one, direction, hits) for one, direction, hits in zip(names, directions, found, strict=True)
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
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    # NumPy reads a header as Python, and raises whatever the parts of that raise.
    except Exception as error:
        raise ConfigError(f"{path}: is no .npy file of numbers; write one with numpy.save") from error
    if (
        not isinstance(embeddings, np.ndarray)
        or embeddings.ndim not in (1, 2)
        or embeddings.dtype.kind != "f"
    ):
        raise ConfigError(f"{path}: must hold one array of floats, (D,) or (m, D)")
    return np.atleast_2d(embeddings)


def _find(
    store: VectorStore,
    directions: Array,
    k: int,
    *,
    per_class: bool,
    own: Sequence[str | None],
    whole: Array | None = None,
) -> list[tuple[Hit, ...]]:
    """Hits for each direction; ``whole`` is the only query's unit embedding where scores are a region's."""
    if store.approximate is not None and store.recall is None:
        raise StoreError(
            f"{printable(store.name)}: has an approximate index ({printable(store.approximate)}) whose "
            f"recall is unknown; measure it with: simmap index check '{printable(store.name)}' --recall"
        )
    for _ in range(ATTEMPTS):
        # An image that another process removes between the two is no longer to be found.
        with suppress(MissingImageError):
            ranked = _rank(store, directions, k, per_class=per_class, own=own)
            return [_hits(store, ids, whole) for ids in ranked]
    raise StoreError(
        "the index gives images that it does not have; see what is wrong with: simmap index check INDEX, "
        "then build it anew"
    )


def _rank(
    store: VectorStore, directions: Array, k: int, *, per_class: bool, own: Sequence[str | None]
) -> list[list[tuple[str, float]]]:
    """Ids and scores for each direction, without its own image."""
    if k < 1:
        raise ConfigError(f"k is {k}, must be 1 or more")
    if not per_class:
        # One more than asked for, since a query's own image is one at most.
        results = store.search(directions, k + any(name is not None for name in own))
        return [[h for h in hits if h[0] != name][:k] for hits, name in zip(results, own, strict=True)]
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
    """The entries behind ids."""
    entries, vectors = store.get([name for name, _ in ranked])
    hits = []
    for at, (entry, (name, score)) in enumerate(zip(entries, ranked, strict=True)):
        cosine, part = (score, None) if whole is None else (float(vectors[at] @ whole), score)
        hits.append(Hit(at + 1, store.path_of(name), entry.label, cosine, part))
    return tuple(hits)
