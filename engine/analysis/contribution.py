"""How few features make a score (section 4.1 and figure 3 of arXiv 1901.00536)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import decompose
from ..engine import Engine
from ..errors import ConfigError
from ..types import Array

MARKED = 10  # features; the paper's own mark in figure 3
LEAST_SCORE = 0.05  # below it, shares of a score mean nothing


@dataclass(frozen=True, eq=False)
class ContributionCurve:
    """How much of a score its k largest features give (section 4.1, figure 3).

    Attributes:
        pairs: images whose score is large enough to be shared out.
        left_out: pairs whose score is below ``LEAST_SCORE``.
        scores: (n,) of the pairs.
        mean, low, high: (D,) over the pairs, of the running sum of the sorted contributions over the
            score: the mean, the 10th and the 90th percentile. Entry k - 1 is that of k features.
    """

    pairs: tuple[tuple[str, str], ...]
    left_out: int
    scores: Array
    mean: Array
    low: Array
    high: Array


def contribution_curve(engine: Engine, pairs: Sequence[tuple[str, str]]) -> ContributionCurve:
    """The mean curve of the top-k features' share of the score.

    Args:
        engine: the network.
        pairs: paths of two images each; an image in several pairs is embedded once.

    Raises:
        ConfigError: no pair's score is above ``LEAST_SCORE``.
        ImageError: an image cannot be read or embedded.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in pair))
    known = {vector.path: decompose.unit(vector.embedding) for vector in engine.vectors(paths)}
    shared = [pair for pair in pairs if float(known[pair[0]] @ known[pair[1]]) >= LEAST_SCORE]
    if not shared:
        raise ConfigError(f"none of {len(pairs)} pairs has a score above {LEAST_SCORE}; take similar images")
    curves = np.empty((len(shared), engine.contract.dimension), np.float32)
    scores = np.empty(len(shared))
    for row, (first, second) in enumerate(shared):
        _, values = decompose.contributions(known[first], known[second])
        running = np.cumsum(values, dtype=np.float64)
        scores[row] = running[-1]
        curves[row] = running / running[-1]
    low, high = np.percentile(curves, (10, 90), axis=0)
    return ContributionCurve(
        tuple(shared), len(pairs) - len(shared), scores, curves.mean(axis=0, dtype=np.float64), low, high
    )
