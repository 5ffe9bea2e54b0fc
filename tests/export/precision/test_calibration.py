"""Statistics of photos, counted by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from simmap.export.precision.calibration import best_range, calibrate, exposing, quantization_step
from simmap.export.precision.layers import Layer, round_weights


def network() -> onnx.ModelProto:
    """The channels of a photo, and their sum and difference."""
    weight = np.array([[1, 1, 0], [1, -1, 0]], dtype=np.float32)[:, :, None, None]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["conv"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "h", "w", 3])],
        [helper.make_tensor_value_info("conv", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_statistics_are_means_over_all_photos_and_places() -> None:
    # given photos of two colours, half of the places each in the second
    first, second, black = (np.array(c, dtype=np.uint8) for c in ([10, 20, 30], [200, 100, 50], [0, 0, 0]))
    photos = [np.tile(first, (1, 2, 2, 1)), np.array([[[second, black], [second, black]]])]
    model = network()
    layer = Layer(model.graph.node[2], "x", "conv", np.zeros((2, 3, 1, 1)), np.zeros(2), 1)
    ranges = calibrate(model, [layer], iter(photos))
    colours = np.array([first, first, second, black], dtype=np.float64)
    np.testing.assert_allclose(layer.mean, [colours.mean(axis=0)], rtol=1e-6)
    np.testing.assert_allclose(layer.gram, [colours.T @ colours / 4], rtol=1e-6)
    # then each range holds 0 and what the tensor gave: sums up to 300, differences from -10 to 100
    assert set(ranges) == {"x", "conv"}
    low, high = ranges["x"]
    assert low == 0 and 0.9 * 200 < high <= 200
    low, high = ranges["conv"]
    assert low <= 0 and 0.9 * 300 < high <= 300 and low >= -10


def test_inner_tensors_are_given_once_beside_the_outputs() -> None:
    model = network()
    assert [o.name for o in exposing(model, ["x", "conv", "x"]).graph.output] == ["conv", "x"]
    assert [o.name for o in model.graph.output] == ["conv"]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (0, 255, 1, 0),
        (-255, 0, 1, 255),
        (-51, 204, 1, 51),
        (0, 0, 1, 0),
        (0, 25.5, 0.1, 0),
        (-0.5, 0.7, 1.2 / 255, 106),
    ],
)
def test_a_step_and_its_zero_point(low: float, high: float, scale: float, zero: int) -> None:
    found = quantization_step(low, high)
    assert found[0] == pytest.approx(scale) and found[1] == zero
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.uint8)


def test_an_outlier_is_cut_off_where_that_costs_less() -> None:
    # given values of 1/2 steps of the whole range, and one at its end
    values = np.append(np.full(100_000, 0.502 / 255 * 2), 2.0)
    low, high = best_range(values, 0.0, 2.0)
    assert low == 0 and 0.8 <= high < 2
    # and where the values fill the range evenly, nothing is
    assert best_range(np.arange(256.0), 0.0, 255.0) == (0.0, 255.0)
    assert best_range(np.zeros(4), 0.0, 0.0) == (0.0, 0.0)


def test_weights_that_the_grid_holds_are_kept_exactly() -> None:
    # given weights in steps of 1/127 of each channel's largest
    rng = np.random.default_rng(0)
    whole = rng.integers(-127, 128, size=(4, 200, 1, 1))
    whole[:, 0] = 127
    whole[3] = 0  # a channel of zeros
    steps = np.array([1.0, 0.5, 2.0, 1.0]) / 127
    layer = Layer(
        helper.make_node("Conv", [], []), "x", "y", whole * steps[:, None, None, None], np.arange(4.0), 1
    )
    x = rng.normal(size=(1, 500, 200)) + 1
    layer.gram, layer.mean = x.transpose(0, 2, 1) @ x / 500, x.mean(axis=1)
    levels, found, bias = round_weights(layer)
    np.testing.assert_array_equal(levels, whole)
    np.testing.assert_allclose(found[:3], steps[:3], rtol=1e-6)
    assert found[3] == 1
    np.testing.assert_allclose(bias, np.arange(4.0), atol=1e-4)
