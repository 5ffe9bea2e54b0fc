"""Functions of single numbers in ONNX graphs: which there are, and what they give."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

# Each output number depends on the input numbers at its own place alone.
FUNCTIONS = {
    "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max",
    "Min", "Mish", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid", "Softplus", "Softsign",
    "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip


def evaluate(
    node: onnx.NodeProto, inputs: Sequence[npt.NDArray[Any] | None], opset: int
) -> list[npt.NDArray[Any]]:
    """The outputs of a single node for the values of its inputs, in their own precision.

    Args:
        node: of the default domain, without subgraphs.
        inputs: in the node's order; None for one that is left out.
        opset: of the graph that the node comes from.
    """
    names = ["" if value is None else f"input{at}" for at, value in enumerate(inputs)]
    outputs = [f"output{at}" for at, _ in enumerate(node.output)]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:], copy.output[:] = names, outputs
    # The evaluator reads neither type nor shape.
    entries = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in names if name]
    exits = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs]
    graph = helper.make_graph([copy], "one", entries, exits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feed = {name: value for name, value in zip(names, inputs, strict=True) if name}
    with np.errstate(all="ignore"):  # a logarithm of 0 is its caller's to judge
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]


def is_zero_at_zero(
    node: onnx.NodeProto, inputs: Sequence[npt.NDArray[Any] | None], at: int, opset: int
) -> bool:
    """Whether the function gives 0 where its input number ``at`` is 0, whatever its constants."""
    given = [np.zeros_like(v) if k == at and v is not None else v for k, v in enumerate(inputs)]
    return not evaluate(node, given, opset)[0].any()
