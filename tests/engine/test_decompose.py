"""The mathematics against the published method written out naively in float64, and its invariants."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine import decompose
from simmap.engine.errors import DecompositionError

Array = npt.NDArray[np.floating[Any]]

POOLINGS = [("avg", None), ("max", None), ("gem", 1.0), ("gem", 3.0), ("gem", 200.0), ("gem", np.inf)]
POOLINGS += [("avgmax", None), ("catavgmax", None)]


def naive_alpha_hat(alpha: Array, pooling: str, p: float | None) -> Array:
    """alpha_hat (H, W, C') by loops in float64, straight from the table of equations."""
    channels, height, width = alpha.shape
    alpha = alpha.astype(np.float64)
    if pooling in ("avgmax", "catavgmax"):
        first, second = naive_alpha_hat(alpha, "avg", None), naive_alpha_hat(alpha, "max", None)
        return (first + second) / 2 if pooling == "avgmax" else np.concatenate([first, second], axis=2)
    shared = np.zeros((height, width, channels))
    for c in range(channels):
        values = alpha[c]
        if pooling == "avg":
            shared[:, :, c] = values / (height * width)
            continue
        if pooling == "gem":
            values = np.maximum(values, 1e-6)
        if pooling == "max" or p == np.inf:
            top = values.max()
            winners = sum(values[y, x] == top for y, x in product(range(height), range(width)))
            for y, x in product(range(height), range(width)):
                if values[y, x] == top:
                    shared[y, x, c] = top / winners
            continue
        beta = values.max() * ((values / values.max()) ** p).mean() ** (1 / p)
        shared[:, :, c] = beta * (values / values.max()) ** p / ((values / values.max()) ** p).sum()
    return shared


def naive_map(shared: Array, matrix: Array, embedding: Array, other: Array) -> Array:
    """M_i by the definition, a place and a feature at a time."""
    height, width, _ = shared.shape
    result = np.zeros((height, width))
    for y, x in product(range(height), range(width)):
        part = matrix @ shared[y, x]
        for d in range(len(embedding)):
            result[y, x] += part[d] / np.sqrt((embedding**2).sum()) * other[d] / np.sqrt((other**2).sum())
    return result


def published_average(alpha_i: Array, alpha_j: Array) -> Array:
    """Eq. 3 as published: every pair of places, summed over the places of the other image."""
    places_i = alpha_i.reshape(len(alpha_i), -1).T
    places_j = alpha_j.reshape(len(alpha_j), -1).T
    norm = np.linalg.norm(places_i.sum(axis=0)) * np.linalg.norm(places_j.sum(axis=0))
    result = np.zeros(len(places_i))
    for a, b in product(range(len(places_i)), range(len(places_j))):
        result[a] += sum(places_i[a, c] * places_j[b, c] for c in range(len(alpha_i))) / norm
    return result.reshape(alpha_i.shape[1:])


def published_maximum(alpha_i: Array, alpha_j: Array) -> Array:
    """Eq. 5-6 as published: a surrogate map that keeps the maxima, shared between ties."""

    def surrogate(alpha: Array) -> Array:
        places = alpha.reshape(len(alpha), -1).T.copy()
        for c in range(places.shape[1]):
            top = places[:, c].max()
            ties = np.flatnonzero(places[:, c] == top)
            places[:, c] = 0
            places[ties, c] = top / len(ties)
        return places

    places_i, places_j = surrogate(alpha_i), surrogate(alpha_j)
    norm = np.linalg.norm(alpha_i.max(axis=(1, 2))) * np.linalg.norm(alpha_j.max(axis=(1, 2)))
    result = np.zeros(len(places_i))
    for a, b in product(range(len(places_i)), range(len(places_j))):
        result[a] += places_i[a] @ places_j[b] / norm
    return result.reshape(alpha_i.shape[1:])


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Two feature maps of unlike sizes with ties and zeros, a pooling, and maybe a head."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    channels = draw(st.integers(1, 12))
    pooling, p = draw(st.sampled_from(POOLINGS))
    alphas = []
    for _ in range(2):
        shape = (channels, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
        alpha = rng.normal(size=shape) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
        kind = draw(st.sampled_from(["signed", "relu", "relu6"]))
        if kind == "relu":
            alpha = np.maximum(alpha, 0)
        if kind == "relu6":
            alpha = np.clip(np.round(alpha * 4), 0, 6)  # ties, saturated ones among them
        alpha[0, 0, 0] = max(abs(alpha[0, 0, 0]), 1e-3)  # never all zero
        alphas.append(alpha.astype(dtype))
    features = channels * (2 if pooling == "catavgmax" else 1)
    matrix = bias = None
    if draw(st.booleans()):
        dimension = draw(st.integers(1, 10))
        matrix = rng.normal(size=(dimension, features)).astype(dtype)
        bias = rng.normal(size=dimension).astype(dtype) if draw(st.booleans()) else None
    return {"alphas": alphas, "pooling": pooling, "p": p, "matrix": matrix, "bias": bias}


def embed(network: dict[str, Any], alpha: Array) -> tuple[Array, Array]:
    """parts (H, W, D) and the embedding (D,) of one feature map, through the head."""
    parts = decompose.alpha_hat(alpha, network["pooling"], p=network["p"])
    embedding = decompose.pool(alpha, network["pooling"], p=network["p"])
    if network["matrix"] is not None:
        parts, embedding = parts @ network["matrix"].T, network["matrix"] @ embedding
    if network["bias"] is not None:
        embedding = embedding + network["bias"]
    return parts, embedding


def has_direction(*embeddings: Array) -> bool:
    """Whether the cosines are well enough conditioned to be compared at 1e-5."""
    return all(np.linalg.norm(e) > 1e-6 for e in embeddings)


@given(networks())
def test_alpha_hat_sums_to_the_pooled_feature_and_equals_the_definition(network: dict[str, Any]) -> None:
    for alpha in network["alphas"]:
        shared = decompose.alpha_hat(alpha, network["pooling"], p=network["p"])
        beta = decompose.pool(alpha, network["pooling"], p=network["p"])
        size = np.abs(alpha).max()
        np.testing.assert_allclose(shared.sum(axis=(0, 1), dtype=np.float64), beta, atol=1e-5 * size)
        expected = naive_alpha_hat(alpha, network["pooling"], network["p"])
        # A power of 200 raises the rounding of a ratio 200 times.
        tolerance = 1e-5 if (network["p"] or 1) <= 3 or network["p"] == np.inf else 2e-4
        np.testing.assert_allclose(shared, expected, atol=tolerance * size)
        assert shared.dtype == alpha.dtype


@given(networks())
def test_a_map_and_its_residual_sum_to_the_score_in_both_directions(network: dict[str, Any]) -> None:
    (parts_i, e_i), (parts_j, e_j) = (embed(network, alpha) for alpha in network["alphas"])
    if not has_direction(e_i, e_j):
        return
    expected = float(
        e_i.astype(float) @ e_j / np.linalg.norm(e_i.astype(float)) / np.linalg.norm(e_j.astype(float))
    )
    score = decompose.score(e_i, e_j)
    assert score == pytest.approx(expected, abs=1e-5)
    assert decompose.score(e_j, e_i) == pytest.approx(score, abs=1e-6)
    for parts, here, there in ((parts_i, e_i, e_j), (parts_j, e_j, e_i)):
        values = decompose.similarity_map(parts, here, there)
        assert values.shape == parts.shape[:2]
        # A head may cancel: the terms of the sum are then far larger than the score.
        size = max(1.0, float(np.abs(values).sum()))
        rest = decompose.residual(network["bias"], here, there)
        assert abs(values.sum(dtype=np.float64) + rest - expected) <= 1e-5 * size


@given(networks())
def test_a_map_equals_the_definition(network: dict[str, Any]) -> None:
    (parts_i, e_i), (_, e_j) = (embed(network, alpha) for alpha in network["alphas"])
    if not has_direction(e_i, e_j):
        return
    shared = naive_alpha_hat(network["alphas"][0], network["pooling"], network["p"])
    matrix = np.eye(shared.shape[2]) if network["matrix"] is None else network["matrix"].astype(float)
    expected = naive_map(shared, matrix, e_i.astype(float), e_j.astype(float))
    values = decompose.similarity_map(parts_i, e_i, e_j)
    tolerance = 1e-5 if (network["p"] or 1) <= 3 or network["p"] == np.inf else 2e-4
    np.testing.assert_allclose(values, expected, atol=tolerance * max(1.0, np.abs(expected).sum()))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_equals_the_published_double_sum_with_ties(pooling: str, seed: int) -> None:
    # given feature maps with many ties, as ReLU6 makes them
    rng = np.random.default_rng(seed)
    alpha_i, alpha_j = (np.clip(np.round(rng.normal(2, 4, size=(6, 4, h))), 0, 6) for h in (5, 3))
    published = published_average if pooling == "avg" else published_maximum
    # when the fast form runs in float32
    (parts_i, e_i), (parts_j, e_j) = (
        embed({"pooling": pooling, "p": None, "matrix": None, "bias": None}, a.astype(np.float32))
        for a in (alpha_i, alpha_j)
    )
    # then it gives the published sums, in both directions
    np.testing.assert_allclose(
        decompose.similarity_map(parts_i, e_i, e_j), published(alpha_i, alpha_j), atol=1e-6
    )
    np.testing.assert_allclose(
        decompose.similarity_map(parts_j, e_j, e_i), published(alpha_j, alpha_i), atol=1e-6
    )


@given(networks())
def test_point_maps_sum_to_the_map_and_transpose_with_the_direction(network: dict[str, Any]) -> None:
    (parts_i, e_i), (parts_j, e_j) = (embed(network, alpha) for alpha in network["alphas"])
    if not has_direction(e_i, e_j):
        return
    values = decompose.similarity_map(parts_i, e_i, e_j)
    places = list(product(*map(range, parts_i.shape[:2])))
    table = np.array([decompose.point_map(parts_i, e_i, parts_j, e_j, y, x) for y, x in places])
    bias = np.zeros_like(e_i) if network["bias"] is None else network["bias"]
    norms = np.linalg.norm(e_i.astype(float)) * np.linalg.norm(e_j.astype(float))
    rest = parts_i.reshape(-1, len(e_i)) @ bias / norms
    size = max(1.0, float(np.abs(table).sum()))
    np.testing.assert_allclose(table.sum(axis=(1, 2)) + rest, values.reshape(-1), atol=1e-5 * size)
    back = [
        decompose.point_map(parts_j, e_j, parts_i, e_i, y, x)
        for y, x in product(*map(range, parts_j.shape[:2]))
    ]
    np.testing.assert_allclose(
        np.array(back).reshape(len(back), -1), table.reshape(len(table), -1).T, atol=1e-5 * size
    )


@given(networks(), st.integers(0, 2**32 - 1))
def test_a_region_query_scores_as_the_weighted_map(network: dict[str, Any], seed: int) -> None:
    (parts_i, e_i), (_, e_j) = (embed(network, alpha) for alpha in network["alphas"])
    if not has_direction(e_i, e_j):
        return
    weights = np.random.default_rng(seed).random(parts_i.shape[:2])
    values = decompose.similarity_map(parts_i, e_i, e_j)
    query = decompose.region_query(parts_i, e_i, weights)
    size = max(1.0, float(np.abs(values).sum()))
    assert float(query @ decompose.unit(e_j)) == pytest.approx(
        float((weights * values).sum()), abs=1e-5 * size
    )
    whole = decompose.region_query(parts_i, e_i, np.ones(parts_i.shape[:2]))
    total = float(whole @ decompose.unit(e_j)) + decompose.residual(network["bias"], e_i, e_j)
    assert total == pytest.approx(decompose.score(e_i, e_j), abs=1e-5 * size)


@given(networks(), st.integers(0, 2**32 - 1))
def test_the_influence_is_the_numerical_derivative_of_the_score_by_the_weight_of_a_place(
    network: dict[str, Any], seed: int
) -> None:
    (parts_i, e_i), (_, e_j) = (embed(network, alpha) for alpha in network["alphas"])
    if not has_direction(e_i, e_j):
        return
    parts, embedding, other = parts_i.astype(float), e_i.astype(float), e_j.astype(float)
    rest = embedding - parts.sum(axis=(0, 1))
    unit = other / np.sqrt((other**2).sum())
    values = decompose.direction_map(parts, embedding, decompose.influence_direction(embedding, unit))

    def weighted_score(weights: Array) -> float:
        weighted = (weights[..., None] * parts).sum(axis=(0, 1)) + rest
        return float(weighted @ unit / np.sqrt((weighted**2).sum()))

    y, x = (int(np.random.default_rng(seed + axis).integers(parts.shape[axis])) for axis in (0, 1))
    size = np.sqrt((parts[y, x] ** 2).sum() / (embedding**2).sum())
    step = 1e-5 / max(1.0, size)
    up, down = np.ones(parts.shape[:2]), np.ones(parts.shape[:2])
    up[y, x] += step
    down[y, x] -= step
    slope = (weighted_score(up) - weighted_score(down)) / (2 * step)
    assert values[y, x] == pytest.approx(slope, abs=1e-6 * max(1.0, size**2))
    # It is M - s S, and sums to what the rests leave.
    own = decompose.similarity_map(parts, embedding, embedding)
    score = decompose.score(embedding, other)
    against = decompose.similarity_map(parts, embedding, other)
    np.testing.assert_allclose(values, against - score * own, atol=1e-12 * max(1.0, np.abs(own).sum()))
    left = score * decompose.residual(rest, embedding, embedding)
    left -= decompose.residual(rest, embedding, other)
    assert values.sum() == pytest.approx(left, abs=1e-12 * max(1.0, np.abs(own).sum()))


def test_influence_directions_of_many_images_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(5)
    embeddings, directions = rng.normal(size=(2, 4, 6))
    many = decompose.influence_direction(embeddings, directions)
    for embedding, direction, one in zip(embeddings, directions, many, strict=True):
        unit = embedding / np.sqrt((embedding**2).sum())
        by_hand = direction - float((unit * direction).sum()) * unit
        np.testing.assert_allclose(one, by_hand, atol=1e-14)
        assert one @ embedding == pytest.approx(0, abs=1e-12)


def test_class_maps_equal_the_double_loop() -> None:
    rng = np.random.default_rng(0)
    alphas = [rng.random((5, h, w)).astype(np.float32) for h, w in ((2, 3), (4, 4), (1, 6), (3, 3))]
    parts = [decompose.alpha_hat(a, "max") for a in alphas]
    embeddings = np.array([decompose.pool(a, "max") for a in alphas])
    for i, direction in enumerate(decompose.class_directions(embeddings)):
        values = decompose.direction_map(parts[i], embeddings[i], direction)
        expected = sum(
            decompose.similarity_map(parts[i], embeddings[i], embeddings[j]) for j in range(4) if j != i
        )
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_many_maps_at_once_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(1)
    alpha, others = rng.random((7, 3, 4)), rng.normal(size=(5, 7))
    parts, embedding = decompose.alpha_hat(alpha, "avg"), decompose.pool(alpha, "avg")
    stacked = decompose.similarity_map(parts, embedding, others)
    assert stacked.shape == (5, 3, 4)
    for row, other in zip(stacked, others, strict=True):
        np.testing.assert_allclose(row, decompose.similarity_map(parts, embedding, other), atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_contributions_are_the_sorted_terms_of_the_score(seed: int, size: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, size))
    order, values = decompose.contributions(first, second)
    assert sorted(order.tolist()) == list(range(size))
    assert (np.diff(values) <= 0).all()
    assert values.sum() == pytest.approx(decompose.score(first, second), abs=1e-12)
    terms = [first[k] / np.linalg.norm(first) * second[k] / np.linalg.norm(second) for k in order]
    np.testing.assert_allclose(values, terms, atol=1e-15)


def test_the_fast_form_makes_no_copy_of_the_feature_map() -> None:
    alpha = np.ones((4, 3, 2), dtype=np.float32)
    shared = decompose.alpha_hat(alpha, "avg")
    assert shared.base is not None
    assert np.moveaxis(shared, -1, 0).flags["C_CONTIGUOUS"]
    assert np.shares_memory(shared, shared.reshape(6, 4))


E3, P3 = np.ones(3), np.ones((2, 2, 3))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: decompose.pool(np.ones((2, 2, 2)), "mean"), "pooling is 'mean', must be one of avg"),
        (lambda: decompose.pool(np.ones((2, 2, 2)), "gem"), "p is None"),
        (lambda: decompose.alpha_hat(np.ones((2, 2, 2)), "gem", p=0), "p is 0"),
        (lambda: decompose.alpha_hat(np.ones((2, 2)), "avg"), r"shape \(2, 2\), must be \(C, H, W\)"),
        (lambda: decompose.alpha_hat(np.full((1, 2, 2), np.nan), "avg"), "NaN"),
        (lambda: decompose.unit(np.zeros(3)), "embedding is zero"),
        (lambda: decompose.unit(np.array([1.0, np.inf])), "NaN or infinite"),
        (lambda: decompose.score(np.ones(3), np.ones(4)), r"shapes \(3,\) and \(4,\)"),
        (lambda: decompose.similarity_map(P3, np.ones(4), E3), r"parts have shape \(2, 2, 3\)"),
        (lambda: decompose.similarity_map(P3, E3, np.zeros(3)), "other embedding is zero"),
        (lambda: decompose.region_query(P3, E3, np.ones((3, 2))), r"must be \(2, 2\)"),
        (lambda: decompose.region_query(P3, E3, np.full((2, 2), 1.5)), "between 0 and 1"),
        (lambda: decompose.point_map(P3, E3, P3, E3, 2, 0), r"\(2, 0\) is outside the map of 2 x 2"),
        (lambda: decompose.point_map(P3, E3, P3, E3, 0, -1), "outside the map"),
        (lambda: decompose.class_directions(E3[None]), "at least two images"),
    ],
)
def test_what_cannot_be_decomposed_is_refused_by_name(call: Any, told: str) -> None:
    with pytest.raises(DecompositionError, match=told):
        call()


def test_the_fewest_places_of_a_small_map_and_of_none() -> None:
    values = np.array([[0.02, -0.5], [0.05, 0.03]])  # positive: .10
    for share, expected in ((0.5, [[0, 0], [1, 0]]), (0.6, [[0, 0], [1, 1]]), (0.9, [[1, 0], [1, 1]])):
        assert (decompose.fewest_places(values, share) == np.array(expected, bool)).all()
    assert not decompose.fewest_places(-np.ones((2, 3)), 0.5).any()


def test_a_point_behind_the_last_row_or_column_is_refused() -> None:
    parts, embedding = np.ones((2, 3, 4)), np.ones(4)
    assert decompose.point_map(parts, embedding, parts, embedding, 1, 2).shape == (2, 3)
    for y, x in ((2, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(DecompositionError, match="outside the map"):
            decompose.point_map(parts, embedding, parts, embedding, y, x)
