"""Tails in a graph as steps: these, and the nodes written of them, give what the source's nodes give.

Places and rest sum to it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from networks import Net
from simmap.export.held import carry, run
from simmap.export.surgery.carrying import add_tail, add_tail_values
from simmap.export.surgery.gated import gated_tail
from simmap.export.surgery.graph import Graph, plain_session
from simmap.export.surgery.nodes import Nodes
from simmap.export.surgery.steps import Gated, NotHeldError

Build = Callable[[Net, str], str]
FEATURES = 8


def steps_of(build: Build, *, opset: int = 17, scale: float = 1.0) -> tuple[Gated, np.ndarray[Any, Any], Any]:
    """The steps of a tail behind a pool, and for two photos the pooled features and what the graph gives."""
    net = Net((8, 12), opset=opset)
    start = net.flat(net.op("GlobalAveragePool", net.trunk()))
    output = build(net, start)
    graph = Graph(net.done(output), name="net", size=None)
    gated = gated_tail(graph, start, output, scale=scale, bias=np.zeros(FEATURES))
    images = np.random.default_rng(1).normal(size=(2, 3, *net.size)).astype(np.float32)
    features, values = plain_session(net.done(start, output)).run(None, {net.inputs[0].name: images})
    return gated, features.astype(np.float64) / scale, values.reshape(2, -1)


def written(
    gated: Gated, features: np.ndarray[Any, Any], parts: np.ndarray[Any, Any]
) -> list[np.ndarray[Any, Any]]:
    """Embedding and parts by the artifact's own nodes, and the embeddings of further features."""
    nodes = Nodes((gated.dimension, *parts.shape[1:3]), dynamic=False)
    add_tail(nodes, gated, "value", "given")
    again = add_tail_values(nodes, gated, "further")
    kind = TensorProto.FLOAT
    inputs = {"value": ["N", FEATURES], "given": ["N", "H", "W", FEATURES], "further": ["M", FEATURES]}
    graph = helper.make_graph(
        nodes.nodes,
        "tail",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in ("embedding", "parts", again)],
        nodes.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", gated.opset)], ir_version=8)
    feed = {"value": features, "given": parts, "further": np.repeat(features, 2, axis=0)}
    return list(
        plain_session(model).run(None, {name: value.astype(np.float32) for name, value in feed.items()})
    )


def check(build: Build, *, opset: int = 17, scale: float = 1.0, tolerance: float = 1e-5) -> Gated:
    gated, features, values = steps_of(build, opset=opset, scale=scale)
    assert gated.dimension == values.shape[1]
    np.testing.assert_allclose(run(gated, features), values, rtol=10 * tolerance, atol=tolerance)
    shares = np.random.default_rng(2).dirichlet(np.ones(6), size=(2, FEATURES)).transpose(0, 2, 1)
    parts = (shares * features[:, None]).reshape(2, 2, 3, FEATURES)
    each, rest = carry(gated, features, parts)
    assert each.shape == (2, 2, 3, gated.dimension)
    np.testing.assert_allclose(each.sum(axis=(1, 2)) + rest, values, rtol=10 * tolerance, atol=tolerance)
    for found, expected in zip(
        written(gated, features, parts), (values, each, np.repeat(values, 2, axis=0)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=tolerance)
    if gated.bias is not None:  # what no place owns is the same for all images, and known
        np.testing.assert_allclose(rest, np.tile(gated.bias, (2, 1)), rtol=1e-6, atol=1e-9)
    return gated


def linear(net: Net, x: str, outside: int = FEATURES) -> str:
    return net.gemm(x, FEATURES, outside)[0]


def norm(kind: str, **attributes: Any) -> Build:
    def build(net: Net, x: str) -> str:
        count = attributes.get("weights", 1)
        weights = [net.store(1.5 + net.draw(FEATURES)) for _ in range(count)]
        given = {key: value for key, value in attributes.items() if key != "weights"}
        return net.op(kind, linear(net, x), *weights, **given)

    return build


TAILS: dict[str, Build] = {
    "a linear layer": linear,
    "sum of branches": lambda net, x: net.op("Add", linear(net, x), linear(net, x)),
    "difference of linear branches": lambda net, x: net.op("Sub", linear(net, x), linear(net, x)),
    "two linear layers": lambda net, x: linear(net, linear(net, x)),
    "L2 norm": norm("LpNormalization", weights=0),
    "L2 norm, axis 1": norm("LpNormalization", weights=0, axis=1, p=2),
    "layer norm": norm("LayerNormalization"),
    "layer norm with a bias": norm("LayerNormalization", weights=2),
    "layer norm, epsilon": norm("LayerNormalization", weights=2, epsilon=0.5, axis=1),
    "norm without its mean": norm("SimplifiedLayerNormalization", epsilon=0.5),
    "norm by the root": lambda net, x: net.op("Div", x, net.reduce("ReduceL2", linear(net, x), [1])),
    "over a sum of squares": lambda net, x: net.op(
        "Div", x, net.op("ReduceSumSquare", x, axes=[1], keepdims=1)
    ),
    "less its mean": lambda net, x: net.op("Sub", x, net.op("ReduceMean", x, axes=[1], keepdims=1)),
    "mean less itself": lambda net, x: net.op("Sub", net.op("ReduceMean", x, axes=[-1], keepdims=1), x),
    "plus its sum": lambda net, x: net.op("Add", net.reduce("ReduceSum", x, [1]), x),
    "residual": lambda net, x: net.op("Add", x, linear(net, net.op("Relu", linear(net, x)))),
    "difference of branches": lambda net, x: net.op("Sub", linear(net, x), net.op("Tanh", linear(net, x))),
    "gate on the right": lambda net, x: net.op("Mul", x, net.op("Sigmoid", linear(net, x))),
    "gate on the left": lambda net, x: net.op("Mul", net.op("Sigmoid", linear(net, x)), x),
    "gate of a gate": lambda net, x: net.op("Mul", net.op("Tanh", y := net.op("Relu", linear(net, x))), y),
    "table of sums": lambda net, x: net.flat(
        net.op("Add", net.op("Reshape", x, net.ints(0, 8, 1)), net.op("Reshape", x, net.ints(0, 1, 8)))
    ),
    "square": lambda net, x: net.op("Mul", x, x),
    "over a gate": lambda net, x: net.op("Div", x, net.op("Exp", linear(net, x))),
    "softmax as a gate": lambda net, x: net.op("Mul", x, net.op("Softmax", linear(net, x))),
    "negative": lambda net, x: net.op("Neg", net.op("Relu", linear(net, x))),
    "stacked": lambda net, x: net.op("Concat", net.op("Relu", linear(net, x)), x, linear(net, x, 3), axis=1),
    "stacked, axis -1": lambda net, x: net.op("Concat", x, linear(net, x, 3), axis=-1),
    "turned": lambda net, x: net.op("Gather", linear(net, x), net.ints(3, 1, 0), axis=1),
    "cut": lambda net, x: net.op("Slice", linear(net, x), net.ints(2), net.ints(7), net.ints(1)),
    "every other": lambda net, x: net.op(
        "Slice", linear(net, x), net.ints(1), net.ints(8), net.ints(1), net.ints(2)
    ),
    "as a map": lambda net, x: net.flat(
        net.op("GlobalAveragePool", net.op("Relu", net.op("Reshape", linear(net, x), net.ints(0, 8, 1, 1))))
    ),
    "as a map, mean": lambda net, x: net.op(
        "ReduceMean", net.op("Relu", net.op("Reshape", x, net.ints(0, 8, 1, 1))), axes=[2, 3], keepdims=0
    ),
    "convolution of one place": lambda net, x: net.flat(
        net.op(
            "Conv",
            net.op("Reshape", net.op("Relu", x), net.ints(0, 8, 1, 1)),
            net.store(net.draw(5, 8, 1, 1)),
        )
    ),
    "BatchNormalization": lambda net, x: net.norm(net.op("Relu", linear(net, x)), FEATURES)[0],
    "times a constant": lambda net, x: net.op("Mul", net.store(net.draw(8)), net.op("Relu", x)),
    "over a constant": lambda net, x: net.op("Div", net.op("Relu", x), net.store(1.5 + net.draw(8))),
    "constant less it": lambda net, x: net.op("Sub", net.store(net.draw(8)), net.op("Relu", x)),
    "it less a constant": lambda net, x: net.op("Sub", net.op("Relu", x), net.store(0.5)),
    "one over it, as a gate": lambda net, x: net.op(
        "Mul", x, net.op("Div", net.store(1.0), net.op("Exp", x))
    ),
    "Clip": lambda net, x: net.op("Clip", linear(net, x), net.store(-0.1), net.store(0.2)),
    "Clip without a floor": lambda net, x: net.op("Clip", linear(net, x), "", net.store(0.2)),
    "PRelu": lambda net, x: net.op("PRelu", linear(net, x), net.store(net.draw(8))),
    "maximum with 0": lambda net, x: net.op("Max", net.store(0.0), linear(net, x)),
    "root": lambda net, x: net.op("Sqrt", net.op("Relu", linear(net, x))),
    "spread over a gate": lambda net, x: net.op(
        "Mul", linear(net, x), net.op("Sigmoid", net.reduce("ReduceSum", x, [1]))
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_steps_give_what_the_nodes_give(name: str) -> None:
    check(TAILS[name])


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_a_start_that_is_a_multiple_of_the_feature(scale: float) -> None:
    for name in ("a linear layer", "gate on the right", "layer norm with a bias"):
        check(TAILS[name], scale=scale)


@pytest.mark.parametrize(("opset", "axis"), [(11, None), (11, 1), (13, None), (13, -1), (13, 1)])
def test_a_softmax_of_each_opset(opset: int, axis: int | None) -> None:
    given = {} if axis is None else {"axis": axis}
    check(lambda net, x: net.op("Mul", x, net.op("Softmax", linear(net, x), **given)), opset=opset)


def test_a_softmax_of_an_old_opset_flattens_a_map_and_a_later_one_does_not() -> None:
    def build(net: Net, x: str) -> str:
        x = net.op("Reshape", linear(net, x), net.ints(0, 8, 1, 1))
        return net.flat(net.op("Mul", x, net.op("Softmax", x)))

    check(build, opset=11)
    with pytest.raises(NotHeldError):  # eight lanes of one number each
        steps_of(build, opset=13)


def test_what_no_place_owns_is_known_where_nothing_holds_it() -> None:
    for name in ("a linear layer", "two linear layers", "stacked, axis -1", "turned", "cut"):
        gated = check(TAILS[name])
        assert gated.is_affine and gated.bias is not None and gated.bias.any()
    for name in ("square", "over a constant", "plus its sum", "less its mean", "mean less itself"):
        bias = check(TAILS[name]).bias
        assert bias is not None and not bias.any()  # gates of what has no constant part
    for name in ("residual", "layer norm", "gate of a gate", "L2 norm", "stacked"):
        assert check(TAILS[name]).bias is None


@pytest.mark.parametrize(
    ("build", "op"),
    [
        (lambda net, x: net.op("Sigmoid", linear(net, x)), "Sigmoid"),
        (lambda net, x: net.op("Softmax", linear(net, x)), "Softmax"),
        (lambda net, x: net.op("Max", x, linear(net, x)), "Max"),
        (lambda net, x: net.op("Mul", linear(net, x), linear(net, x)), "Mul"),
        (lambda net, x: net.op("Div", net.store(1.0), net.op("Exp", x)), "Exp"),
        (lambda net, x: net.op("LpNormalization", linear(net, x), p=1), "LpNormalization"),
        (lambda net, x: net.op("Max", net.store(0.5), x), "Max"),
        (
            lambda net, x: net.op("ReduceL2", net.op("Reshape", x, net.ints(0, 8, 1)), axes=[2], keepdims=1),
            "ReduceL2",
        ),
        (lambda net, x: net.op("ReduceMean", x, axes=[0], keepdims=1), "ReduceMean"),
        (
            lambda net, x: net.op(
                "ReduceMean", net.op("Reshape", x, net.ints(0, 2, 4)), axes=[2], keepdims=0
            ),
            "ReduceMean",
        ),
        (lambda net, x: net.op("Hardmax", x), "Hardmax"),
        (
            lambda net, x: net.op(
                "LayerNormalization", net.op("Reshape", x, net.ints(0, 2, 4)), net.store(net.draw(4))
            ),
            "LayerNormalization",
        ),
        (
            lambda net, x: net.op(
                "MatMul", net.op("Reshape", x, net.ints(0, 2, 4)), net.store(net.draw(4, 4))
            ),
            "MatMul",
        ),
    ],
)
def test_what_no_rule_covers_is_named(build: Build, op: str) -> None:
    with pytest.raises(NotHeldError) as error:
        steps_of(lambda net, x: net.op("Identity", build(net, x)))
    assert error.value.node.op_type == op
