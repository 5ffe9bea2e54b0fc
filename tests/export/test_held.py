"""What each place adds to a gated embedding, by hand in a few numbers."""

import numpy as np
import onnx
import pytest
from onnx import helper

from simmap.export.held import attended_parts, carry, run
from simmap.export.surgery.attention import Attention
from simmap.export.surgery.steps import Gated, Step


def gated(*steps: Step, size: int, start: np.ndarray | None = None) -> Gated:
    return Gated("start", steps[-1].output, steps, size, 17, start, None)


def relu() -> onnx.NodeProto:
    return helper.make_node("Relu", ["x"], ["y"])


PARTS = np.array([[[[1.0, 2.0]], [[3.0, -6.0]]]])  # (1, 2, 1, 2): two places
FEATURE = PARTS.sum(axis=(1, 2))  # (4, -4)


def test_a_matrix_acts_on_the_places_without_its_bias() -> None:
    matrix, bias = np.array([[1.0, 1.0], [0.0, 2.0], [1.0, 0.0]]), np.array([10.0, 20.0, 30.0])
    tail = gated(Step("linear", ("start",), "a", (2,), 3, matrix=matrix, bias=bias), size=3)
    each, rest = carry(tail, FEATURE, PARTS)
    np.testing.assert_array_equal(each, [[[[3, 4, 1]], [[-3, -12, 3]]]])
    np.testing.assert_array_equal(rest, [[10, 20, 30]])
    np.testing.assert_array_equal(run(tail, FEATURE), [[10, 12, 34]])


def test_a_gate_is_what_the_function_gives_over_what_it_takes() -> None:
    tail = gated(Step("gate", ("start",), "a", (2,), 2, node=relu(), constants=(None,)), size=2)
    each, rest = carry(tail, FEATURE, PARTS)
    np.testing.assert_array_equal(each, [[[[1, 0]], [[3, 0]]]])  # 4 / 4, and 0 / -4
    np.testing.assert_array_equal(rest, [[0, 0]])
    # where the function takes 0, the gate is 0
    each, _ = carry(tail, np.zeros((1, 2)), PARTS)
    np.testing.assert_array_equal(each, np.zeros_like(PARTS))


def test_a_feature_that_no_place_owns_goes_the_same_way() -> None:
    tail = gated(Step("gate", ("start",), "a", (2,), 2, node=relu(), constants=(None,)), size=2)
    each, rest = carry(tail, FEATURE + np.array([[2.0, 20.0]]), PARTS)
    np.testing.assert_array_equal(each, PARTS)  # both gates are open
    np.testing.assert_array_equal(rest, [[2, 20]])


@pytest.mark.parametrize("divides", [False, True])
def test_a_factor_is_held(divides: bool) -> None:
    bias = np.array([1.0, 6.0])
    shifted = Step("linear", ("start",), "a", (2,), 2, matrix=np.ones(2), bias=bias)  # (5, 2)
    tail = gated(shifted, Step("scale", ("a", "start"), "b", (2, 2), 2, divides=divides), size=2)
    each, rest = carry(tail, FEATURE, PARTS)
    factor = 1 / FEATURE if divides else FEATURE
    np.testing.assert_allclose(each, PARTS * factor, rtol=1e-12)
    np.testing.assert_allclose(rest, bias * factor, rtol=1e-12)
    np.testing.assert_allclose(run(tail, FEATURE), (FEATURE + bias) * factor, rtol=1e-12)


def test_differences_means_norms_stacks_and_choices() -> None:
    # (x - mean(x)) / |x|, beside x in turned order
    tail = gated(
        Step("mean", ("start",), "mean", (2,), 1),
        Step("sum", ("start", "mean"), "centred", (2, 1), 2, signs=(1, -1)),
        Step("norm", ("start",), "norm", (2,), 1),
        Step("scale", ("centred", "norm"), "unit", (2, 1), 2, divides=True),
        Step("pick", ("start",), "turned", (2,), 2, index=np.array([1, 0])),
        Step("concat", ("unit", "turned"), "all", (2, 2), 4),
        size=4,
    )
    each, rest = carry(tail, FEATURE, PARTS)
    length = np.sqrt(32)
    expected = [[-0.5 / length, 0.5 / length, 2, 1], [4.5 / length, -4.5 / length, -6, 3]]
    np.testing.assert_allclose(each[0, :, 0], expected, rtol=1e-12)
    np.testing.assert_array_equal(rest, np.zeros((1, 4)))
    np.testing.assert_allclose(run(tail, FEATURE), [[4 / length, -4 / length, -4, 4]], rtol=1e-12)


@pytest.mark.parametrize("has_mean", [False, True])
def test_a_place_adds_its_value_times_its_weight_head_by_head(has_mean: bool) -> None:
    heads, queries, width, places = 2, 3, 2, 2
    tokens = places + has_mean
    rng = np.random.default_rng(0)
    weights, values = rng.normal(size=(4, heads, queries, tokens)), rng.normal(size=(4, heads, tokens, width))
    attention = Attention("x", "NCHW", (4, 1, 2), "y", "a", "v", heads, queries, tokens, width, has_mean)
    found = attended_parts(attention, weights.reshape(4 * heads, queries, tokens), values)
    assert found.shape == (4, 1, 2, 4)
    for image in range(4):
        for place in range(places):
            expected = np.concatenate(
                [
                    weights[image, h, 0, place + has_mean] * values[image, h, place + has_mean]
                    + (weights[image, h, 0, 0] * values[image, h, 0] / places if has_mean else 0)
                    for h in range(heads)
                ]
            )
            np.testing.assert_allclose(found[image, 0, place], expected, rtol=1e-12)
