"""The artifact's graph: a batch that the source writes down is freed, and what takes one size only."""

from typing import Any

import numpy as np
import onnx
import pytest

import networks
from networks import Net
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ExportError
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.exposing import expose
from simmap.export.surgery.graph import Graph, plain_session


def exposed(model: onnx.ModelProto, *, dynamic: bool = False, **flags: Any) -> onnx.ModelProto:
    graph = Graph(model, name="net", size=None)
    spec = InputSpec(
        height=graph.size[0], width=graph.size[1], dynamic=dynamic, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
    )
    return expose(graph, analyse(graph, **flags), spec)


def check_batches(model: onnx.ModelProto) -> None:
    """Three photos at once give what each gives alone."""
    session = plain_session(model)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = (3, dims[1].dim_value, dims[2].dim_value, 3)
    images = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    for name in (output.name for output in model.graph.output):
        (whole,) = session.run([name], {"image": images})
        alone = [session.run([name], {"image": image[None]})[0] for image in images]
        np.testing.assert_allclose(whole, np.concatenate(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("allowzero", [None, 0, 1])
def test_a_reshape_that_writes_the_batch_down_keeps_the_batch(allowzero: int | None) -> None:
    model = networks.shuffle().model
    for node in model.graph.node:
        if node.op_type == "Reshape" and allowzero is not None:
            node.attribute.append(onnx.helper.make_attribute("allowzero", allowzero))
    check_batches(exposed(model))


def test_a_side_that_is_left_to_the_runtime_may_stand_beside_the_batch() -> None:
    net = Net(batch=1)
    x = net.op("Relu", net.op("Reshape", net.trunk(), net.ints(1, 8, -1, 8)))
    out = net.flat(net.op("GlobalAveragePool", x))
    check_batches(exposed(net.done(out)))
    # With allowzero no 0 keeps the axis, and two sides cannot be left: this stays for the gate to refuse.
    (reshape,) = (node for node in net.nodes if node.op_type == "Reshape")
    reshape.attribute.append(onnx.helper.make_attribute("allowzero", 1))
    model = exposed(net.done(out))
    assert next(node for node in model.graph.node if node.op_type == "Reshape").input[1] == reshape.input[1]


def test_a_shape_of_more_images_or_made_of_the_input_is_left_as_it_is() -> None:
    net = Net(batch=1)
    x = net.trunk()
    halves = net.op("Reshape", x, net.ints(2, 4, 8, 8))  # two rows for one image
    x = net.op("Relu", net.op("Reshape", halves, net.op("Shape", x)))
    model = exposed(net.done(net.flat(net.op("GlobalAveragePool", x))))
    shapes = {w.name: onnx.numpy_helper.to_array(w).tolist() for w in model.graph.initializer}
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    assert shapes[reshapes[0].input[1]] == [2, 4, 8, 8]
    assert reshapes[1].input[1] not in shapes


@pytest.mark.parametrize("axis", [1, -2])
def test_a_constant_beside_the_images_is_repeated_for_each(axis: int) -> None:
    # Register tokens that are written down once; the mean of all tokens is the embedding.
    net = Net((8, 12))
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    x = net.op("Concat", net.store(net.draw(1, 2, 8)), x, net.store(net.draw(1, 1, 8)), axis=axis)
    x = net.op("Relu", net.op("MatMul", x, net.store(net.draw(8, 8))))
    out = net.op("ReduceMean", x, axes=[1], keepdims=0)
    check_batches(exposed(net.done(out)))


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (networks.arc_face, "pooling 'flatten' has a weight for each place"),
        (networks.mobile_face, "pooling 'weights' has a weight for each place"),
        (networks.attended, "its attention pooling has a position for each place"),
        (networks.summed, r"the head reads 36 times the average .*, which changes with the size"),
        (networks.class_token, "is a transformer, whose position embeddings fix the number"),
    ],
)
def test_what_takes_one_size_only_is_refused_as_dynamic(build: Any, told: str) -> None:
    exposed(build().model)
    with pytest.raises(ExportError, match=told):
        exposed(build().model, dynamic=True)


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum"])
def test_a_sum_without_a_head_may_have_any_size(kind: str) -> None:
    # The artifact has the average, whose direction is the sum's.
    net = Net(opset=13)
    model = exposed(net.done(net.reduce(kind, net.trunk(), [2, 3], keep=0)), dynamic=True)
    session = plain_session(model)
    image = np.random.default_rng(0).integers(0, 256, size=(1, 16, 16, 3), dtype=np.uint8)
    conv, pooled = session.run(["conv", "pooled"], {"image": image})
    np.testing.assert_allclose(pooled, conv.mean(axis=(2, 3)), rtol=1e-5)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in sides] == ["N", "height", "width", ""] and sides[3].dim_value == 3


def test_a_head_behind_an_average_may_have_any_size() -> None:
    session = plain_session(exposed(networks.tail("Flatten", "Gemm").model, dynamic=True))
    image = np.random.default_rng(0).integers(0, 256, size=(1, 20, 12, 3), dtype=np.uint8)
    conv, pooled = session.run(["conv", "pooled"], {"image": image})
    np.testing.assert_allclose(pooled, conv.mean(axis=(2, 3)), rtol=1e-5)


def test_shapes_are_told_where_they_are_known() -> None:
    model = exposed(networks.tail("Flatten", "Gemm").model)
    shapes = {
        o.name: [d.dim_value or d.dim_param for d in o.type.tensor_type.shape.dim] for o in model.graph.output
    }
    assert shapes == {
        "conv": ["N", 8, 8, 8], "pooled": ["N", 8], "embedding": ["N", 6], "parts": ["N", 8, 8, 6]
    }  # fmt: skip
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dims] == ["N", 16, 16, 3]


def test_the_input_is_normalised_as_the_spec_says() -> None:
    net = Net((4, 4))
    x = net.op("Identity", net.inputs[0].name)
    model = exposed(net.done(net.flat(net.op("GlobalAveragePool", net.op("Mul", x, net.store(2.0))))))
    image = np.random.default_rng(0).integers(0, 256, size=(2, 4, 4, 3), dtype=np.uint8)
    (conv,) = plain_session(model).run(["conv"], {"image": image})
    expected = 2 * (image / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.25, 0.3])
    np.testing.assert_allclose(conv, expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
