"""Which tensor is the embedding: what is left behind it, and what is not."""

from typing import Any

import pytest

from networks import Net
from simmap.engine.errors import ExportError
from simmap.export.surgery.graph import Graph
from simmap.export.surgery.target import find_target, named_tensor, origin


def graph_of(net: Net, *outputs: str) -> Graph:
    return Graph(net.done(*outputs), name="net", size=None)


def feature(net: Net) -> str:
    """A vector of 8 features behind a pool."""
    return net.flat(net.op("GlobalAveragePool", net.trunk()))


def test_a_tensor_by_its_own_name_or_its_nodes() -> None:
    net = Net()
    x = net.op("Identity", net.op("Identity", feature(net)), to="last")
    constant = net.op("Neg", net.store(1.0), to="constant")
    graph = graph_of(net, net.op("Mul", x, constant))
    assert named_tensor(graph, "last") == named_tensor(graph, "node_last") == "last"
    assert origin(graph, "last") == next(n.output[0] for n in graph.nodes if n.op_type == "Flatten")
    for name in ("constant", "node_constant", "nothing"):
        with pytest.raises(ExportError, match=f"no tensor or node '{name}' that depends on the image"):
            named_tensor(graph, name)


def test_outputs_that_no_image_reaches_or_that_are_maps_are_no_embedding() -> None:
    net = Net()
    x = net.trunk()
    y = net.flat(net.op("GlobalAveragePool", x))
    constant = net.op("Neg", net.store(net.draw(1, 8)))
    assert find_target(graph_of(net, constant, x, y), "output")[0] == y
    with pytest.raises(ExportError, match=r"no output depends on the image"):
        find_target(graph_of(net, constant), "output")
    with pytest.raises(ExportError, match=r"has the outputs .*; name the embedding"):
        find_target(graph_of(net, y, net.op("Neg", y)), "output")


NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "L2": ("ReduceL2", {}),
    "L2 with a floor": ("ReduceL2", {"behind": "Clip"}),
    "L2 with a maximum": ("ReduceL2", {"behind": "Max"}),
    "root of the sum of squares": ("ReduceSumSquare", {"root": "Sqrt"}),
    "root of the sum of products": ("ReduceSum", {"root": "Sqrt", "square": "Mul"}),
    "root of the sum of powers": ("ReduceSum", {"root": "Sqrt", "square": "Pow"}),
    "power of the sum of products": ("ReduceSumSquare", {"root": "Sqrt", "inverse": "Reciprocal"}),
    "product with the inverse": ("ReduceL2", {"inverse": "Reciprocal"}),
    "product with one over it": ("ReduceL2", {"inverse": "Div"}),
}


def normed(net: Net, x: str, reduction: str, **changed: Any) -> str:
    """x times or over a number that a reduction of ``of`` gives."""
    y = changed.get("of", x)
    if changed.get("square") == "Mul":
        y = net.op("Mul", y, y)
    elif changed.get("square") == "Pow":
        y = net.op("Pow", y, net.store(changed.get("power", 2.0)))
    y = net.reduce(reduction, y, changed.get("axes", [1]))
    y = net.op(changed["root"], y) if changed.get("root") else y
    behind = changed.get("behind")
    y = (
        net.op(behind, y, *([net.store(1e-12)] if behind in ("Clip", "Max", "Add", "Mul") else []))
        if behind
        else y
    )
    inverse = changed.get("inverse")
    if inverse:
        y = net.op("Reciprocal", y) if inverse == "Reciprocal" else net.op("Div", net.store(1.0), y)
    op = changed.get("op", "Mul" if inverse else "Div")
    return net.op(op, y, x) if changed.get("turned") else net.op(op, x, y)


@pytest.mark.parametrize("name", NORMS)
def test_a_final_norm_is_left_behind_however_it_is_written(name: str) -> None:
    reduction, changed = NORMS[name]
    for turned in (False, True) if changed.get("inverse") else (False,):
        net = Net(opset=13)
        x = feature(net)
        target, notes, end = find_target(
            graph_of(net, normed(net, x, reduction, turned=turned, **changed)), "output"
        )
        assert (target, end, len(notes)) == (x, "norm", 1)


@pytest.mark.parametrize(
    ("reduction", "changed"),
    [
        ("ReduceL2", {"turned": True}),  # |x| / x
        ("ReduceL2", {"op": "Mul"}),  # x |x|
        ("ReduceL2", {"inverse": "Reciprocal", "op": "Div"}),  # x |x| again
        ("ReduceL2", {"behind": "Exp"}),
        ("ReduceL2", {"axes": [0]}),  # of one feature of all images
        ("ReduceL2", {"axes": [0, 1]}),
        ("ReduceL1", {}),
        ("ReduceMean", {"root": "Sqrt", "square": "Mul"}),
        ("ReduceSum", {"square": "Mul"}),  # without the root
        ("ReduceSumSquare", {}),
        ("ReduceSum", {"root": "Sqrt", "square": "Pow", "power": 3.0}),
        ("ReduceMax", {"root": "Sqrt"}),
    ],
)
def test_what_only_looks_like_a_final_norm_is_not(reduction: str, changed: dict[str, Any]) -> None:
    net = Net(opset=13)
    output = normed(net, feature(net), reduction, **changed)
    assert find_target(graph_of(net, output), "output") == (output, [], None)


def test_the_norm_of_another_vector_is_no_final_norm() -> None:
    net = Net(opset=13)
    x = feature(net)
    output = normed(net, x, "ReduceL2", of=net.op("GlobalMaxPool", net.trunk()), axes=[1, 2, 3])
    output = net.op("Reshape", output, net.ints(0, -1))
    assert find_target(graph_of(net, output), "output")[2] is None


@pytest.mark.parametrize(
    ("attributes", "is_norm"),
    [
        ({"axis": 1}, True),
        ({"axis": -1}, True),
        ({}, True),
        ({"axis": 1, "p": 1}, False),
        ({"axis": 0}, False),
    ],
)
def test_a_norm_in_one_node_is_of_the_features(attributes: dict[str, int], is_norm: bool) -> None:
    net = Net(opset=13)
    x = feature(net)
    output = net.op("LpNormalization", x, **attributes)
    target, _, end = find_target(graph_of(net, output), "output")
    assert (target, end) == ((x, "norm") if is_norm else (output, None))


@pytest.mark.parametrize("scores", ["Softmax", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "MatMul Add", "Conv", "Conv Add"])
def test_a_classifier_with_its_bias_is_left_behind(kind: str, scores: str) -> None:
    net = Net()
    pooled = net.op("GlobalAveragePool", net.trunk())
    x = pooled if "Conv" in kind else net.flat(pooled)
    if kind == "Gemm":
        y, _, _ = net.gemm(x, 8, 5)
    elif "Conv" in kind:
        y = net.op("Conv", x, net.store(net.draw(5, 8, 1, 1)))
        y = net.op("Add", y, net.store(net.draw(5, 1, 1))) if "Add" in kind else y
        y = net.flat(y)
    else:
        y = net.op("MatMul", x, net.store(net.draw(8, 5)))
        y = net.op("Add", net.store(net.draw(5)), y) if "Add" in kind else y
    target, notes, end = find_target(graph_of(net, net.op(scores, y)), "output")
    assert (target, end) == (x, "scores")
    assert notes[0].startswith(f"the classifier ({scores} 'node_")


@pytest.mark.parametrize("kind", ["pooled scores", "bias alone", "two vectors"])
def test_scores_without_a_linear_classifier_are_the_embedding(kind: str) -> None:
    net = Net()
    if kind == "pooled scores":
        y = net.flat(net.op("GlobalAveragePool", net.conv(net.trunk(), 8, 5, kernel=1)))
    elif kind == "bias alone":
        y = net.op("Add", feature(net), net.store(net.draw(8)))
    else:
        x = feature(net)
        y = net.op("MatMul", x, net.op("Transpose", x))
    target, notes, end = find_target(graph_of(net, net.op("Softmax", y)), "output")
    expected = y if kind != "pooled scores" else target
    assert (target, end) == (expected, "scores") and "class scores themselves" in notes[0]


def test_a_classifier_of_each_place_is_not_left_behind() -> None:
    # Dense layers on maps stand before the pooling.
    net = Net()
    y = net.op("Conv", net.trunk(), net.store(net.draw(5, 8, 1, 1)), to="scores")
    target, notes, _ = find_target(graph_of(net, net.op("Sigmoid", y)), "output")
    assert target == "scores" and "class scores themselves" in notes[0]


def test_an_embedding_that_is_named_keeps_its_norm() -> None:
    net = Net(opset=13)
    output = normed(net, feature(net), "ReduceL2")
    assert find_target(graph_of(net, output), output) == (output, [], None)
