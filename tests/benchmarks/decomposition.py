"""What the cheap forms of the decomposition save: ``python tests/benchmarks/decomposition.py``.

The published form of a pair's maps (arXiv 1901.00536, equations 2 to 6), a region's score as the sum of its
maps, and a class's maps pair by pair, each over the form of ``engine.decompose`` that the engine uses; and
the maximum's surrogate over a run of the model that ships. On one thread. The feature maps are random, as
sparse as after a ReLU. Both forms of a row must agree before they are timed.
"""

from collections.abc import Callable, Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from common import Row, Settings, compare, main
from simmap.engine import Engine, decompose
from simmap.engine.options import Options
from simmap.engine.types import Array

CHANNELS = 2048  # of ResNet-50's last map
DATABASE = 1000
CLASS = 48


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    rng = np.random.default_rng(0)
    with threadpool_limits(1):
        for side, expected in ((7, ">= 80"), (14, ">= 500")):
            yield from pair(rng, side, expected, options)
        yield region(rng, options)
        yield class_maps(rng, options)
        yield surrogate(rng, options)


def pair(rng: np.random.Generator, side: int, expected: str, options: Settings) -> Iterator[Row]:
    """Both maps of a pair, of the feature maps as networks lay them out and of copies place by place."""
    alphas = feature_maps(rng, 2, side)
    first, second = (decompose.alpha_hat(alpha, "avg") for alpha in alphas)
    e_first, e_second = (decompose.pool(alpha, "avg") for alpha in alphas)

    def ours() -> tuple[Array, Array]:
        return (
            decompose.similarity_map(first, e_first, e_second),
            decompose.similarity_map(second, e_second, e_first),
        )

    copies = np.ascontiguousarray(first), np.ascontiguousarray(second)
    name = f"published loop / ours, {side}x{side}x{CHANNELS}"
    yield check(name, lambda: published(first, second), ours, expected, options)
    name = f"the same loop over places in one piece / ours, {side}x{side}x{CHANNELS}"
    yield check(name, lambda: published(*copies), ours, "", options)


def published(first: Array, second: Array) -> tuple[Array, Array]:
    """The maps of a pair as equations 3 and 6 have them: every place of one against every place of the other.

    Args:
        first, second: ``alpha_hat`` (H, W, C) of the two images.

    Returns:
        (H, W) of each image: the table's sums over the places of the other.
    """
    height, width, _ = first.shape
    norms = np.linalg.norm(first.sum(axis=(0, 1))) * np.linalg.norm(second.sum(axis=(0, 1)))
    table = np.empty((height, width, height, width), first.dtype)
    for y in range(height):
        for x in range(width):
            for other_y in range(height):
                for other_x in range(width):
                    table[y, x, other_y, other_x] = first[y, x] @ second[other_y, other_x] / norms
    return table.sum(axis=(2, 3)), table.sum(axis=(0, 1))


def region(rng: np.random.Generator, options: Settings) -> Row:
    """The scores of a region of one image with a database."""
    (alpha,) = feature_maps(rng, 1, 7)
    parts, embedding = decompose.alpha_hat(alpha, "avg"), decompose.pool(alpha, "avg")
    database = decompose.unit(decompose.pool(feature_maps(rng, DATABASE, 2), "avg"))
    weights = np.zeros((7, 7), np.float32)
    weights[1:4, 2:6] = rng.random((3, 4))
    return check(
        f"region as maps and sums / as one vector, {DATABASE} images",
        lambda: (decompose.direction_map(parts, embedding, database) * weights).sum(axis=(1, 2)),
        lambda: database @ decompose.region_query(parts, embedding, weights),
        ">= 5",
        options,
    )


def class_maps(rng: np.random.Generator, options: Settings) -> Row:
    """Of each image of a class, the sum of its maps with the others."""
    alphas = feature_maps(rng, CLASS, 7)
    parts = [decompose.alpha_hat(alpha, "avg") for alpha in alphas]
    embeddings = decompose.pool(alphas, "avg")

    def pairs() -> Array:
        sums = np.zeros((CLASS, 7, 7), np.float32)
        for i in range(CLASS):
            for j in range(CLASS):
                if i != j:
                    sums[i] += decompose.similarity_map(parts[i], embeddings[i], embeddings[j])
        return sums

    def at_once() -> Array:
        directions = decompose.class_directions(embeddings)
        return np.array(
            [decompose.direction_map(*each) for each in zip(parts, embeddings, directions, strict=True)]
        )

    return check(f"class pair by pair / as one sum, {CLASS} images", pairs, at_once, ">= 15", options)


def surrogate(rng: np.random.Generator, options: Settings) -> Row:
    """What each place of a map adds to the maximum, over the run that gives the map."""
    engine = Engine(device="cpu", options=Options(threads=1, cache=False))
    contract = engine.contract
    alpha = feature_maps(rng, 1, contract.grid_height, contract.channels)[0]
    # ReLU6 saturates, so several places share a channel's maximum.
    alpha = np.minimum(alpha * 3, 6)
    name = f"surrogate of the maximum / run, {engine.model.stem}"
    forward = engine.warm_up  # one run at batch 1
    return compare(name, lambda: decompose.alpha_hat(alpha, "max"), forward, "<= 0.05", options)


def feature_maps(rng: np.random.Generator, count: int, side: int, channels: int = CHANNELS) -> Array:
    """(count, channels, side, side) float32, half of it 0."""
    return np.maximum(rng.standard_normal((count, channels, side, side), np.float32), 0)


def check(
    name: str,
    first: Callable[[], Array | tuple[Array, ...]],
    second: Callable[[], Array | tuple[Array, ...]],
    expected: str,
    options: Settings,
) -> Row:
    """The row of two forms that give the same."""
    np.testing.assert_allclose(np.array(first()), np.array(second()), rtol=1e-4, atol=1e-6)
    return compare(name, first, second, expected, options)


if __name__ == "__main__":
    main(rows)
