"""Affine maps behind the pooling, against dense matrices in float64."""

from typing import Any

import numpy as np
import pytest

import networks
from networks import Net
from simmap.engine.errors import ExportError
from simmap.export.surgery.affine import Affine, affine_tail, node_as_affine
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.graph import Graph, plain_session
from simmap.export.surgery.views import MixedError, lane_of


def graph_of(net: Net, output: str) -> Graph:
    return Graph(net.done(output), name="net", size=None)


def feature(net: Net) -> str:
    """A vector of 8 features behind a pool."""
    return net.flat(net.op("GlobalAveragePool", net.trunk()))


def dense(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.diag(matrix) if matrix.ndim == 1 else matrix


@pytest.mark.parametrize("first", ["ones", "diagonal", "dense"])
@pytest.mark.parametrize("second", ["diagonal", "dense"])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_one_map_after_another(first: str, second: str, shift: float) -> None:
    rng = np.random.default_rng(0)
    matrices = {"ones": np.ones(4), "diagonal": rng.normal(size=4), "dense": rng.normal(size=(4, 4))}
    one = Affine(matrices[first], shift * rng.normal(size=4))
    matrix, bias = (
        rng.normal(size=4 if second == "diagonal" else (3, 4)),
        rng.normal(size=len(dense(np.ones(4)))),
    )
    bias = bias[: len(matrix)]
    both = one.then(matrix, bias)
    np.testing.assert_allclose(dense(both.matrix), dense(matrix) @ dense(one.matrix), rtol=1e-12)
    np.testing.assert_allclose(both.bias, dense(matrix) @ one.bias + bias, rtol=1e-12)
    x = rng.normal(size=4)
    np.testing.assert_allclose(both.applied(x), dense(both.matrix) @ x, rtol=1e-12)
    assert both.dimension == len(matrix)


def gemm(net: Net, x: str, shape: tuple[int, int], **attributes: Any) -> str:
    bias = [net.store(net.draw(attributes.pop("bias")))] if "bias" in attributes else []
    return net.op("Gemm", x, net.store(net.draw(*shape)), *bias, **attributes)


NODES: dict[str, Any] = {
    "Gemm": lambda net, x: gemm(net, x, (8, 5)),
    "Gemm, transB": lambda net, x: gemm(net, x, (5, 8), transB=1, bias=5),
    "Gemm, alpha": lambda net, x: gemm(net, x, (5, 8), transB=1, alpha=0.5, bias=5),
    "Gemm, beta": lambda net, x: gemm(net, x, (8, 5), beta=2.0, bias=5),
    "Gemm, one bias": lambda net, x: gemm(net, x, (8, 5), beta=2.0, bias=1),
    "MatMul": lambda net, x: net.op("MatMul", x, net.store(net.draw(8, 5))),
    "Neg": lambda net, x: net.op("Neg", x),
    "Add": lambda net, x: net.op("Add", net.store(net.draw(8)), x),
    "Add, one number": lambda net, x: net.op("Add", x, net.store(0.5)),
    "Sub": lambda net, x: net.op("Sub", x, net.store(net.draw(8))),
    "Sub from": lambda net, x: net.op("Sub", net.store(net.draw(8)), x),
    "Mul": lambda net, x: net.op("Mul", net.store(net.draw(8)), x),
    "Div": lambda net, x: net.op("Div", x, net.store(1.5 + net.draw(8))),
    "BatchNormalization": lambda net, x: net.norm(x, 8)[0],
    "BatchNormalization, epsilon": lambda net, x: net.op(
        "BatchNormalization", x, *(net.store(1 + net.draw(8) ** 2) for _ in range(4)), epsilon=0.5
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_its_matrix_and_bias(name: str) -> None:
    net = Net()
    x = feature(net)
    output = NODES[name](net, x)
    graph = graph_of(net, output)
    matrix, bias = node_as_affine(graph, graph.producer[output], 8)
    image = np.random.default_rng(1).normal(size=(1, 3, *net.size)).astype(np.float32)
    before, after = plain_session(net.done(x, output)).run(None, {net.inputs[0].name: image})
    np.testing.assert_allclose(dense(matrix) @ before[0] + bias, after[0], rtol=1e-4, atol=1e-5)
    # A dense matrix may be large, so it keeps the source's precision.
    assert matrix.dtype == (np.float32 if matrix.ndim == 2 else np.float64)


@pytest.mark.parametrize(("group", "has_bias"), [(1, True), (1, False), (2, True), (4, False), (8, True)])
def test_a_convolution_behind_the_pool_in_groups(group: int, has_bias: bool) -> None:
    net = Net()
    x = net.op("GlobalAveragePool", net.trunk())
    inputs = [net.store(net.draw(16, 8 // group, 1, 1)), *([net.store(net.draw(16))] if has_bias else [])]
    output = net.op("Conv", x, *inputs, group=group)
    graph = graph_of(net, output)
    matrix, bias = node_as_affine(graph, graph.producer[output], 8)
    image = np.random.default_rng(1).normal(size=(1, 3, *net.size)).astype(np.float32)
    before, after = plain_session(net.done(x, output)).run(None, {net.inputs[0].name: image})
    np.testing.assert_allclose(matrix @ before.ravel() + bias, after.ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda net, x: net.op("Div", net.store(1.0), x), "divides by the feature; not affine"),
        (lambda net, x: net.op("MatMul", x, net.op("Transpose", x)), "has no constant weight; not affine"),
        (
            lambda net, x: net.op(
                "Gemm", net.op("Reshape", x, net.ints(8, 1)), net.store(net.draw(8, 5)), transA=1
            ),
            "transposes the batch; not affine",
        ),
        (
            lambda net, x: net.op(
                "MatMul", net.op("Reshape", x, net.ints(1, 2, 4)), net.store(net.draw(4, 4))
            ),
            "mixes places and features",
        ),
    ],
)
def test_a_node_that_is_not_affine_is_named(build: Any, told: str) -> None:
    net = Net()
    x = feature(net)
    output = build(net, x)
    with pytest.raises(ExportError, match=told):
        affine_tail(graph_of(net, output), x, output, 8)


def test_notation_alone_is_no_map() -> None:
    net = Net()
    x = feature(net)
    y = net.op("Unsqueeze", net.op("Identity", x), net.ints(2))
    assert affine_tail(graph_of(net, y), x, y, 8) is None
    z = net.op("Squeeze", net.op("Neg", y), net.ints(2))
    tail = affine_tail(graph_of(net, z), x, z, 8)
    assert tail is not None
    np.testing.assert_array_equal(tail.matrix, -np.ones(8))


def test_a_lane_is_the_one_that_is_wholly_of_interest() -> None:
    mask = np.zeros((1, 2, 3), dtype=bool)
    mask[0, 1] = True
    np.testing.assert_array_equal(lane_of(mask, (2,)), [[[False], [True]]])
    np.testing.assert_array_equal(lane_of(np.ones((1, 2, 3), dtype=bool), (1, 2)), [[[True]]])
    part = mask.copy()
    part[0, 1, 2] = False
    for bad, axes in ((mask, (1,)), (mask, (1, 2)), (part, (2,)), (np.ones((1, 2, 3), dtype=bool), (2,))):
        with pytest.raises(MixedError):
            lane_of(bad, axes)
    with pytest.raises(MixedError):
        lane_of(np.zeros((1, 2, 3), dtype=bool), (1, 2))


@pytest.mark.parametrize(
    "kinds", [("Flatten", "MatMul"), ("Flatten", "Gemm", "MatMul", "Mul"), ("Conv", "Flatten")]
)
def test_linear_layers_behind_the_pool_are_one_map_and_no_steps(kinds: tuple[str, ...]) -> None:
    network = networks.tail(*kinds)
    exposure = analyse(Graph(network.model, name="net", size=None))
    assert exposure.gated is None and exposure.tail is not None
    x = np.random.default_rng(0).normal(size=(8, 2, 3))
    mean = x.mean(axis=(1, 2))
    np.testing.assert_allclose(
        exposure.tail.applied(mean) + exposure.tail.bias, network.head(x), rtol=1e-5, atol=1e-6
    )
