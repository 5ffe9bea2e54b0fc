"""Other methods' maps against numerical derivatives and loops in float64."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import ARTIFACTS, PHOTOS
from simmap.engine import Engine, decompose
from simmap.engine.analysis.orders import (
    activations_and_gradient,
    order_maps,
    pooling_gradient,
    skipped_orders,
)
from simmap.engine.errors import DecompositionError

Array = npt.NDArray[Any]
POOLINGS = [("avg", None), ("max", None), ("gem", 1.0), ("gem", 3.0), ("gem", 0.5), ("gem", np.inf)]
POOLINGS += [("avgmax", None), ("catavgmax", None)]
PAIR = [PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"]


@given(st.sampled_from(POOLINGS), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_gradient_is_the_numerical_derivative_by_each_activation(
    pooling: tuple[str, float | None], height: int, width: int, seed: int
) -> None:
    kind, p = pooling
    rng = np.random.default_rng(seed)
    # Distinct values, some below the floor of the generalised mean: none is near the next one.
    alpha = (rng.permutation(3 * height * width) / (height * width) - 0.3).reshape(3, height, width)
    gradient = rng.normal(size=6 if kind == "catavgmax" else 3)
    found = pooling_gradient(alpha, gradient, kind, p=p)
    assert found.shape == alpha.shape
    for c, y, x in product(range(3), range(height), range(width)):
        step = np.zeros(alpha.shape)
        step[c, y, x] = 1e-6
        slope = (decompose.pool(alpha + step, kind, p=p) - decompose.pool(alpha - step, kind, p=p)) / 2e-6
        assert found[c, y, x] == pytest.approx(float(slope @ gradient), abs=1e-6, rel=1e-5)


def test_a_maximum_that_places_share_has_equal_gradients_there() -> None:
    alpha = np.array([[[1.0, 3.0], [3.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])
    found = pooling_gradient(alpha, np.array([4.0, 8.0]), "max")
    np.testing.assert_array_equal(found, [[[0, 2], [2, 0]], [[2, 2], [2, 2]]])
    floored = pooling_gradient(np.zeros((1, 2, 2)), np.ones(1), "gem", p=np.inf)
    np.testing.assert_array_equal(floored, np.zeros((1, 2, 2)))  # below the floor nothing moves


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(DecompositionError, match="pooling is 'median'"):
        pooling_gradient(np.ones((1, 2, 2)), np.ones(1), "median")


@pytest.mark.parametrize("name", ["avg", "max", "gem", "catavgmax", "affine_bias", "max_affine", "weights"])
def test_maps_of_an_artifact_equal_their_formulas_written_out(name: str) -> None:
    with Engine(ARTIFACTS / f"{name}.onnx", device="cpu") as engine:
        contract = engine.contract
        image, other = engine.activations(PAIR)
    # The derivative of the cosine by the embedding, then by the activations.
    e_i, e_j = image.embedding.astype(float), other.embedding.astype(float)
    size = np.sqrt((e_i**2).sum())
    unit = e_j / np.sqrt((e_j**2).sum())
    score = float(e_i @ unit) / size
    by_embedding = (unit - score * e_i / size) / size
    assert (image.alpha is None) == contract.has_parts
    if image.alpha is None:
        alpha = image.parts.transpose(2, 0, 1).astype(float)
        gradient = np.broadcast_to(by_embedding[:, None, None], alpha.shape)
    else:
        alpha = image.alpha.astype(float)
        pooled = decompose.pool(alpha, contract.pooling, p=contract.p, eps=contract.eps or 1e-6)
        np.testing.assert_allclose(pooled, e_i, atol=1e-5 * size)  # it is the map that is pooled
        gradient = pooling_gradient(
            alpha, by_embedding, contract.pooling, p=contract.p, eps=contract.eps or 1e-6
        )
    activations, own = activations_and_gradient(image, other, contract)
    np.testing.assert_array_equal(activations, alpha)
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(own, gradient, atol=1e-4 * largest)
    channels, height, width = alpha.shape
    expected = {key: np.zeros((height, width)) for key in ("grad_cam", "layer_cam", "gxa", "norm")}
    for y, x in product(range(height), range(width)):
        for c in range(channels):
            mean = gradient[c].sum() / (height * width)
            expected["grad_cam"][y, x] += mean * alpha[c, y, x]
            expected["layer_cam"][y, x] += max(gradient[c, y, x], 0) * alpha[c, y, x]
            expected["gxa"][y, x] += gradient[c, y, x] * alpha[c, y, x]
            expected["norm"][y, x] += alpha[c, y, x] ** 2
    maps = order_maps(image, other, contract)
    close = {"atol": 1e-5, "rtol": 1e-4}
    np.testing.assert_allclose(maps["grad_cam"], np.maximum(expected["grad_cam"], 0), **close)
    np.testing.assert_allclose(maps["layer_cam"], np.maximum(expected["layer_cam"], 0), **close)
    np.testing.assert_allclose(maps["norm"], np.sqrt(expected["norm"]), **close)
    np.testing.assert_allclose(maps["mean"], (maps["map"] + maps["influence"]) / 2, atol=1e-7)
    if "gradient_x_activation" in maps:
        np.testing.assert_allclose(maps["gradient_x_activation"], expected["gxa"], **close)
    else:
        assert skipped_orders(contract, maps) == {"gradient_x_activation": "it is the influence here"}
        np.testing.assert_allclose(maps["influence"], expected["gxa"], **close)
    # The first principal component, by power iteration.
    flat = alpha.reshape(channels, -1)
    component = np.ones(channels)
    for _ in range(2000):
        component = flat @ (flat.T @ component)
        component /= np.sqrt((component**2).sum())
    eigen = (component @ flat).reshape(height, width)
    eigen *= np.sign(eigen.sum())
    np.testing.assert_allclose(
        maps["eigen_cam"] / np.abs(maps["eigen_cam"]).max(), eigen / np.abs(eigen).max(), atol=1e-3
    )


def test_the_floor_of_a_generalised_mean_is_that_of_the_contract() -> None:
    with Engine(ARTIFACTS / "gem.onnx", device="cpu") as engine:
        image, other = engine.activations(PAIR)
    assert image.alpha is not None
    eps = float(np.median(image.alpha))
    contract = replace(engine.contract, eps=eps)
    _, gradient = activations_and_gradient(image, other, contract)
    assert not gradient[image.alpha <= eps].any() and gradient[image.alpha > eps].all()


def test_grad_cam_of_average_pooling_is_the_positive_influence(tmp_path: Path) -> None:
    with Engine(ARTIFACTS / "avg.onnx", device="cpu") as engine:
        image, other = engine.activations(PAIR)
        maps = order_maps(image, other, engine.contract)
    np.testing.assert_allclose(maps["grad_cam"], np.maximum(maps["influence"], 0), atol=1e-6)


def test_a_class_token_has_orders_of_its_own() -> None:
    with Engine(ARTIFACTS / "token.onnx", device="cpu") as engine:
        image, other = engine.activations(PAIR)
        maps = order_maps(image, other, engine.contract)
    assert image.tokens is not None and image.attention is not None
    e_j = other.embedding.astype(float)
    for y, x in np.ndindex(image.tokens.shape[:2]):
        token = image.tokens[y, x].astype(float)
        cosine = float(token @ e_j) / np.sqrt((token**2).sum() * (e_j**2).sum())
        assert maps["token_cosine"][y, x] == pytest.approx(cosine, abs=1e-6)
    np.testing.assert_array_equal(maps["last_attention"], image.attention)
