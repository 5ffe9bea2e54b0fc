"""What an approximate index finds of what there is, on the user's own photos and regions of them.

The query vectors of regions lie away from the vectors of an index, where approximate indexes may miss what
they find near these: recall of whole images says nothing about that of regions. So both are measured.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import decompose
from ..engine import Engine
from ..errors import StoreError, printable
from ..results import Embedded
from ..types import Array
from ..urls import is_url
from .store import MissingImageError, Recall, VectorStore

DEPTH = 10  # results of a query
FILES = 100_000  # that are looked for, at random
BATCH = 1000  # vectors that are fetched at once


def measure_recall(
    engine: Engine,
    store: VectorStore,
    *,
    queries: int = 100,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Recall:
    """Recall@10 of an index, kept with it if it is approximate.

    Some of its photos are embedded again: each asks by its whole embedding, and by a rectangle of cells, of
    up to half of the map's height and width. What they should find comes from one pass over all vectors. An
    image is found rightly if its exact score is no less than the tenth best.

    Args:
        engine: with the model of the index.
        store: the index.
        queries: how many photos ask; fewer, if fewer can be read.
        seed: of the choice of photos and rectangles.
        on_progress: called with the vectors looked at and their total.

    Raises:
        StoreError: the index is of another model, changes meanwhile, or none of its photos can be read.
    """
    store.check_model(engine)
    store.settle()
    ids = store.ids()
    rng = np.random.default_rng(seed)
    whole, region = _ask(engine, store, ids, queries, rng)
    asked = np.array([*whole, *region])
    least = _least(store, ids, asked, on_progress)
    found = store.search(asked, DEPTH)
    best = min(DEPTH, len(ids))
    shares = [
        sum(score >= wanted - 1e-9 for _, score in hits) / best
        for hits, wanted in zip(found, least, strict=True)
    ]
    recall = Recall(
        float(np.mean(shares[: len(whole)])), float(np.mean(shares[len(whole) :])), len(whole), len(ids)
    )
    store.record_recall(recall)
    return recall


def _ask(
    engine: Engine, store: VectorStore, ids: list[str], count: int, rng: np.random.Generator
) -> tuple[list[Array], list[Array]]:
    """Query vectors of whole images, and of a region of each."""
    whole, region = list[Array](), list[Array]()
    for image in engine.embed(_paths(store, ids, rng), on_error=lambda *_: None):
        query = _region(image, rng)
        if query is not None:
            whole.append(decompose.unit(image.embedding))
            region.append(query)
        if len(whole) == count:
            break
    if not whole:
        raise StoreError(
            f"{printable(store.name)}: none of its photos can be read, and recall is measured with some of "
            f"them; mount the folder {printable(store.root)}"
        )
    return whole, region


def _paths(store: VectorStore, ids: list[str], rng: np.random.Generator) -> Iterator[str]:
    for at in rng.permutation(len(ids))[:FILES]:
        path = store.path_of(ids[at])
        if is_url(path) or Path(path).is_file():
            yield path


def _region(image: Embedded, rng: np.random.Generator) -> Array | None:
    """The query vector of a rectangle of cells; None if nothing counts in any of some."""
    height, width = image.parts.shape[:2]
    for _ in range(8):
        rows, columns = rng.integers(1, (height + 1) // 2 + 1), rng.integers(1, (width + 1) // 2 + 1)
        top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        weights = np.zeros((height, width), np.float32)
        weights[top : top + rows, left : left + columns] = 1
        query = decompose.region_query(image.parts, image.embedding, weights)
        if query.any():
            return query
    return None


def _least(
    store: VectorStore, ids: list[str], asked: Array, on_progress: Callable[[int, int], None] | None
) -> npt.NDArray[np.float64]:
    """The score of the tenth best image of each query (m,)."""
    best = np.full((len(asked), DEPTH), -np.inf)
    wide = asked.astype(np.float64)
    for start in range(0, len(ids), BATCH):
        try:
            _, vectors = store.get(ids[start : start + BATCH])
        except MissingImageError as error:
            raise StoreError(
                f"{printable(store.name)}: images were removed while recall was measured; measure it again"
            ) from error
        scores = np.concatenate([best, wide @ vectors.astype(np.float64).T], axis=1)
        best = -np.partition(-scores, DEPTH - 1, axis=1)[:, :DEPTH]
        if on_progress is not None:
            on_progress(min(start + BATCH, len(ids)), len(ids))
    least: npt.NDArray[np.float64] = best.min(axis=1)
    return least
