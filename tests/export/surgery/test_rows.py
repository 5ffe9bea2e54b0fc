"""Rows that are gathered early equal rows that are gathered late."""

import numpy as np
import onnx
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from simmap.export.surgery.rows import ReadRows

TOKENS, FEATURES = 5, 6
STEPS = ("bias", "rows", "matrix", "softmax", "norm", "heads", "mean", "residual", "attention", "gelu")


class Net:
    """A chain of nodes on (N, 5, 6), and what is needed to look at it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.last = "x"

    def store(self, value: np.ndarray, name: str = "") -> str:
        name = name or f"weight{len(self.weights)}"
        self.weights[name] = value
        return name

    def draw(self, *shape: int) -> str:
        return self.store(self.rng.normal(size=shape).astype(np.float32))

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def step(self, kind: str) -> None:
        x, t, c = self.last, TOKENS, FEATURES
        if kind == "bias":
            x = self.add("Add", x, self.draw(c))
        elif kind == "rows":  # a constant with a row for each token
            x = self.add("Mul", x, self.draw(t, c))
        elif kind == "matrix":
            x = self.add("MatMul", x, self.draw(c, c))
        elif kind == "softmax":
            x = self.add("Softmax", x, axis=int(self.rng.choice([-1, 2, 1])))
        elif kind == "norm":
            x = self.add("LayerNormalization", x, self.draw(c), axis=-1)
        elif kind == "heads":
            x = self.add(
                "Reshape", x, self.store(np.array([[-1, 0], [0, t]][int(self.rng.integers(2))] + [2, 3]))
            )
            x = self.add("Transpose", x, perm=[0, 2, 1, 3])
            x = self.add("Sigmoid", x)
            x = self.add("Transpose", x, perm=[0, 2, 1, 3])
            x = self.add("Reshape", x, self.store(np.array([0, t, c])))
        elif kind == "mean":
            mean = self.add("ReduceMean", x, axes=[2], keepdims=1)
            x = self.add("Sub", x, mean)
        elif kind == "residual":
            x = self.add("Add", x, self.add("Tanh", x))
        elif kind == "attention":
            scores = self.add("MatMul", x, self.add("Transpose", x, perm=[0, 2, 1]))
            x = self.add("MatMul", self.add("Softmax", scores, axis=2), x)
        else:
            x = self.add("Div", x, self.add("Exp", self.add("Neg", x)))
        self.last = x

    def run(self, nodes: list[onnx.NodeProto], outputs: list[str], x: np.ndarray) -> list[np.ndarray]:
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, TOKENS, FEATURES])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return list(session.run(outputs, {"x": x}))


@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    rows=st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=2),
    seed=st.integers(0, 1000),
)
def test_the_rows_are_the_same_wherever_they_are_gathered(
    steps: list[str], rows: list[int], seed: int
) -> None:
    net = Net(seed)
    for kind in steps:
        net.step(kind)
    net.store(np.array(rows), "index")
    whole = list(net.nodes)
    whole.append(helper.make_node("Gather", [net.last, "index"], ["read"], name="read", axis=1))
    one = net.rng.normal(size=(1, TOKENS, FEATURES)).astype(np.float32)
    values = dict(
        zip([n.output[0] for n in whole], net.run(whole, [n.output[0] for n in whole], one), strict=True)
    )
    values["x"] = one
    shapes = {name: value.shape for name, value in {**values, **net.weights}.items()}
    moved = ReadRows(whole, "index", {"read"}, shapes.get, net.weights.get, net.store).moved()
    images = net.rng.normal(size=(3, TOKENS, FEATURES)).astype(np.float32)
    (expected,), (found,) = net.run(whole, ["read"], images), net.run(moved, ["read"], images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    if all(kind in ("bias", "matrix", "norm", "residual", "gelu", "mean", "heads") for kind in steps):
        # nothing in front of the Gathers: they read the input itself
        gathers = [node for node in moved if node.op_type == "Gather"]
        assert gathers and all(node.input[0] == "x" for node in gathers)
