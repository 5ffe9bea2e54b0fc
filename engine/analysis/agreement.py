"""Whether one model may replace another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from .. import decompose
from ..engine import Engine
from ..errors import ConfigError
from ..images.photo import Source
from ..results import Embedded
from ..types import Array
from .retrieval import ranked_neighbours


@dataclass(frozen=True)
class Agreement:
    """How far another model ranks and explains as the first does.

    Attributes:
        images, pairs: how many images were ranked, and how many pairs of them had their maps compared.
        same_nearest: share of the images whose nearest other image is the same.
        same_nearest_5: mean share of an image's five nearest that are the same.
        rank_correlation: mean over images of Spearman's correlation of the two rankings of the others.
        score_difference, largest_score_difference: mean and largest of the scores' differences.
        map_correlation, map_correlation_1st_percentile: median and 1st percentile of the correlations of
            the maps of an image and its nearest, both directions.
        largest_map_difference: the largest of a map's differences, over the map's largest contribution.
        completeness_error, other_completeness_error: the largest difference of a map's sum and the
            residual from its score.
    """

    images: int
    pairs: int
    same_nearest: float
    same_nearest_5: float
    rank_correlation: float
    score_difference: float
    largest_score_difference: float
    map_correlation: float
    map_correlation_1st_percentile: float
    largest_map_difference: float
    completeness_error: float
    other_completeness_error: float

    def data(self) -> dict[str, Any]:
        """What ``simmap evaluate --against --json`` prints of it."""
        return asdict(self)


def agreement(
    engine: Engine,
    other: Engine,
    sources: Sequence[Source],
    *,
    embeddings: Sequence[Array] | None = None,
    pairs: int = 200,
    seed: int = 0,
) -> Agreement:
    """Compare how a second model ranks and explains with a first: a smaller precision, or a new checkpoint.

    Args:
        engine: the reference model.
        other: the model that may replace it; its embeddings may have another size.
        sources: at least three images.
        embeddings: (n, D) of the sources by each of the two models, where they are known already.
        pairs: of how many images, drawn by ``seed``, whole rankings and the maps with their nearest are
            compared; nearest images are compared for all.
        seed: of the draw.

    Raises:
        ConfigError: fewer than three images, or no pairs.
        ImageError: an image cannot be read or embedded.
    """
    if len(sources) < 3 or pairs < 1:
        raise ConfigError(f"models are compared on at least 3 images and 1 pair, not {len(sources)}, {pairs}")
    if embeddings is None:
        embeddings = [
            np.array([vector.embedding for vector in model.vectors(sources)]) for model in (engine, other)
        ]
    units = [decompose.unit(each) for each in embeddings]
    every = range(len(sources))
    nearest = [dict(ranked_neighbours(unit, every, 5)) for unit in units]
    same = [nearest[0][i][0] == nearest[1][i][0] for i in every]
    same_5 = [len(np.intersect1d(nearest[0][i], nearest[1][i])) / len(nearest[0][i]) for i in every]

    count = min(pairs, len(sources))
    chosen = np.sort(np.random.default_rng(seed).choice(len(sources), count, replace=False)).tolist()
    ranks, differences = [], []
    for i in chosen:
        first, second = (np.delete(unit @ unit[i], i) for unit in units)
        ranks.append(_spearman(first, second))
        differences.append(np.abs(first - second))
    correlations, deviations, errors = [], [], [0.0, 0.0]
    for i in chosen:
        both = [sources[i], sources[int(nearest[0][i][0])]]
        maps = []
        for at, model in enumerate((engine, other)):
            images = list(model.embed(both))
            maps.append([_map_and_error(*images), _map_and_error(*reversed(images))])
            errors[at] = max(errors[at], *(error for _, error in maps[at]))
        for (one, _), (two, _) in zip(*maps, strict=True):
            correlations.append(map_correlation(one, two))
            if one.shape == two.shape:
                deviations.append(float(np.abs(one - two).max() / np.abs(one).max()))
    return Agreement(
        len(sources),
        count,
        float(np.mean(same)),
        float(np.mean(same_5)),
        float(np.mean(ranks)),
        float(np.mean(differences)),
        float(np.max(differences)),
        float(np.median(correlations)),
        float(np.percentile(correlations, 1)),
        max(deviations, default=float("nan")),
        *errors,
    )


def _map_and_error(image: Embedded, other: Embedded) -> tuple[Array, float]:
    """A map, and how far its sum and the residual are from the score."""
    values = image.map_against(other)
    score = decompose.score(image.embedding, other.embedding)
    return values, abs(float(values.sum(dtype=np.float64)) + image.residual_against(other) - score)


def _spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation; equal values keep their order, which real scores do not have."""
    one, two = (np.argsort(np.argsort(values, kind="stable")) for values in (first, second))
    return float(np.corrcoef(one, two)[0, 1])


def map_correlation(first: Array, second: Array) -> float:
    """Pearson correlation of two maps, the coarser one scaled up bilinearly; 0 for a flat map."""
    height, width = max(first.shape[0], second.shape[0]), max(first.shape[1], second.shape[1])
    a, b = (
        np.asarray(cv2.resize(m.astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)).ravel()
        for m in (first, second)
    )
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
