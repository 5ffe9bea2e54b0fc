"""One query under several models (figures 5, 6 and 7 of arXiv 1901.00536)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import decompose
from ..contract import Pooling
from ..decompose import View
from ..engine import Engine
from ..errors import ConfigError, ImageError, StoreError, printable
from ..images.photo import Photo, Source
from ..index.search import search
from ..index.store import VectorStore
from ..results import Embedded, Vector
from ..types import Array
from .agreement import map_correlation
from .retrieval import retrieval


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
        model: the artifact's file.
        fingerprint: of its weights.
        pooling: of the model.
        query: as this model sees it.
        candidates: in their order.
        correlation: mean correlation of the maps with those of the row before, over the candidates that
            both have; None in the first row or without a common candidate.
        recall_at_1: of the labelled folder under this model; None without labels, or of an index.
    """

    name: str
    model: str
    fingerprint: str
    pooling: Pooling
    query: Embedded
    candidates: tuple[Candidate, ...]
    correlation: float | None
    recall_at_1: float | None


@dataclass(frozen=True, eq=False)
class Contrast:
    """The same query under several models.

    Attributes:
        rows: one per model, in order.
        photo: the query.
        view: what the maps show.
    """

    rows: tuple[Row, ...]
    photo: Photo
    view: View = "contribution"


def contrast(
    engines: Sequence[Engine],
    query: Source,
    candidates: Sequence[Source],
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    k: int | None = None,
    view: View = "contribution",
) -> Contrast:
    """One query under several models.

    Args:
        engines: one per model, in the order of the rows.
        query: the image that the others are compared with.
        candidates: the same images for every model, or, with ``k``, a folder's images of which each
            model shows its own ``k`` most similar.
        names: of the rows; by default the models' file names, with their folders where two are equal.
        labels: of the candidates; with them each model's recall@1 among the candidates is given.
        k: how many of its most similar candidates each model shows, the query's own file never.
        view: what the maps show: contributions to the score, or influence on it.

    Raises:
        ConfigError: no model, no candidate beside the query, names or labels of another number, or ``k``
            below 1.
        ImageError: an image cannot be read, or its embedding is zero or not finite.
    """
    if not engines or not candidates:
        raise ConfigError("contrast needs at least one model and one image beside the query")
    names = _names(engines, names)
    if labels is not None and len(labels) != len(candidates):
        raise ConfigError(f"there are {len(labels)} labels for {len(candidates)} images; give one each")
    if k is not None and k < 1:
        raise ConfigError(f"k is {k}, must be 1 or more")
    photo = engines[0].load(query)
    allowed = list(range(len(candidates)))
    if k is not None and (own := _file_of(query)) is not None:
        # A query in the folder is no answer to itself.
        allowed = [i for i in allowed if _file_of(candidates[i]) != own]
        if not allowed:
            raise ConfigError(
                f"{photo.name}: is the only image to choose from; add others to compare it with"
            )
    rows: list[Row] = []
    for engine, name in zip(engines, names, strict=True):
        (asked,) = engine.embed([photo])
        embeddings = _embeddings(engine, candidates)
        units = decompose.unit(embeddings)
        scores = units @ decompose.unit(asked.embedding)
        chosen = allowed if k is None else sorted(allowed, key=lambda i: -scores[i])[:k]
        recall = None
        if labels is not None:
            # Without two images of one class nothing can be retrieved, but a contrast can be seen.
            with suppress(ConfigError):
                recall = retrieval(units, labels).recall_at_1
        shown = _candidates(
            engine,
            asked,
            [candidates[i] for i in chosen],
            embeddings[chosen],
            [None if labels is None else labels[i] for i in chosen],
            view,
        )
        rows.append(_row(engine, name, asked, shown, rows, recall))
    return Contrast(tuple(rows), photo, view)


def contrast_indexes(
    engines: Sequence[Engine],
    query: Source,
    stores: Sequence[VectorStore],
    *,
    names: Sequence[str] | None = None,
    k: int = 3,
    view: View = "contribution",
) -> Contrast:
    """One query under several models, each with its own most similar images of its own index.

    The images that are found are embedded again, so a score is that of the photo as it is now. No recall is
    given, since it takes the products of all images of an index with all others.

    Args:
        engines, names, view: as for ``contrast``.
        query: the image that is searched for; its own file is never found.
        stores: the index of each model, in the order of ``engines``.
        k: how many images each model shows.

    Raises:
        ConfigError: no model, indexes or names of another number, or ``k`` below 1.
        StoreError: an index is of another model, has no image beside the query, or as for ``search``.
        ImageError: as for ``contrast``.
    """
    if not engines or len(stores) != len(engines):
        raise ConfigError(f"there are {len(stores)} indexes for {len(engines)} models; give one each")
    names = _names(engines, names)
    photo = engines[0].load(query)
    rows: list[Row] = []
    for engine, name, store in zip(engines, names, stores, strict=True):
        (found,) = search(engine, store, [query], k, exclude_self=True)
        if not found.hits:
            raise StoreError(
                f"{printable(store.name)}: has no image beside the query; add some with: simmap index add"
            )
        (asked,) = engine.embed([photo])
        paths = [hit.path for hit in found.hits]
        try:
            shown = _candidates(engine, asked, paths, None, [hit.label for hit in found.hits], view)
        except ImageError as error:
            raise ImageError(f"{printable(store.name)}: {error}, or bring the index up to date") from error
        rows.append(_row(engine, name, asked, shown, rows, None))
    return Contrast(tuple(rows), photo, view)


def _names(engines: Sequence[Engine], names: Sequence[str] | None) -> Sequence[str]:
    """Of the rows: those that are given, or the models'."""
    if names is None:
        names = [engine.model.stem for engine in engines]
        if len(set(names)) < len(names):
            names = [f"{engine.model.resolve().parent.name}/{engine.model.stem}" for engine in engines]
    if len(names) != len(engines):
        raise ConfigError(f"there are {len(names)} names for {len(engines)} models; give one each")
    return names


def _candidates(
    engine: Engine,
    asked: Embedded,
    sources: Sequence[Source],
    embeddings: Array | None,
    labels: Sequence[str | None],
    view: View,
) -> tuple[Candidate, ...]:
    """Images beside the query ``asked``, with their maps; ``embeddings`` (n, D) are theirs, where known."""
    directions = np.tile(decompose.unit(asked.embedding), (len(sources), 1))
    if view == "influence":
        if embeddings is None:
            embeddings = _embeddings(engine, sources)
        directions = decompose.influence_direction(embeddings, directions)
    images = engine.maps(sources, directions)
    return tuple(
        Candidate(
            image,
            decompose.score(asked.embedding, image.embedding),
            (asked.map_against(image, view), image.map),
            source,
            label,
        )
        for image, source, label in zip(images, sources, labels, strict=True)
    )


def _embeddings(engine: Engine, sources: Sequence[Source]) -> Array:
    """(n, D) of images."""
    return np.array([vector.embedding for vector in engine.vectors(sources)])


def _row(
    engine: Engine,
    name: str,
    asked: Embedded,
    candidates: tuple[Candidate, ...],
    before: Sequence[Row],
    recall: float | None,
) -> Row:
    """Of one model, after the rows ``before``."""
    correlation = _correlation(before[-1].candidates, candidates) if before else None
    contract = engine.contract
    return Row(
        name,
        str(engine.model),
        contract.fingerprint,
        contract.pooling,
        asked,
        candidates,
        correlation,
        recall,
    )


def _file_of(source: Source) -> Path | None:
    return Path(source).resolve() if isinstance(source, str | Path) else None


def _correlation(before: Sequence[Candidate], after: Sequence[Candidate]) -> float | None:
    known = {candidate.image.path: candidate for candidate in before}
    correlations = [
        map_correlation(one, other)
        for candidate in after
        if candidate.image.path in known
        for one, other in zip(known[candidate.image.path].maps, candidate.maps, strict=True)
    ]
    return float(np.mean(correlations)) if correlations else None
