"""The look-ups of a graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from networks import Net
from simmap.engine.errors import ExportError
from simmap.export.surgery.graph import Graph, attribute, raise_opset, single_number, skip


def graph_of(net: Net, *outputs: str, size: tuple[int, int] | None = None) -> Graph:
    return Graph(net.done(*outputs), name="net", size=size)


def input_only(shape: list[int | str], size: tuple[int, int] | None = None) -> Graph:
    """A graph that is one Relu on an input of a shape."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([relu], "one", [entry], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Graph(model, name="net", size=size)


@pytest.mark.parametrize(
    ("shape", "size", "is_last", "expected"),
    [
        ([1, 3, 20, 30], None, False, (20, 30)),
        ([1, 20, 30, 3], None, True, (20, 30)),
        (["N", "C", 20, 30], None, False, (20, 30)),
        (["N", 3, "h", "w"], None, False, (224, 224)),
        (["N", 3, 20, "w"], None, False, (20, 224)),
        (["N", 3, 20, "w"], (20, 50), False, (20, 50)),
        (["N", "h", "w", 3], (40, 50), True, (40, 50)),
        ([1, 3, 5, 3], None, False, (5, 3)),  # 3 in both places is channels first
        ([1, 3, 20, 30], (20, 30), False, (20, 30)),
    ],
)
def test_the_axes_and_sides_of_the_input(
    shape: list[int | str], size: tuple[int, int] | None, is_last: bool, expected: tuple[int, int]
) -> None:
    graph = input_only(shape, size)
    assert (graph.channels_last, graph.size) == (is_last, expected)
    assert graph.shape("x") == graph.shape("y") == ((1, *expected, 3) if is_last else (1, 3, *expected))


@pytest.mark.parametrize(
    ("shape", "size", "told"),
    [
        ([1, 1, 20, 30], None, "an image input has 3 channels"),
        ([1, 4, 20, 30], None, "an image input has 3 channels"),
        ([1, 3, 20, 30], (20, 31), "takes 20 x 30 only, size is 20 x 31"),
        ([1, 3, 20, 30], (21, 30), "takes 20 x 30 only, size is 21 x 30"),
        (["N", 3, "h", 30], (20, 31), "takes 0 x 30 only"),
        ([1, 20, 30, 3], (30, 20), "takes 20 x 30 only"),
        ([1, 3, 20], None, "must have one image input of four axes, has the inputs: x"),
    ],
)
def test_an_input_that_is_no_image_or_another_size_is_refused(
    shape: list[int | str], size: tuple[int, int] | None, told: str
) -> None:
    with pytest.raises(ExportError, match=told):
        input_only(shape, size)


def test_what_depends_on_the_image_and_what_on_its_shape_alone() -> None:
    net = Net()
    x = net.trunk()
    sides = net.op("Shape", x)
    two = net.op("Add", net.ints(1), net.ints(1))
    y = net.op(
        "Reshape", x, net.op("Concat", net.op("Slice", sides, net.ints(0), net.ints(2)), net.ints(-1), axis=0)
    )
    graph = graph_of(net, y, two)
    assert {x, y} <= graph.dynamic and not {sides, two} & graph.dynamic
    assert sides in graph.sized and two not in graph.sized
    assert graph.constant(x) is None
    np.testing.assert_array_equal(graph.constant(sides), [1, 8, 8, 8])
    np.testing.assert_array_equal(graph.constant(two), [2])
    assert graph.data_inputs(graph.producer[y]) == [x]


def test_a_dominator_is_crossed_by_every_path() -> None:
    net = Net()
    x = net.trunk()
    gate = net.op("Sigmoid", net.op("GlobalAveragePool", x))
    y = net.op("Mul", x, gate)
    z = net.op("Neg", y)
    found = graph_of(net, net.op("Add", y, z)).dominators(net.nodes[-1].output[0])
    assert found[:3] == [net.nodes[-1].output[0], y, x]
    assert gate not in found and z not in found and found[-1] == net.inputs[0].name
    assert graph_of(net, z).dominators("nothing") == []


def test_the_way_to_a_tensor_leaves_the_rest_out() -> None:
    net = Net()
    x = net.trunk()
    used = net.op("Mul", x, net.store(2.0, "used"))
    net.op("Mul", x, net.store(3.0, "unused"))
    nodes, needed = graph_of(net, net.nodes[-1].output[0]).upstream([used])
    assert [node.output[0] for node in nodes] == [node.output[0] for node in net.nodes[:-1]]
    assert "used" in needed and "unused" not in needed


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.array(3.0), 3.0),
        (np.full((2, 2), 0.5), 0.5),
        (np.array([1.0, 2.0]), None),
        (np.zeros(0), None),
        (None, None),
    ],
)
def test_one_number_however_often(value: Any, number: float | None) -> None:
    assert single_number(value) == number


def test_notation_is_skipped_and_a_flattened_map_is_not() -> None:
    net = Net()
    x = net.trunk()
    pooled = net.op("GlobalAveragePool", x)
    y = net.op("Reshape", net.op("Identity", net.flat(pooled)), net.ints(0, 8, 1))
    flat = net.op("Flatten", x)
    graph = graph_of(net, y, flat)
    passes = lambda node: node.op_type in ("Flatten", "Identity", "Reshape")  # noqa: E731
    assert skip(graph, y, passes) == pooled
    assert skip(graph, y, lambda node: node.op_type == "Reshape") == net.nodes[-3].output[0]
    assert skip(graph, flat, passes) == flat


def test_attributes_have_their_defaults() -> None:
    node = helper.make_node("X", [], [], axes=[1, 2], mode=b"SAME", alpha=0.5)
    assert attribute(node, "axes", None) == [1, 2]
    assert (attribute(node, "mode", b""), attribute(node, "alpha", 1.0), attribute(node, "beta", 2)) == (
        b"SAME",
        0.5,
        2,
    )


@pytest.mark.parametrize(("opset", "least", "expected"), [(11, 13, 13), (13, 13, 13), (17, 13, 17)])
def test_an_opset_is_only_ever_raised(opset: int, least: int, expected: int) -> None:
    net = Net(opset=opset)
    model = net.done(net.flat(net.op("GlobalAveragePool", net.trunk())))
    raised = raise_opset(model, least, "this")
    assert [o.version for o in raised.opset_import] == [expected]
    assert raised is not model and model.opset_import[0].version == opset


def test_a_free_size_names_both_sides(tmp_path: Path) -> None:
    for nhwc, axes in ((False, (2, 3)), (True, (1, 2))):
        net = Net((8, 12), nhwc=nhwc)
        x = net.op("Transpose", net.inputs[0].name, perm=[0, 3, 1, 2]) if nhwc else net.inputs[0].name
        graph = graph_of(net, net.trunk(x=x))
        graph.free_size()
        dims = graph.model.graph.input[0].type.tensor_type.shape.dim
        assert [axis for axis in range(4) if dims[axis].dim_param.startswith("side")] == list(axes)
