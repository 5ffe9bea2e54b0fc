"""Exact search: the rows of the largest inner products."""

import numpy as np
import numpy.typing as npt

from ..types import Array

CHUNK = 1 << 27  # bytes of vectors that are scored or copied at a time
QUERIES = 256  # that are scored at a time


def candidates(
    vectors: npt.NDArray[np.float32], hidden: npt.NDArray[np.bool_], queries: Array, k: int
) -> list[npt.NDArray[np.intp]]:
    """Rows that are among the ``k`` best of each query, however float32 products are rounded.

    A row that gives NaN is among them, whatever the others give, so that its reader is told. Comparisons are
    "not less" for this reason: NaN is less than nothing.
    """
    count, dimension = queries.shape
    # A sum of D float32 products is off by at most g |q| |v|, g = D u / (1 - D u), u = 2^-24 (Higham,
    # Accuracy and Stability of Numerical Algorithms, eq. 3.5). The k-th best and another may be off in
    # opposite ways; two more terms are for the rounding of the floor itself.
    u = (dimension + 2) * 2.0**-24
    margin = 2 * u / (1 - u) * np.linalg.norm(queries.astype(np.float64), axis=1)
    floor = np.full(count, np.finfo(np.float32).min)
    scores = [np.empty(0, np.float32)] * count
    rows = [np.empty(0, np.intp)] * count
    step = max(1, CHUNK // (4 * dimension))
    products = np.empty((count, min(step, len(vectors))), np.float32)  # once: fresh memory is slow to write
    for start in range(0, len(vectors), step):
        block = products[:, : len(vectors) - start]
        with np.errstate(all="ignore"):
            np.matmul(queries, vectors[start : start + step].T, out=block)
        block[:, hidden[start : start + step]] = -np.inf
        if start == 0 and block.shape[1] > 128 * k:
            # A few of the first rows set a floor that spares sorting most of the others.
            few = np.partition(block[:, : 128 * k], -k, axis=1)[:, -k]
            floor = np.maximum(floor, (few - margin).astype(np.float32))
        below = block < floor[:, None]
        for at in np.flatnonzero(~below.all(axis=1)):
            found = np.flatnonzero(~below[at])
            scores[at] = np.concatenate([scores[at], block[at, found]])
            rows[at] = np.concatenate([rows[at], found + start])
            if len(scores[at]) > k:
                floor[at] = np.partition(scores[at], -k)[-k] - margin[at]
                keep = ~(scores[at] < floor[at])
                scores[at], rows[at] = scores[at][keep], rows[at][keep]
    return rows


def exact_scores(vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.intp], query: Array) -> list[float]:
    """Inner products in float64, each summed in the same order."""
    scores: list[float] = []
    step = max(1, CHUNK // (32 * len(query)))
    for start in range(0, len(rows), step):
        # Not a matrix product: that adds in another order in the last rows.
        scores += (vectors[rows[start : start + step]] * query.astype(np.float64)).sum(axis=1).tolist()
    return scores
