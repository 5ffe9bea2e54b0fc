"""How well a model retrieves."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import decompose
from ..errors import ConfigError
from ..types import Array

BLOCK = 256  # queries that are scored at a time


@dataclass(frozen=True)
class Retrieval:
    """How often the images most similar to an image are of its class.

    Attributes:
        images, queries, classes: how many; a query is an image whose class has another.
        recall_at_1, recall_at_5: share of the queries with an image of their class among the first 1, 5.
        map_at_r: mean over the queries of ``1/R sum over i <= R of precision(i) [i is relevant]``, R the
            number of other images of the class (Musgrave, Belongie, Lim: A Metric Learning Reality Check,
            ECCV 2020).
    """

    images: int
    queries: int
    classes: int
    recall_at_1: float
    recall_at_5: float
    map_at_r: float

    def data(self) -> dict[str, Any]:
        """What ``simmap evaluate --json`` prints of it."""
        return asdict(self)


def retrieval(embeddings: Array, labels: Sequence[str | None]) -> Retrieval:
    """Rank all other images by their cosine with each image.

    An image without a label, or alone with it, is no query but may be found, which counts as wrong. Of
    equal scores the earlier image comes first.

    Args:
        embeddings: (n, D).
        labels: n classes.

    Raises:
        ConfigError: another number of labels, or no class with two images.
        DecompositionError: an embedding without a direction.
    """
    if len(labels) != len(embeddings):
        raise ConfigError(f"there are {len(labels)} labels for {len(embeddings)} images; give one each")
    counts = Counter(label for label in labels if label is not None)
    queries = [i for i, label in enumerate(labels) if label is not None and counts[label] > 1]
    if not queries:
        raise ConfigError("no class has two images, so nothing can be retrieved; label the images")
    names = sorted(counts)
    classes = np.array([-1 if label is None else names.index(label) for label in labels])
    first = fifth = average = 0.0
    depth = max(5, max(counts.values()) - 1)
    for query, neighbours in ranked_neighbours(decompose.unit(embeddings), queries, depth):
        right = classes[neighbours] == classes[query]
        relevant = counts[str(labels[query])] - 1
        first += right[0]
        fifth += right[:5].any()
        hits = right[:relevant]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        average += float((precision * hits).sum()) / relevant
    n = len(queries)
    return Retrieval(len(labels), n, len({classes[i] for i in queries}), first / n, fifth / n, average / n)


def ranked_neighbours(
    units: Array, queries: Sequence[int], depth: int
) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each query and its ``depth`` nearest other images, nearest first, equal ones by position."""
    depth = min(depth, len(units) - 1)
    for start in range(0, len(queries), BLOCK):
        block = list(queries[start : start + BLOCK])
        for query, scores in zip(block, units[block] @ units.T, strict=True):
            scores[query] = -np.inf
            least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
            near = np.flatnonzero(scores >= least)
            yield query, near[np.argsort(-scores[near], kind="stable")][:depth]
