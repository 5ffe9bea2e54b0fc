"""The mathematics: a cosine similarity as a sum over places, exact, on NumPy arrays.

Follows "Visualizing Deep Similarity Networks" (Stylianou, Souvenir, Pless; WACV 2019,
arXiv 1901.00536; equation numbers are its) and extends it to every pooling that is a sum over
places. Names, as in the paper:

- ``alpha`` (C, H, W): the last convolutional feature map, as ONNX lays it out;
- ``beta`` (C',): the pooled feature; ``e = W beta + b`` (D,): the embedding; ``u = e / |e|``;
- ``parts`` (H, W, D): what each place adds to the embedding, ``sum over places of parts + rest = e``.
  Without a head it is ``alpha_hat(alpha, pooling)``, with one the artifact computes it;
- ``rest`` (D,): what no place owns, the bias ``b`` or what remains of this image's embedding;
- ``s = u_i . u_j``: the score of a pair, the cosine (eq. 1).

Everything here knows neither files nor sessions.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import DecompositionError
from .types import Array

Pooling = Literal["avg", "max", "gem", "avgmax", "catavgmax"]
View = Literal["contribution", "influence"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
GEM_EPS = 1e-6


def pool(alpha: Array, pooling: str, *, p: float | None = None, eps: float = GEM_EPS) -> Array:
    """Pool feature maps (..., C, H, W) over their places.

    Args:
        alpha: feature maps, any leading axes.
        pooling: ``avg`` (eq. 2), ``max`` (eq. 4), ``gem`` (the generalised mean of exponent ``p`` of
            ``max(alpha, eps)``; infinity gives the maximum), ``avgmax`` (half the average plus half
            the maximum) or ``catavgmax`` (average, then maximum, along the channels).
        p: exponent of ``gem``, above 0.
        eps: floor of ``gem``, above 0.

    Returns:
        beta (..., C), or (..., 2 C) for ``catavgmax``.

    Raises:
        DecompositionError: an unknown pooling, or a ``p`` that is not above 0.
    """
    places = (-2, -1)
    if pooling == "avg":
        return np.asarray(alpha.mean(axis=places))
    if pooling == "max":
        return np.asarray(alpha.max(axis=places))
    if pooling == "gem":
        p = _exponent(p)
        floored = np.maximum(alpha, eps)
        top = floored.max(axis=places)
        if np.isinf(p):
            return np.asarray(top)
        # Relative to the maximum, a large p neither overflows nor loses everything to zero.
        mean = ((floored / top[..., None, None]) ** p).mean(axis=places)
        return np.asarray(top * mean ** (1 / p))
    if pooling == "avgmax":
        return np.asarray((pool(alpha, "avg") + pool(alpha, "max")) / 2)
    if pooling == "catavgmax":
        return np.concatenate([pool(alpha, "avg"), pool(alpha, "max")], axis=-1)
    raise DecompositionError(f"pooling is {pooling!r}, must be one of {', '.join(POOLINGS)}")


def alpha_hat(alpha: Array, pooling: str, *, p: float | None = None, eps: float = GEM_EPS) -> Array:
    """Share each pooled feature out among the places: ``sum over places of alpha_hat = beta``.

    Average (eq. 3): ``alpha / (H W)``. Maximum (eq. 5-6): ``alpha / N_c`` where alpha is the
    channel's maximum, 0 elsewhere, N_c being the number of places that tie. Generalised mean:
    ``beta alpha^p / sum alpha^p``. ``avgmax`` and ``catavgmax``: the half sum and the stack of these.

    Args:
        alpha: one feature map (C, H, W).
        pooling, p, eps: as for ``pool``.

    Returns:
        (H, W, C), or (H, W, 2 C) for ``catavgmax``: a view on memory in the order (C, H, W), so that
        a map is one matrix-vector product and no copy.

    Raises:
        DecompositionError: as for ``pool``, or alpha has not three axes, an empty one, NaN or infinity.
    """
    _check_map(alpha)
    return np.moveaxis(_alpha_hat(alpha, pooling, p, eps), 0, -1)


def _alpha_hat(alpha: Array, pooling: str, p: float | None, eps: float) -> Array:
    """``alpha_hat`` in the memory order (C', H, W)."""
    places = alpha.shape[1] * alpha.shape[2]
    if pooling == "avg":
        return np.asarray(alpha / alpha.dtype.type(places))
    if pooling == "max":
        # Taken on alpha itself: a maximum that came another way may differ in the last bit.
        winners = alpha == alpha.max(axis=(1, 2), keepdims=True)
        ties = winners.sum(axis=(1, 2), keepdims=True, dtype=alpha.dtype)
        return np.asarray(np.where(winners, alpha, 0) / ties)
    if pooling == "gem":
        p = _exponent(p)
        floored = np.maximum(alpha, alpha.dtype.type(eps))
        if np.isinf(p):
            return _alpha_hat(floored, "max", None, eps)
        powers = (floored / floored.max(axis=(1, 2), keepdims=True)) ** alpha.dtype.type(p)
        beta = pool(alpha, "gem", p=p, eps=eps)
        return np.asarray(powers * (beta[:, None, None] / powers.sum(axis=(1, 2), keepdims=True)))
    if pooling == "avgmax":
        return (_alpha_hat(alpha, "avg", p, eps) + _alpha_hat(alpha, "max", p, eps)) / 2
    if pooling == "catavgmax":
        return np.concatenate([_alpha_hat(alpha, "avg", p, eps), _alpha_hat(alpha, "max", p, eps)])
    raise DecompositionError(f"pooling is {pooling!r}, must be one of {', '.join(POOLINGS)}")


def unit(embedding: Array, *, name: str = "embedding") -> Array:
    """``u = e / |e|`` (..., D).

    Raises:
        DecompositionError: an embedding is zero, NaN or infinite, so that it has no direction.
    """
    norm = _norm(embedding, name)
    return np.asarray(embedding / norm[..., None])


def score(embedding: Array, other: Array) -> float:
    """The cosine ``s = u_i . u_j`` (eq. 1) of two embeddings (D,), between -1 and 1.

    Raises:
        DecompositionError: as for ``unit``, or the sizes differ.
    """
    _check_embeddings(embedding, other)
    return float(unit(embedding) @ unit(other))


def similarity_map(parts: Array, embedding: Array, other: Array) -> Array:
    """``M_i[x] = parts_i[x] . u_j / |e_i|``: what each place of i adds to the score with j.

    The sum over the map is ``score(embedding, other) - residual(rest, embedding, other)``. Eq. 3
    and 6 of the paper summed over the places of the other image, which is the same and K times
    cheaper.

    Args:
        parts: (H, W, D) of image i.
        embedding: (D,) of image i, bias included.
        other: (D,) of image j, or (n, D) for n maps at once.

    Returns:
        (H, W), or (n, H, W).

    Raises:
        DecompositionError: shapes that do not fit, a zero embedding, NaN or infinity.
    """
    _check_parts(parts, embedding)
    _check_embeddings(embedding, other)
    return direction_map(parts, embedding, unit(other, name="other embedding"))


def direction_map(parts: Array, embedding: Array, direction: Array) -> Array:
    """``parts_i[x] . d / |e_i|``: what each place of i adds to the inner product of ``u_i`` with d.

    Args:
        parts, embedding: (H, W, D) and (D,) of image i, as for ``similarity_map``.
        direction: d (D,) of any length, such as a sum of unit embeddings or a region's query vector, or
            (n, D) for n maps at once.

    Returns:
        (H, W), or (n, H, W).

    Raises:
        DecompositionError: shapes that do not fit, a zero embedding, NaN or infinity.
    """
    _check_parts(parts, embedding)
    _check_embeddings(embedding, direction)
    height, width, dimension = parts.shape
    flat = parts.reshape(height * width, dimension) @ (direction / _norm(embedding, "embedding")).T
    return np.ascontiguousarray(flat.T).reshape(*direction.shape[:-1], height, width)


def influence_direction(embedding: Array, direction: Array) -> Array:
    """``d - (u_i . d) u_i``: the direction whose map says which places raise and which lower ``u_i . d``.

    Give each place a weight, ``e_i(w) = sum over x of w[x] parts_i[x] + rest_i``, and let
    ``f(w) = e_i(w) . d / |e_i(w)|``, which is the score s where d is ``u_j``. By the quotient rule, at
    w = 1,

        df / dw[x] = parts_i[x] . (d - (u_i . d) u_i) / |e_i|

    which is the ``direction_map`` of this direction: the *influence* of place x. For a pair it is
    ``M_i[x] - s S_i[x]``, with ``S_i`` the map of i against itself. A gate, a maximum or a norm inside
    the parts is held, as in the parts themselves. The influence sums to ``s r_ii - r_ij``, with ``r_ij``
    the residual of i against j and ``r_ii`` that against itself: to 0 without a rest, since a cosine
    does not change when an embedding is scaled.

    Args:
        embedding: (..., D) of the images i.
        direction: d (..., D), of any length.

    Raises:
        DecompositionError: as for ``unit``, or the sizes differ.
    """
    if embedding.shape[-1:] != direction.shape[-1:]:
        raise DecompositionError(
            f"embeddings have shapes {embedding.shape} and {direction.shape}, must end with the same D"
        )
    own = unit(embedding)
    return np.asarray(direction - (own * direction).sum(axis=-1, keepdims=True) * own)


def residual(rest: Array | None, embedding: Array, other: Array) -> float:
    """``r_i = rest_i . u_j / |e_i|``: the part of the score that no place owns.

    Args:
        rest: (D,) of image i, the bias or ``e_i - sum over places of parts_i``; None where there is none,
            so that the residual is 0.
        embedding, other: (D,) of the images i and j.

    Raises:
        DecompositionError: as for ``similarity_map``.
    """
    if rest is None:
        return 0.0
    _check_embeddings(embedding, other, rest)
    return float(rest @ (unit(other) / _norm(embedding, "embedding")))


def region_query(parts: Array, embedding: Array, weights: Array) -> Array:
    """``q_R = sum over x of w[x] parts_i[x] / |e_i|``: one vector that asks for a region.

    ``q_R . u_j`` is the sum of ``weights`` times the map of i against j, for any j: region-specific
    retrieval (section 4.6) is one inner-product search with this un-normalised query.

    Args:
        parts, embedding: of image i, as for ``similarity_map``.
        weights: (H, W), the share of each cell that the region covers, in [0, 1].

    Returns:
        (D,).

    Raises:
        DecompositionError: as for ``similarity_map``, or weights of another shape or outside [0, 1].
    """
    _check_parts(parts, embedding)
    if weights.shape != parts.shape[:2]:
        raise DecompositionError(f"weights have shape {weights.shape}, must be {parts.shape[:2]} as the map")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise DecompositionError("weights must lie between 0 and 1: the share of a cell inside the region")
    flat = parts.reshape(-1, parts.shape[2])
    return np.asarray(weights.reshape(-1).astype(parts.dtype) @ flat / _norm(embedding, "embedding"))


def class_directions(embeddings: Array) -> Array:
    """What each of n images of a class is compared with (section 4.5): ``sum over j != i of u_j``.

    A map is linear in ``u_j``, so the sum of an image's maps with all others is one map: its
    ``direction_map`` with this direction. So n images need n maps and not n^2.

    Args:
        embeddings: (n, D).

    Returns:
        (n, D).

    Raises:
        DecompositionError: an embedding without a direction, or fewer than two.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise DecompositionError(f"a class map needs at least two images, got embeddings {embeddings.shape}")
    units = unit(embeddings)
    return np.asarray(units.sum(axis=0) - units)


def contributions(embedding: Array, other: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """``u_i[k] u_j[k]``: what each feature adds to the score (section 4.1), largest first.

    Returns:
        The features' indices (D,) and their contributions (D,), which sum to the score; the running
        sum over the score is the top-k curve of figure 3.

    Raises:
        DecompositionError: as for ``score``.
    """
    _check_embeddings(embedding, other)
    products = unit(embedding) * unit(other)
    order = np.argsort(-products, kind="stable")
    return order, products[order]


def fewest_places(values: Array, share: float) -> npt.NDArray[np.bool_]:
    """The fewest places that together make a share of what speaks for similarity.

    Places are taken in order of their contribution, the largest first, until their sum reaches ``share``
    of the sum of all positive ones; of equal contributions the first in reading order is taken. Where no
    place speaks against, that is a share of the score less its residual.

    Args:
        values: (H, W), a map.
        share: in (0, 1].

    Returns:
        (H, W), true at these places; none where nothing is positive.
    """
    flat = np.maximum(values.reshape(-1).astype(np.float64), 0)
    order = np.argsort(-flat, kind="stable")
    running = np.cumsum(flat[order])
    count = int(np.searchsorted(running, share * running[-1])) + 1 if running[-1] > 0 else 0
    inside = np.zeros(flat.shape, bool)
    inside[order[:count]] = True
    return inside.reshape(values.shape)


def point_map(
    parts: Array, embedding: Array, other_parts: Array, other_embedding: Array, y: int, x: int
) -> Array:
    """``P[x, .] = parts_i[x] . parts_j[.] / (|e_i| |e_j|)``: what place (y, x) of i matches in j.

    Summed over the places of j, and with ``parts_i[x] . rest_j / (|e_i| |e_j|)`` where j has a rest, it
    is the value at (y, x) of i's map against j.

    Args:
        parts, embedding: (H_i, W_i, D) and (D,) of image i.
        other_parts, other_embedding: (H_j, W_j, D) and (D,) of image j.
        y, x: row and column of the place in i, from 0.

    Returns:
        (H_j, W_j).

    Raises:
        DecompositionError: as for ``similarity_map``, or the place is outside the map.
    """
    _check_parts(parts, embedding)
    _check_parts(other_parts, other_embedding)
    _check_embeddings(embedding, other_embedding)
    height, width = parts.shape[:2]
    if not (0 <= y < height and 0 <= x < width):
        raise DecompositionError(f"place ({y}, {x}) is outside the map of {height} x {width} cells")
    query = parts[y, x] / (_norm(embedding, "embedding") * _norm(other_embedding, "other embedding"))
    return np.asarray((other_parts.reshape(-1, query.size) @ query).reshape(other_parts.shape[:2]))


def _exponent(p: float | None) -> float:
    if p is None or not p > 0:
        raise DecompositionError(f"p is {p}, pooling 'gem' needs an exponent above 0")
    return p


def _norm(embedding: Array, name: str) -> Array:
    """|e| (...,), refusing what has no direction."""
    norm = np.asarray(np.linalg.norm(embedding, axis=-1))
    if not np.isfinite(norm).all():
        raise DecompositionError(f"{name} has NaN or infinite values, so there is no cosine")
    if (norm == 0).any():
        raise DecompositionError(f"{name} is zero, so there is no cosine")
    return norm


def _check_map(alpha: Array) -> None:
    if alpha.ndim != 3 or 0 in alpha.shape:
        raise DecompositionError(f"alpha has shape {alpha.shape}, must be (C, H, W) and not empty")
    if not np.isfinite(alpha).all():
        raise DecompositionError("alpha has NaN or infinite values, so there is no map")


def _check_parts(parts: Array, embedding: Array) -> None:
    if parts.ndim != 3 or embedding.shape != parts.shape[2:]:
        raise DecompositionError(
            f"parts have shape {parts.shape} and the embedding {embedding.shape}, must be (H, W, D) and (D,)"
        )


def _check_embeddings(embedding: Array, *others: Array) -> None:
    for other in others:
        if embedding.ndim != 1 or other.shape[-1:] != embedding.shape:
            raise DecompositionError(
                f"embeddings have shapes {embedding.shape} and {other.shape}, must be (D,)"
            )
